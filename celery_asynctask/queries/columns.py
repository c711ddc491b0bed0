"""The columns of a row, JSON as the text that the database has: as exact as it was stored, and not parsed to be made
text again."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from sqlalchemy import DateTime, Select, Text, cast, func, literal_column, select, type_coerce
from sqlalchemy.types import JSON

from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt
from celery_asynctask.store.tables import UTCDateTime

VALUES: Final = ("task_args", "task_kwargs", "result", "content")
"""Columns of `AsyncTask` with what the user's code was given, or gave."""
TASK: Final = (
    "id",
    "created_by_name",
    "name",
    "created_at",
    "status",
    "error_message",
    "error_type",
    "retries",
    "completed_at",
    "started_at",
    "celery_task_id",
    "root_task_id",
    "parent_task_id",
    "trace_id",
    "span_id",
    *VALUES,
    "customer",
    "created_by",
)
ATTEMPT: Final = (
    "attempt",
    "name",
    "retries",
    "redelivered",
    "published_at",
    "received_at",
    "eta",
    "started_at",
    "ended_at",
    "outcome",
    "error_type",
    "error_message",
    "traceback",
    "worker",
    "pid",
    "queue",
    "trace_id",
    "span_id",
)


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


def _naive(columns: Any, name: str, dialect: str) -> Any:
    column = getattr(columns, name)
    if dialect != "postgresql" or not isinstance(column.type, UTCDateTime):
        return _column(columns, name, dialect)
    return func.timezone(literal_column("'UTC'"), column, type_=DateTime()).label(name)


def _column(columns: Any, name: str, dialect: str) -> Any:
    column = getattr(columns, name)
    if not isinstance(column.type, JSON):
        return column
    # PostgreSQL's driver makes Python of JSONB; the others give text, which SQLAlchemy would parse.
    text = cast(column, Text()) if dialect == "postgresql" else type_coerce(column, Text())
    return text.label(name)
