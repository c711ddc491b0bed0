"""The task that an address means."""

from __future__ import annotations

from typing import Any

from celery_asynctask.queries.task import exact, number_of
from celery_asynctask.web.problem import not_found
from celery_asynctask.web.service import Caller


def found_task(caller: Caller, session: Any, task_id: str, columns: Any = None) -> Any:
    """The task, or its columns. Raises `ProblemError`."""
    found = exact(caller.reader, session, task_id, number_of(task_id), columns)
    if found is None:
        raise not_found(f"There is no task {task_id[:80]!r}.")
    return found
