"""One task, by its id or the beginning of it, its attempts, and the workflow around it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple, overload

from sqlalchemy import Connection, Select, bindparam, select
from sqlalchemy.orm import Session, defer

from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.errors import NotFoundError
from celery_asynctask.queries.reader import Reader, attempt_columns, task_columns
from celery_asynctask.queries.search.condition import begins_with
from celery_asynctask.queries.search.keys import is_hex
from celery_asynctask.queries.types import AttemptRow, TaskColumns, TaskLike
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt

_NAMED: Final = 5
"""Tasks that an error names."""
MAX_ATTEMPTS: Final = 1000
"""Attempts of a task that `attempt_rows` has, and one that shows that there are more."""
MAX_COUNTED: Final = 1000
"""Members of a workflow, or children, that are counted."""
MAX_CHILDREN: Final = 20
"""Children that are named."""


class Relative(NamedTuple):
    """Another task of the workflow."""

    celery_task_id: str
    name: str
    status: AsyncTaskStatus


class TaskDetail(NamedTuple):
    """The workflow around a task, of what may be seen."""

    parent: Relative | None
    """None: it has none, or there is no row of it that may be seen."""
    root: Relative | None
    """As ``parent``; None for a task that is its own root, too."""
    children: Sequence[Relative]
    """Some of the tasks that it sent, those that were asked for first before the others."""
    children_counted: int
    """How many there are; more than `MAX_COUNTED`: there may be still more."""
    statuses: Mapping[AsyncTaskStatus, int]
    """How many tasks have the same root, by their status, itself included."""

    @property
    def members(self) -> int:
        """How many have the same root; more than `MAX_COUNTED`: there may be still more."""
        return sum(self.statuses.values())


def find(reader: Reader, session: Session, text: str) -> AsyncTask:
    """The task whose Celery id is ``text``, or begins with it where no other does; a UUID may be in upper case, too.
    Raises `NotFoundError`."""
    if not is_id(text):
        raise NotFoundError(f"{text[:80]!r} is no task id.")
    found = _found(reader, session, text)
    if not found and is_hex(text) and text != text.lower():
        found = _found(reader, session, text.lower())
    if not found:
        numbered = exact(reader, session, "", number_of(text))
        known = f" The task whose number is {text} in the API has the id {numbered.celery_task_id}." if numbered else ""
        raise NotFoundError(f"No task has the id {text}, and none begins with it.{known}")
    if len(found) > 1:
        named = ", ".join(f"{task.celery_task_id} ({task.name})" for task in found[:_NAMED])
        more = ", and others" if len(found) > _NAMED else ""
        raise NotFoundError(f"Several tasks begin with {text}: {named}{more}. Give more of the id.")
    return found[0]


def _found(reader: Reader, session: Session, text: str) -> list[AsyncTask]:
    """The one with that id, else some that begin with it."""
    beginning = reader.tasks().where(begins_with(AsyncTask.celery_task_id, text))
    found: list[AsyncTask] = list(session.scalars(beginning.order_by(AsyncTask.celery_task_id).limit(_NAMED + 1)))
    # Sorted by bytes, the id itself comes first.
    return found[:1] if found and found[0].celery_task_id == text else found


@overload
def exact(reader: Reader, session: Session, text: str, number: int | None = None) -> AsyncTask | None: ...
@overload
def exact(
    reader: Reader, session: Session | Connection, text: str, number: int | None, columns: TaskColumns | None
) -> Any: ...
def exact(
    reader: Reader,
    session: Session | Connection,
    text: str,
    number: int | None = None,
    columns: TaskColumns | None = None,
) -> Any:
    """The task whose own ``number`` it is, else the one whose Celery id is ``text``; with ``columns``, a row of what
    that selects. None: there is none."""
    for statement, value in zip(_exact(columns), (number, text if is_id(text) else None), strict=True):
        if value is not None:
            rows = session.execute(reader.seen(statement), {"value": value})
            if (found := (rows if columns is not None else rows.scalars()).first()) is not None:
                return found
    return None


@lru_cache
def _exact(columns: Select[Any] | None) -> tuple[Any, Any]:
    """The statements of `exact`, made once: SQLAlchemy takes long to find that another is the same."""
    asked: Select[Any] = select(AsyncTask) if columns is None else columns
    value: Any = bindparam("value")
    return asked.where(AsyncTask.id == value), asked.where(AsyncTask.celery_task_id == value)


def number_of(text: str) -> int | None:
    """The own number of a row that a text may be; None: it is none."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) else None


def is_id(text: str) -> bool:
    """Whether a database may have it as a task id."""
    return re.fullmatch(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}", text) is not None


def attempt_rows(reader: Reader, session: Session, task: AsyncTask) -> Sequence[AttemptRow]:
    """`reader.attempt_columns` of the first attempts of a task."""
    asked = attempt_columns(reader.dialect).where(AsyncTaskAttempt.celery_task_id == task.celery_task_id)
    rows: Sequence[Any] = session.execute(asked.order_by(AsyncTaskAttempt.run_key).limit(MAX_ATTEMPTS + 1)).all()
    return rows


def attempts(session: Session, task: TaskLike, first: int = 1, count: int | None = None) -> Sequence[AsyncTaskAttempt]:
    """The runs of a task's body in the order in which they were meant to happen, ``count`` from the one with the number
    ``first``; their own ``attempt`` is not read."""
    asked = select(AsyncTaskAttempt).where(AsyncTaskAttempt.celery_task_id == task.celery_task_id)
    asked = asked.options(defer(AsyncTaskAttempt.attempt)).order_by(AsyncTaskAttempt.run_key)
    return session.scalars(asked.offset(first - 1).limit(count)).all()


@cache
def of_page(dialect: str, *, values: bool) -> Select[Any]:
    """SELECT of `reader.task_columns` and what `diagnosis` needs."""
    return task_columns(dialect, values=values).add_columns(AsyncTask.order_key)


def task_detail(reader: Reader, session: Session, task: TaskLike) -> TaskDetail:
    """Three statements, each by an index and bounded."""
    relative = [AsyncTask.celery_task_id, AsyncTask.name, AsyncTask.status]
    named = {one for one in (task.parent_task_id, task.root_task_id) if one and one != task.celery_task_id}
    above = {}
    if named:
        asked = reader.seen(select(*relative).where(AsyncTask.celery_task_id.in_(sorted(named))))
        above = {row.celery_task_id: Relative(*row) for row in session.execute(asked)}
    sent = reader.seen(select(*relative, AsyncTask.created_at, AsyncTask.id))
    sent = sent.where(AsyncTask.parent_task_id == task.celery_task_id).limit(MAX_COUNTED + 1)
    children = sorted(session.execute(sent), key=lambda row: (row.created_at, row.id))
    root = task.root_task_id or task.celery_task_id
    members = reader.seen(select(AsyncTask.status)).where(AsyncTask.root_task_id == root).limit(MAX_COUNTED + 1)
    statuses = Counter(session.scalars(members))
    return TaskDetail(
        parent=above.get(task.parent_task_id),
        root=above.get(task.root_task_id),
        children=[Relative(*row[:3]) for row in children[:MAX_CHILDREN]],
        children_counted=len(children),
        statuses={status: statuses[status] for status in AsyncTaskStatus if statuses[status]},
    )
