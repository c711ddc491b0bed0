"""Everything that a search finds, or a whole workflow, for an export: page after page, none kept in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import select

from celery_asynctask.core.fold import Identity
from celery_asynctask.errors import NotFoundError
from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.search.filter import Filter
from celery_asynctask.queries.search.order import NEWEST
from celery_asynctask.queries.search.page import MAX_ROWS, page
from celery_asynctask.queries.task import find
from celery_asynctask.queries.workflow.members import workflow
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt

Columns = dict[str, Any]
"""A row: all its columns by their names."""


class Exported(NamedTuple):
    """A task and its attempts, in the order of their attempt keys."""

    task: Columns
    attempts: Sequence[Columns]


def found_by(reader: Reader, search: Filter, *, attempts: bool = True) -> Iterator[list[Exported]]:
    """All tasks that the filter finds, newest first, in lists of at most `MAX_ROWS`. A search without an index goes on
    through the whole table. Raises `StoreError`."""
    after = None
    while True:
        with reader.session() as session:
            found = page(reader, session, search, limit=MAX_ROWS, after=after)
            exported = _exported(session, found.tasks, attempts)
        if exported:
            yield exported
        if (after := found.next) is None:
            return


def workflow_of(
    reader: Reader, task_id: str, customer: str | None = None, *, attempts: bool = True
) -> Iterator[list[Exported]]:
    """All members of the workflow of a task, newest first, in lists of at most `MAX_ROWS`. The task is found as by
    `task.find`.

    Raises `NotFoundError`, also for a workflow with too many members, and `StoreError`.
    """
    with reader.session() as session:
        task = find(reader, session, task_id, customer)
        members = workflow(reader, session, task)
    if members.bounded:
        raise NotFoundError(
            f"The workflow of {task.celery_task_id} has more than {len(members.members):,} members. Export the tasks "
            f"of its root instead: export root:{task.root_task_id or task.celery_task_id}"
        )
    newest = iter(sorted(members.members, key=lambda member: (member.created_at, member.id), reverse=True))
    while part := list(islice(newest, MAX_ROWS)):
        with reader.session() as session:
            statement = reader.tasks().where(AsyncTask.id.in_([member.id for member in part]))
            statement = statement.order_by(*NEWEST.terms)
            exported = _exported(session, session.scalars(statement).all(), attempts)
        yield exported


def _exported(session: Any, tasks: Sequence[AsyncTask], attempts: bool) -> list[Exported]:
    by_task: defaultdict[Identity, list[Columns]] = defaultdict(list)
    if attempts and tasks:
        table = AsyncTaskAttempt.__table__
        statement = select(table).where(table.c.celery_task_id.in_([task.celery_task_id for task in tasks]))
        for row in session.execute(statement.order_by(table.c.celery_task_id, table.c.run_key)).mappings():
            by_task[row["celery_task_id"], row["customer_key"]].append(dict(row))
    names = AsyncTask.__table__.columns.keys()
    return [
        Exported({name: getattr(task, name) for name in names}, by_task[task.celery_task_id, task.customer_key])
        for task in tasks
    ]
