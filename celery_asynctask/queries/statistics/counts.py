"""How many tasks of which status a filter finds, among the newest: bounded, so that it may stand above every page."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy import and_, case, func, select, true
from sqlalchemy.orm import Session

from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.search.condition import conditions
from celery_asynctask.queries.search.filter import Filter
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
    newest: Any = reader.tasks().with_only_columns(
        AsyncTask.status,
        AsyncTask.created_at,
        case((and_(true(), *wanted.scanned), 1), else_=0).label("matches"),
    )
    newest = newest.where(*wanted.indexed).order_by(AsyncTask.created_at.desc(), AsyncTask.id.desc())
    one = newest.limit(most).subquery()
    columns = one.c.status, func.sum(one.c.matches), func.count(), func.min(one.c.created_at)
    grouped = session.execute(select(*columns).group_by(one.c.status)).all()
    found = {status: int(matches) for status, matches, _, _ in grouped}
    looked_back_to = None
    if sum(count for _, _, count, _ in grouped) == most:
        first = min(at for _, _, _, at in grouped)
        others = newest.with_only_columns(AsyncTask.id)
        # The first is quick, and the second finds what was asked for at that very moment.
        behind = others.order_by(None).where(AsyncTask.created_at < first).limit(1), others.offset(most).limit(1)
        if any(session.execute(one).first() is not None for one in behind):
            looked_back_to = first
    return Counts({status: found.get(status, 0) for status in AsyncTaskStatus}, looked_back_to)
