"""What the page of a task reads: its row with values as JSON text, some of its attempts, and the workflow around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, defer

from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.queries.reader import Reader, task_columns
from celery_asynctask.queries.types import TaskLike
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt

MOST_COUNTED: Final = 1000
"""Members of a workflow, or children, that are counted."""
MOST_CHILDREN: Final = 20
"""Children that are named."""


class Relative(NamedTuple):
    """Another task of the workflow."""

    celery_task_id: str
    name: str
    status: AsyncTaskStatus


class Around(NamedTuple):
    """The workflow around a task, of what may be seen."""

    parent: Relative | None
    """None: it has none, or there is no row of it that may be seen."""
    root: Relative | None
    """As ``parent``; None for a task that is its own root, too."""
    children: Sequence[Relative]
    """Some of the tasks that it sent, those that were asked for first before the others."""
    children_counted: int
    """How many there are; more than `MOST_COUNTED`: there may be still more."""
    statuses: Mapping[AsyncTaskStatus, int]
    """How many tasks have the same root, by their status, itself included."""

    @property
    def members(self) -> int:
        """How many have the same root; more than `MOST_COUNTED`: there may be still more."""
        return sum(self.statuses.values())


@cache
def of_page(dialect: str, *, values: bool) -> Select[Any]:
    """SELECT of `reader.task_columns` and what `diagnosis.collect` needs."""
    return task_columns(dialect, values=values).add_columns(AsyncTask.order_key)


def around(reader: Reader, session: Session, task: TaskLike) -> Around:
    """Three statements, each by an index and bounded."""
    relative = [AsyncTask.celery_task_id, AsyncTask.name, AsyncTask.status]
    named = {one for one in (task.parent_task_id, task.root_task_id) if one and one != task.celery_task_id}
    above = {}
    if named:
        asked = reader.seen(select(*relative).where(AsyncTask.celery_task_id.in_(sorted(named))))
        above = {row.celery_task_id: Relative(*row) for row in session.execute(asked)}
    sent = reader.seen(select(*relative, AsyncTask.created_at, AsyncTask.id))
    sent = sent.where(AsyncTask.parent_task_id == task.celery_task_id).limit(MOST_COUNTED + 1)
    children = sorted(session.execute(sent), key=lambda row: (row.created_at, row.id))
    root = task.root_task_id or task.celery_task_id
    members = reader.seen(select(AsyncTask.status)).where(AsyncTask.root_task_id == root).limit(MOST_COUNTED + 1)
    statuses = Counter(session.scalars(members))
    return Around(
        parent=above.get(task.parent_task_id),
        root=above.get(task.root_task_id),
        children=[Relative(*row[:3]) for row in children[:MOST_CHILDREN]],
        children_counted=len(children),
        statuses={status: statuses[status] for status in AsyncTaskStatus if statuses[status]},
    )


def some_attempts(session: Session, task: TaskLike, first: int, count: int) -> Sequence[AsyncTaskAttempt]:
    """So many attempts from the one with that number, 1 for the first, in the order in which they were meant to
    happen."""
    asked = select(AsyncTaskAttempt).where(AsyncTaskAttempt.celery_task_id == task.celery_task_id)
    asked = asked.options(defer(AsyncTaskAttempt.attempt)).order_by(AsyncTaskAttempt.run_key)
    return session.scalars(asked.offset(first - 1).limit(count)).all()
