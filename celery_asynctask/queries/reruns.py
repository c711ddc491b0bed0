"""Queries before a rerun: earlier reruns of a task, and the routing key that it came with."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

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

    by_task: Mapping[str, Sequence[Rerun]]
    """Reruns by the id of their task, newest first; tasks without reruns are left out."""
    looked_back_to: dt.datetime | None
    """Only tasks created at that time or later were looked at. None: all of them."""


def reruns(reader: Reader, session: Session, tasks: Sequence[AsyncTask], *, limit: int | None = None) -> Reruns:
    """The reruns of some tasks, among the ``limit`` newest candidates; None: `MAX_SCANNED`."""
    by_task: dict[str, list[Rerun]] = {}
    if not tasks:
        return Reruns(by_task, None)
    name_of = {task.celery_task_id: task.name for task in tasks}
    names = set(name_of.values())
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
    ).with_only_columns(AsyncTask.celery_task_id, AsyncTask.created_at, AsyncTask.name, AsyncTask.content)
    for row in session.execute(statement.order_by(*NEWEST.terms)):
        original = row.content[RERUN_OF]
        if isinstance(original, str) and name_of.get(original) == row.name:
            by_task.setdefault(original, []).append(Rerun(row.celery_task_id, row.created_at))
    return Reruns(by_task, bound.created_at if bound is not None else None)


def routing_keys(session: Session, tasks: Sequence[AsyncTask]) -> dict[str, str]:
    """The routing key of the latest attempt of each task, by task id; tasks without a known one are left out."""
    statement = (
        select(AsyncTaskAttempt.celery_task_id, AsyncTaskAttempt.queue)
        .where(AsyncTaskAttempt.celery_task_id.in_([task.celery_task_id for task in tasks]))
        .order_by(AsyncTaskAttempt.run_key)
    )
    return {row[0]: row[1] for row in session.execute(statement) if row[1] is not None}
