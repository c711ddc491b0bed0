"""How many tasks there are of which status: of those that a filter finds, and of those that have not ended. Bounded, so
that it may stand above every page."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Final, NamedTuple

from sqlalchemy import case, func, literal, select, union_all
from sqlalchemy.orm import Session

from celery_asynctask.core.status import TERMINAL, AsyncTaskStatus
from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.search.condition import conditions
from celery_asynctask.queries.search.filter import Filter
from celery_asynctask.queries.search.order import NEWEST
from celery_asynctask.queries.statistics.measures import looked_back_to, total
from celery_asynctask.store.models import AsyncTask

MAX_COUNTED: Final = 4_000
"""Tasks that are looked at."""
MAX_BACKLOG: Final = 10_000
"""Tasks of one status that are counted; where there are so many, there may be more."""
COUNTED: Final = (*(status for status in AsyncTaskStatus if status not in TERMINAL), AsyncTaskStatus.LOST)


class Counts(NamedTuple):
    """What was counted."""

    by_status: Mapping[AsyncTaskStatus, int]
    """Of all statuses, 0 too."""
    looked_back_to: dt.datetime | None
    """It was bounded: it looked at tasks asked for down to that time, and at none before. None: at all."""


def counts(reader: Reader, session: Session, search: Filter, *, limit: int = MAX_COUNTED) -> Counts:
    """How many tasks the filter finds among the newest ``most`` that its indexed terms lead to."""
    wanted = conditions(search, reader.dialect)
    columns = AsyncTask.status, AsyncTask.created_at, case((wanted.matches, 1), else_=0).label("matches")
    newest = reader.seen(select(*columns)).where(*wanted.indexed).order_by(*NEWEST.terms)
    one = newest.limit(limit).subquery()
    counted = select(
        one.c.status,
        total(one.c.matches).label("tasks"),
        func.count().label("looked_at"),
        func.min(one.c.created_at).label("first"),
    )
    rows = session.execute(counted.group_by(one.c.status)).all()
    found = {row.status: row.tasks for row in rows}
    by_status = {status: found.get(status, 0) for status in AsyncTaskStatus}
    return Counts(by_status, looked_back_to(session, newest, rows, limit))


def backlog(reader: Reader, session: Session, *, limit: int = MAX_BACKLOG) -> Mapping[AsyncTaskStatus, int]:
    """How many tasks of each status in `COUNTED` there are, ``most`` at most: an index alone tells."""
    each = []
    for status in COUNTED:
        one = reader.seen(select(AsyncTask.status)).where(AsyncTask.status == status).limit(limit).subquery()
        each.append(select(literal(status.value).label("status"), func.count().label("tasks")).select_from(one))
    found = {row.status: row.tasks for row in session.execute(union_all(*each))}
    return {status: found[status.value] for status in COUNTED}


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
    """Whether there is no task at all."""
    return session.execute(reader.seen(select(AsyncTask.id)).limit(1)).first() is None
