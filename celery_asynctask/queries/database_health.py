"""How a database is doing: whether it answers, how fast, what time it has, whether our tables may be read, and how much
room they take."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from sqlalchemy import bindparam, select, text
from sqlalchemy.orm import Session

from celery_asynctask.queries.reader import Reader, schema_problem, schema_version
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt, AsyncTaskSource, Base

_CLOCKS: Final = {
    "postgresql": "SELECT clock_timestamp()",
    "mysql": "SELECT UTC_TIMESTAMP(6)",
    "mariadb": "SELECT UTC_TIMESTAMP(6)",
}
"""SQLite has no clock of its own: it is in this process."""
_TABLES: Final = sorted(Base.metadata.tables)
_POSTGRESQL: Final = text(
    "SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE oid IN "
    f"({', '.join(f'to_regclass({name!r})' for name in _TABLES)})"
)
_MYSQL: Final = text(
    "SELECT table_name, data_length + index_length FROM information_schema.tables "
    "WHERE table_schema = DATABASE() AND table_name IN :tables"
).bindparams(bindparam("tables", _TABLES, expanding=True))


class DatabaseHealth(NamedTuple):
    """What was found. Times are in seconds."""

    dialect: str
    connect: float
    """How long a connection took."""
    answer: float
    """How long the shortest question takes: the least of three times, since one alone tells of what else the two hosts
    were doing."""
    skew: float | None
    """By how much the database's clock is ahead of ours; None: it is ours."""
    version: str | None
    """Of our tables; None: there are none."""
    problem: str
    """Why this code cannot work with those tables, as `reader.schema_problem`; empty: it can."""


def database_health(reader: Reader) -> DatabaseHealth:
    """Raises `StoreError` where the database cannot be reached."""
    began = time.perf_counter()
    with reader.session() as session:
        connection = session.connection()
        connected = time.perf_counter()
        answer = min(_answer(session) for _ in range(3))
        skew = _skew(session, reader.dialect)
        version, problem = schema_version(connection), schema_problem(connection)
    return DatabaseHealth(reader.dialect, connected - began, answer, skew, version, problem)


def _answer(session: Session) -> float:
    began = time.perf_counter()
    session.execute(select(1)).all()
    return time.perf_counter() - began


def read_all(reader: Reader) -> None:
    """Read a little of each of our tables. Raises `StoreError` where that is not allowed."""
    with reader.session() as session:
        for column in (AsyncTask.id, AsyncTaskAttempt.id, AsyncTaskSource.source):
            session.execute(select(column).limit(1)).all()


def _skew(session: Session, dialect: str) -> float | None:
    """As seen in the middle of the question."""
    if dialect not in _CLOCKS:
        return None
    before = dt.datetime.now(dt.timezone.utc)
    there: dt.datetime = session.execute(text(_CLOCKS[dialect])).scalar_one()
    after = dt.datetime.now(dt.timezone.utc)
    if there.tzinfo is None:
        there = there.replace(tzinfo=dt.timezone.utc)
    return (there - before - (after - before) / 2).total_seconds()


class Size(NamedTuple):
    """Bytes."""

    total: int
    tables: Mapping[str, int]
    """Of each table with its indexes, the largest first; empty where only the whole is known."""


def size(session: Session) -> Size | None:
    """None where it cannot be told. SQLite tells that of its file, whatever else is in it; MySQL about when it last
    counted."""
    dialect = session.get_bind().dialect.name
    if dialect == "sqlite":
        pages, each = (session.execute(text(f"PRAGMA {name}")).scalar_one() for name in ("page_count", "page_size"))
        return Size(pages * each, {})
    if dialect not in ("postgresql", "mysql", "mariadb"):
        return None
    rows = session.execute(_POSTGRESQL if dialect == "postgresql" else _MYSQL).all()
    tables = {str(name): int(length) for name, length in rows if length is not None}
    largest_first = sorted(tables, key=lambda name: (-tables[name], name))
    return Size(sum(tables.values()), {name: tables[name] for name in largest_first}) if tables else None
