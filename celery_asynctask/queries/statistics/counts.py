"""The number of tasks by status: of those that a filter finds, and of those that have not ended. It is bounded, so that
every page can show it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Final, NamedTuple

from sqlalchemy import case, func, literal, select, union_all
from sqlalchemy.orm import Session

from celery_asynctask.core.status import SHOWN, TERMINAL, AsyncTaskStatus
from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.search.condition import conditions
from celery_asynctask.queries.search.filter import Filter
from celery_asynctask.queries.search.order import NEWEST
from celery_asynctask.queries.statistics.measures import looked_back_to, total
from celery_asynctask.store.models import AsyncTask

MAX_COUNTED: Final = 4_000
"""Tasks that are looked at."""
MAX_BACKLOG: Final = 10_000
"""Tasks of one status that are counted; if that many are counted, there may be more."""
COUNTED: Final = (*(status for status in SHOWN if status not in TERMINAL), AsyncTaskStatus.LOST)
"""Statuses of the backlog."""


class Counts(NamedTuple):
    """The number of tasks by status."""

    by_status: Mapping[AsyncTaskStatus, int]
    """All statuses that are shown, also those with no task."""
    looked_back_to: dt.datetime | None
    """Only tasks created at that time or later were looked at. None: all of them."""


def counts(reader: Reader, session: Session, search: Filter, *, limit: int = MAX_COUNTED) -> Counts:
    """The number of tasks that the filter finds among the newest ``limit`` that its indexed terms lead to."""
    wanted = conditions(search, reader.dialect, reader.scope)
    columns = AsyncTask.status, AsyncTask.created_at, case((wanted.matches, 1), else_=0).label("matches")
    newest = reader.seen(select(*columns)).where(*wanted.indexed).order_by(*NEWEST.terms)
    task = newest.limit(limit).subquery()
    counted = select(
        task.c.status,
        total(task.c.matches).label("tasks"),
        func.count().label("looked_at"),
        func.min(task.c.created_at).label("first"),
    )
    rows = session.execute(counted.group_by(task.c.status)).all()
    numbers = {row.status: row.tasks for row in rows}
    by_status = {status: numbers.get(status, 0) for status in SHOWN}
    return Counts(by_status, looked_back_to(session, newest, rows, limit))


def backlog(reader: Reader, session: Session, *, limit: int = MAX_BACKLOG) -> Mapping[AsyncTaskStatus, int]:
    """The number of tasks of each status in `COUNTED`, counted up to ``limit``. Only an index is read."""
    selects = []
    for status in COUNTED:
        task = reader.seen(select(AsyncTask.status)).where(AsyncTask.status == status).limit(limit).subquery()
        selects.append(select(literal(status.value).label("status"), func.count().label("tasks")).select_from(task))
    numbers = {row.status: row.tasks for row in session.execute(union_all(*selects))}
    return {status: numbers[status.value] for status in COUNTED}


LOST_RECENTLY: Final = dt.timedelta(days=1)
"""For how long a lost task counts as recent: after that it no longer alarms."""


class LostCounts(NamedTuple):
    """How many tasks are lost."""

    recent: int
    total: int
    bounded: bool
    """Whether only the newest were counted, so that there may be more of both."""


def lost_counts(reader: Reader, session: Session, since: dt.datetime, *, limit: int = MAX_BACKLOG) -> LostCounts:
    """How many tasks are lost, and how many of them were found lost at ``since`` or later; ``limit`` at most."""
    lost = reader.seen(select(AsyncTask.completed_at)).where(AsyncTask.status == AsyncTaskStatus.LOST)
    newest = lost.order_by(AsyncTask.status.desc(), AsyncTask.created_at.desc()).limit(limit).subquery()
    recent = total(case((newest.c.completed_at >= since, 1), else_=0))
    row = session.execute(select(recent.label("recent"), func.count().label("total")).select_from(newest)).one()
    return LostCounts(row.recent or 0, row.total, row.total >= limit)


def is_empty(reader: Reader, session: Session) -> bool:
    """Whether the reader sees no task at all."""
    return session.execute(reader.seen(select(AsyncTask.id)).limit(1)).first() is None
