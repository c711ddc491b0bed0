"""Counting the changes of a store; see `AsyncTaskRevision`."""

from __future__ import annotations

from sqlalchemy import Connection, update

from celery_asynctask.store.tables import async_task_revision

_ADVANCE = update(async_task_revision).values(revision=async_task_revision.c.revision + 1)


def advance(connection: Connection) -> None:
    """Count one more. The last statement of a transaction: all writers wait for this row, from here to the commit
    before theirs, and none that has it waits for another."""
    connection.execute(_ADVANCE)
