"""What passes between the queries and those who show what they find, for its types: sessions, and rows of tasks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any, Protocol

from sqlalchemy import Connection, Select
from sqlalchemy.orm import Session

from celery_asynctask.core.status import AsyncTaskStatus

__all__ = ["AttemptRow", "Connection", "EvidentTask", "PageRow", "Session", "TaskColumns", "TaskLike", "TaskRow"]

TaskColumns = Select[Any]
"""What finds rows of tasks: `reader.task_columns`."""


class TaskLike(Protocol):
    """A task: an `AsyncTask`, or a `TaskRow`."""

    id: int
    created_by_name: str | None
    name: str
    created_at: dt.datetime
    status: AsyncTaskStatus
    error_message: str | None
    error_type: str | None
    retries: int
    completed_at: dt.datetime | None
    started_at: dt.datetime | None
    celery_task_id: str
    root_task_id: str | None
    parent_task_id: str | None
    trace_id: str | None
    span_id: str | None
    customer: int | None
    created_by: int | None


class TaskRow(TaskLike, Protocol):
    """Columns of a task, in their order, as `reader.task_columns` selects them."""

    task_args: str | None
    """JSON, as the next three; none of them is there where no values are asked for."""
    task_kwargs: str | None
    result: str | None
    content: str | None

    def __iter__(self) -> Iterator[Any]: ...


class EvidentTask(TaskLike, Protocol):
    """A task of which `diagnosis` tells: an `AsyncTask`, or a `PageRow`."""

    order_key: str


class PageRow(TaskRow, EvidentTask, Protocol):
    """As `task.of_page` selects them."""


class AttemptRow(Protocol):
    """Columns of an attempt, in their order, as `reader.attempt_columns` selects them."""

    attempt: int
    celery_task_id: str

    def __iter__(self) -> Iterator[Any]: ...
