"""The entries of the audit, newest first, page by page."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, select

from celery_asynctask.core.limits import MAX_NAME
from celery_asynctask.core.text import one_line
from celery_asynctask.queries.reader import Reader
from celery_asynctask.store.tables import async_task_audit

MAX_ROWS: Final = 1000
"""Entries of one page."""
_entry: Final = async_task_audit.c


class Page(NamedTuple):
    """One page of entries."""

    entries: Sequence[Row[Any]]
    """Rows of `async_task_audit`."""
    next: int | None
    """``before`` of the next page; None: this is the last one."""


def page(
    reader: Reader,
    *,
    since: dt.datetime | None = None,
    actor: str | None = None,
    action: str | None = None,
    before: int | None = None,
    limit: int = 50,
) -> Page:
    """At most ``limit`` (1 to `MAX_ROWS`) entries: of this time or later, of this actor, of this action, with an id
    lower than ``before``. Entries belong to no customer: the caller must be allowed to see all. Raises `StoreError`."""
    limit = max(1, min(limit, MAX_ROWS))
    statement = select(async_task_audit).order_by(_entry.id.desc()).limit(limit + 1)
    if since is not None:
        statement = statement.where(_entry.at >= since)
    if actor is not None:
        statement = statement.where(_entry.actor == one_line(actor)[:MAX_NAME])  # as it was written
    if action is not None:
        statement = statement.where(_entry.action == action)
    if before is not None:
        statement = statement.where(_entry.id < before)
    with reader.connection() as connection:
        rows = connection.execute(statement).all()
    return Page(rows[:limit], rows[limit - 1].id if len(rows) > limit else None)
