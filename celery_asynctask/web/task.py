"""The task that an address means."""

from __future__ import annotations

from typing import overload

from celery_asynctask.queries.task import exact, number_of
from celery_asynctask.queries.types import Connection, Session, TaskColumns, TaskRow
from celery_asynctask.store.models import AsyncTask
from celery_asynctask.web.problem import not_found
from celery_asynctask.web.service import Caller


@overload
def found_task(caller: Caller, session: Session, task_id: str) -> AsyncTask: ...
@overload
def found_task(caller: Caller, session: Session | Connection, task_id: str, columns: TaskColumns) -> TaskRow: ...
def found_task(
    caller: Caller, session: Session | Connection, task_id: str, columns: TaskColumns | None = None
) -> AsyncTask | TaskRow:
    """The task, or its columns. Raises `ProblemError`."""
    found: AsyncTask | TaskRow | None = exact(caller.reader, session, task_id, number_of(task_id), columns)
    if found is None:
        raise not_found(f"There is no task {task_id[:80]!r}.")
    return found
