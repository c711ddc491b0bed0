"""Types that the queries share with those who show their results: sessions, and rows of tasks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any, NewType, Protocol

from sqlalchemy import Connection, Select
from sqlalchemy.orm import Session

from celery_asynctask.core.status import AsyncTaskStatus

__all__ = [
    "AttemptRow",
    "Connection",
    "EvidentTask",
    "ListColumns",
    "ListRow",
    "ListedTask",
    "OwnedTask",
    "PageColumns",
    "PageRow",
    "Session",
    "TaskColumns",
    "TaskLike",
    "TaskRow",
]

TaskColumns = Select[Any]
"""A SELECT of `TaskRow`: `reader.task_columns`."""
ListColumns = NewType("ListColumns", Select[Any])
"""A SELECT of `ListRow`: `task.of_list`."""
PageColumns = NewType("PageColumns", Select[Any])
"""A SELECT of `PageRow`: `task.of_page`."""


class TaskLike(Protocol):
    """A task: an `AsyncTask` or a `TaskRow`."""

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
    """The columns of a task, in the order in which `reader.task_columns` selects them."""

    task_args: str | None
    """JSON text, as the next three are; all four are absent if the values were not selected."""
    task_kwargs: str | None
    result: str | None
    content: str | None

    def __iter__(self) -> Iterator[Any]: ...


class OwnedTask(Protocol):
    """A task by what identifies its row: an `AsyncTask`, a `ListRow` or a `Member`."""

    @property
    def celery_task_id(self) -> str: ...
    @property
    def customer_key(self) -> str: ...


class ListedTask(TaskLike, Protocol):
    """A task with whose it is: an `AsyncTask` or a `ListRow`."""

    customer_key: str
    created_by_key: str | None


class EvidentTask(ListedTask, Protocol):
    """A task that `diagnosis` can explain: an `AsyncTask` or a `PageRow`."""

    holder: str | None
    order_key: str


class ListRow(TaskRow, ListedTask, Protocol):
    """The columns of a task that `task.of_list` selects."""


class PageRow(ListRow, EvidentTask, Protocol):
    """The columns of a task that `task.of_page` selects."""


class AttemptRow(Protocol):
    """The columns of an attempt, in the order in which `reader.attempt_columns` selects them, the attempt key last."""

    attempt: int
    run_key: str

    def __iter__(self) -> Iterator[Any]: ...
