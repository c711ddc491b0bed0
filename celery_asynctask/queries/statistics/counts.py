"""How many tasks of which status a filter finds, among the newest: bounded, so that it may stand above every page."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Final, NamedTuple

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.search.condition import conditions
from celery_asynctask.queries.search.filter import Filter
from celery_asynctask.queries.search.order import NEWEST
from celery_asynctask.queries.statistics.measures import looked_back_to
from celery_asynctask.store.models import AsyncTask

MOST_COUNTED: Final = 4_000
"""Tasks that are looked at."""


class Counts(NamedTuple):
    """What was counted."""

    by_status: Mapping[AsyncTaskStatus, int]
    """Of all statuses, 0 too."""
    looked_back_to: dt.datetime | None
    """It was bounded: it looked at tasks asked for down to that time, and at none before. None: at all."""


def counts(reader: Reader, session: Session, search: Filter, *, most: int = MOST_COUNTED) -> Counts:
    """How many tasks the filter finds among the newest ``most`` that its indexed terms lead to."""
    wanted = conditions(search, reader.dialect)
    columns = AsyncTask.status, AsyncTask.created_at, case((wanted.matches, 1), else_=0).label("matches")
    newest = reader.seen(select(*columns)).where(*wanted.indexed).order_by(*NEWEST.terms)
    one = newest.limit(most).subquery()
    counted = select(
        one.c.status,
        func.sum(one.c.matches).label("tasks"),
        func.count().label("looked_at"),
        func.min(one.c.created_at).label("first"),
    )
    rows = session.execute(counted.group_by(one.c.status)).all()
    found = {row.status: int(row.tasks) for row in rows}
    by_status = {status: found.get(status, 0) for status in AsyncTaskStatus}
    return Counts(by_status, looked_back_to(session, newest, rows, most))
