"""How a database is doing: whether it answers, how fast, what time it has, and whether our tables may be read."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any, Final, NamedTuple

from sqlalchemy import select, text

from celery_asynctask.queries.reader import Reader, schema_problem, schema_version
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt, AsyncTaskSource

_CLOCKS: Final = {
    "postgresql": "SELECT clock_timestamp()",
    "mysql": "SELECT UTC_TIMESTAMP(6)",
    "mariadb": "SELECT UTC_TIMESTAMP(6)",
}
"""SQLite has no clock of its own: it is in this process."""


class Vitals(NamedTuple):
    """What was found. Times are in seconds."""

    dialect: str
    connect: float
    """How long a connection took."""
    answer: float
    """How long the shortest question takes."""
    skew: float | None
    """By how much the database's clock is ahead of ours; None: it is ours."""
    version: str | None
    """Of our tables; None: there are none."""
    problem: str
    """Why this code cannot work with those tables, as `reader.schema_problem`; empty: it can."""


def vitals(reader: Reader) -> Vitals:
    """Raises `StoreError` where the database cannot be reached."""
    began = time.perf_counter()
    with reader.session() as session:
        connection = session.connection()
        connected = time.perf_counter()
        session.execute(select(1)).all()
        answered = time.perf_counter()
        skew = _skew(session, reader.dialect)
        version, problem = schema_version(connection), schema_problem(connection)
    return Vitals(reader.dialect, connected - began, answered - connected, skew, version, problem)


def read_all(reader: Reader) -> None:
    """Read a little of each of our tables. Raises `StoreError` where that is not allowed."""
    with reader.session() as session:
        for column in (AsyncTask.id, AsyncTaskAttempt.id, AsyncTaskSource.source):
            session.execute(select(column).limit(1)).all()


def _skew(session: Any, dialect: str) -> float | None:
    """As seen in the middle of the question."""
    if dialect not in _CLOCKS:
        return None
    before = dt.datetime.now(dt.timezone.utc)
    there: dt.datetime = session.execute(text(_CLOCKS[dialect])).scalar_one()
    after = dt.datetime.now(dt.timezone.utc)
    if there.tzinfo is None:
        there = there.replace(tzinfo=dt.timezone.utc)
    return (there - before - (after - before) / 2).total_seconds()
