"""The health of a database: whether it answers and how fast, its clock, whether our tables can be read, and their
size."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from sqlalchemy import bindparam, select, text
from sqlalchemy.orm import Session

from celery_asynctask.queries.reader import Reader
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt, AsyncTaskSource, Base
from celery_asynctask.store.schema import schema_problem, schema_version

_CLOCKS: Final = {
    "postgresql": "SELECT clock_timestamp()",
    "mysql": "SELECT UTC_TIMESTAMP(6)",
    "mariadb": "SELECT UTC_TIMESTAMP(6)",
}
"""Statements for the database's clock. SQLite has none of its own: it runs in this process."""
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
    """The health of a database. Durations are in seconds."""

    dialect: str
    """Name of SQLAlchemy's dialect."""
    connect: float
    """Time that connecting took."""
    answer: float
    """Time that the shortest query took: the least of three, because a single one also measures whatever else the two
    hosts are doing."""
    skew: float | None
    """How far the database's clock is ahead of ours; None: it is ours."""
    version: str | None
    """Schema version of our tables; None: there are none."""
    problem: str
    """Why this release cannot work with those tables, as in `schema.schema_problem`; empty: it can."""


def database_health(reader: Reader) -> DatabaseHealth:
    """Measure the database. Raises `StoreError` if it cannot be reached."""
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
    """Read one row of each of our tables. Raises `StoreError` if that is not allowed."""
    with reader.session() as session:
        for column in (AsyncTask.id, AsyncTaskAttempt.id, AsyncTaskSource.source):
            session.execute(select(column).limit(1)).all()


def _skew(session: Session, dialect: str) -> float | None:
    """The database's clock compared with ours at the middle of the query."""
    if dialect not in _CLOCKS:
        return None
    before = dt.datetime.now(dt.timezone.utc)
    clock: dt.datetime = session.execute(text(_CLOCKS[dialect])).scalar_one()
    after = dt.datetime.now(dt.timezone.utc)
    if clock.tzinfo is None:
        clock = clock.replace(tzinfo=dt.timezone.utc)
    return (clock - before - (after - before) / 2).total_seconds()


class Size(NamedTuple):
    """The size of the store, in bytes."""

    total: int
    tables: Mapping[str, int]
    """Size of each table with its indexes, the largest first; empty if only the total is known."""


def size(session: Session) -> Size | None:
    """The size of our tables; None: not known. SQLite gives the size of the whole file, including anything else in it;
    MySQL gives an estimate that it updates from time to time."""
    dialect = session.get_bind().dialect.name
    if dialect == "sqlite":
        pages, length = (session.execute(text(f"PRAGMA {name}")).scalar_one() for name in ("page_count", "page_size"))
        return Size(pages * length, {})
    if dialect not in ("postgresql", "mysql", "mariadb"):
        return None
    rows = session.execute(_POSTGRESQL if dialect == "postgresql" else _MYSQL).all()
    tables = {str(name): int(length) for name, length in rows if length is not None}
    largest_first = sorted(tables, key=lambda name: (-tables[name], name))
    return Size(sum(tables.values()), {name: tables[name] for name in largest_first}) if tables else None
