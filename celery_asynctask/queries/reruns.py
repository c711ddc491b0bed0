"""Queries before a rerun: earlier reruns of a task, and the routing key that it came with."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from celery_asynctask.core.fold import Identity
from celery_asynctask.core.keys import is_of_earlier_execution
from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.search.filter import Value
from celery_asynctask.queries.search.json_path import at_path
from celery_asynctask.queries.search.order import NEWEST
from celery_asynctask.queries.search.page import MAX_SCANNED, last_of_first
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt

RERUN_OF: Final = "rerun_of"
"""Key in the content of a rerun: the id of the task that it repeats."""
_MAX_NAMES: Final = 20
"""Task names that the search can be narrowed to."""


class Rerun(NamedTuple):
    """An earlier rerun of a task."""

    celery_task_id: str
    """Id of the new execution."""
    created_at: dt.datetime


class Reruns(NamedTuple):
    """The earlier reruns of some tasks."""

    by_task: Mapping[Identity, Sequence[Rerun]]
    """Reruns by the id and the customer of their task, newest first; tasks without reruns are left out."""
    looked_back_to: dt.datetime | None
    """Only tasks created at that time or later were looked at. None: all of them."""


def reruns(reader: Reader, session: Session, tasks: Sequence[AsyncTask], *, limit: int | None = None) -> Reruns:
    """The reruns of some tasks, among the ``limit`` newest candidates; None: `MAX_SCANNED`. A rerun is for the same
    customer; one that is older than a task is of an earlier execution under its id."""
    by_task: dict[Identity, list[Rerun]] = {}
    if not tasks:
        return Reruns(by_task, None)
    known = {(task.celery_task_id, task.customer_key): task for task in tasks}
    names = {task.name for task in tasks}
    newest = reader.tasks().where(AsyncTask.created_at >= min(task.created_at for task in tasks))
    if len(names) <= _MAX_NAMES:
        newest = newest.where(AsyncTask.name.in_(sorted(names)))
    bound = last_of_first(session, newest, MAX_SCANNED if limit is None else limit)
    if bound is not None:
        newest = newest.where(bound.upto())
    # Tasks that a rerun starts inherit its content, but are no reruns themselves.
    statement = newest.where(
        AsyncTask.root_task_id == AsyncTask.celery_task_id,
        at_path(AsyncTask.content, (RERUN_OF,), Value("any"), reader.dialect),
    )
    columns = AsyncTask.celery_task_id, AsyncTask.customer_key, AsyncTask.created_at, AsyncTask.name, AsyncTask.content
    for row in session.execute(statement.with_only_columns(*columns).order_by(*NEWEST.terms)):
        identity = row.content[RERUN_OF], row.customer_key
        original = known.get(identity) if isinstance(identity[0], str) else None
        if original is not None and original.name == row.name and original.created_at <= row.created_at:
            by_task.setdefault(identity, []).append(Rerun(row.celery_task_id, row.created_at))
    return Reruns(by_task, bound.created_at if bound is not None else None)


def routing_keys(session: Session, tasks: Sequence[AsyncTask]) -> dict[Identity, str]:
    """The routing key of the latest attempt of each task, by its id and customer; tasks without a known one are left
    out."""
    order_keys = {(task.celery_task_id, task.customer_key): task.order_key for task in tasks}
    attempt = AsyncTaskAttempt
    statement = (
        select(attempt.celery_task_id, attempt.customer_key, attempt.queue, attempt.run_key)
        .where(attempt.celery_task_id.in_(sorted({task.celery_task_id for task in tasks})), attempt.queue.is_not(None))
        .order_by(attempt.run_key)
    )
    return {
        identity: row.queue
        for row in session.execute(statement)
        if (order_key := order_keys.get(identity := (row.celery_task_id, row.customer_key))) is not None
        and not is_of_earlier_execution(row.run_key, order_key)
    }
