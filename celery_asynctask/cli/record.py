"""Rows as the mappings that ``--json`` prints and that are exported: the columns by their names."""

from __future__ import annotations

from typing import Any

from celery_asynctask.core.columns import FOLD_KEYS
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt


def task_of(task: AsyncTask) -> dict[str, Any]:
    """A task, without the keys of the fold."""
    return _row(task)


def attempt_of(attempt: AsyncTaskAttempt, number: int) -> dict[str, Any]:
    """An attempt with its ``number``, from 1."""
    return {"attempt": number, **{name: value for name, value in _row(attempt).items() if name != "id"}}


def _row(row: Any) -> dict[str, Any]:
    names = [column.name for column in row.__table__.columns if column.name not in FOLD_KEYS]
    return {name: getattr(row, name) for name in names}
