"""What is asked before a task is sent again: whether it was before, and which way it came."""

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
"""Key of the content of a task that was sent again: the id of the one that it repeats."""
_MOST_NAMES: Final = 20
"""Names of tasks that the search is narrowed to."""


class Rerun(NamedTuple):
    """A task that was sent again before."""

    celery_task_id: str
    """Of the new execution."""
    created_at: dt.datetime


class Reruns(NamedTuple):
    """What was found."""

    by_task: Mapping[str, Sequence[Rerun]]
    """Reruns of each of the tasks, newest first; a task that has none is not in it."""
    looked_back_to: dt.datetime | None
    """The search was bounded: it looked at tasks asked for down to that time, and at none before. None: at all."""


def reruns(reader: Reader, session: Session, tasks: Sequence[AsyncTask], *, limit: int | None = None) -> Reruns:
    """The reruns of some tasks among the ``limit`` newest tasks that may be ones; None: `MAX_SCANNED`."""
    found: dict[str, list[Rerun]] = {}
    if not tasks:
        return Reruns(found, None)
    name_of = {task.celery_task_id: task.name for task in tasks}
    names = set(name_of.values())
    newest = reader.tasks().where(AsyncTask.created_at >= min(task.created_at for task in tasks))
    if len(names) <= _MOST_NAMES:
        newest = newest.where(AsyncTask.name.in_(sorted(names)))
    bound = last_of_first(session, newest, MAX_SCANNED if limit is None else limit)
    if bound is not None:
        newest = newest.where(bound.upto())
    # What a rerun starts inherits its content, and is none itself.
    asked = newest.where(
        AsyncTask.root_task_id == AsyncTask.celery_task_id,
        at_path(AsyncTask.content, (RERUN_OF,), Value("any"), reader.dialect),
    ).with_only_columns(AsyncTask.celery_task_id, AsyncTask.created_at, AsyncTask.name, AsyncTask.content)
    for row in session.execute(asked.order_by(*NEWEST.terms)):
        original = row.content[RERUN_OF]
        if isinstance(original, str) and name_of.get(original) == row.name:
            found.setdefault(original, []).append(Rerun(row.celery_task_id, row.created_at))
    return Reruns(found, bound.created_at if bound is not None else None)


def routing_keys(session: Session, tasks: Sequence[AsyncTask]) -> dict[str, str]:
    """The routing key that the latest run of each task came with, as far as one is known."""
    asked = (
        select(AsyncTaskAttempt.celery_task_id, AsyncTaskAttempt.queue)
        .where(AsyncTaskAttempt.celery_task_id.in_([task.celery_task_id for task in tasks]))
        .order_by(AsyncTaskAttempt.run_key)
    )
    return {row[0]: row[1] for row in session.execute(asked) if row[1] is not None}
