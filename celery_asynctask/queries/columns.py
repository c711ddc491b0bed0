"""The columns of a row, JSON as the text that the database has: as exact as it was stored, and not parsed to be made
text again."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from sqlalchemy import DateTime, Select, Text, cast, func, literal_column, select, type_coerce
from sqlalchemy.types import JSON

from celery_asynctask.core import columns
from celery_asynctask.core.columns import VALUES
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt
from celery_asynctask.store.tables import UTCDateTime

TASK: Final = tuple(one.name for one in columns.TASK if one.api is not None)
"""Columns of a task that are shown."""
ATTEMPT: Final = ("attempt", *(one.name for one in columns.ATTEMPT if one.api is not None))
"""As `TASK`, of an attempt; the first is its number, which is counted."""


_TASKS: Final = AsyncTask.__table__.c
"""In place of the attributes of `AsyncTask`, each of which SQLAlchemy compares with that of the statement that it has
compiled, at every execution."""


@cache
def of_task(dialect: str, *, values: bool, naive: bool = False) -> Select[Any]:
    """SELECT of those named in `TASK`; without ``values`` without these. ``naive``: times may come without their zone,
    which is UTC: to give each of a page its zone takes a tenth of the time of an answer."""
    names = [name for name in TASK if values or name not in VALUES]
    return select(*((_naive if naive else _column)(_TASKS, name, dialect) for name in names))


@cache
def of_attempt(dialect: str) -> Select[Any]:
    """SELECT of those named in `ATTEMPT`."""
    return select(*(_column(AsyncTaskAttempt, name, dialect) for name in ATTEMPT))


def _naive(table: Any, name: str, dialect: str) -> Any:
    column = getattr(table, name)
    if dialect != "postgresql" or not isinstance(column.type, UTCDateTime):
        return _column(table, name, dialect)
    return func.timezone(literal_column("'UTC'"), column, type_=DateTime()).label(name)


def _column(table: Any, name: str, dialect: str) -> Any:
    column = getattr(table, name)
    if not isinstance(column.type, JSON):
        return column
    # PostgreSQL's driver makes Python of JSONB; the others give text, which SQLAlchemy would parse.
    text = cast(column, Text()) if dialect == "postgresql" else type_coerce(column, Text())
    return text.label(name)
