"""One task, found by its id or the beginning of its id, with its attempts and the workflow around it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple, overload

from sqlalchemy import ColumnElement, Connection, Select, bindparam, case, exists, not_, or_, select, true
from sqlalchemy.orm import Session, aliased, defer

from celery_asynctask.core.status import SHOWN, AsyncTaskStatus
from celery_asynctask.errors import NotFoundError
from celery_asynctask.queries.attempts import seen_of
from celery_asynctask.queries.reader import Parts, Reader, attempt_columns, task_columns
from celery_asynctask.queries.search.condition import begins_with
from celery_asynctask.queries.search.keys import is_hex
from celery_asynctask.queries.search.order import NEWEST
from celery_asynctask.queries.types import (
    AttemptRow,
    EvidentTask,
    ListColumns,
    OwnedTask,
    PageColumns,
    PageRow,
    TaskColumns,
    TaskRow,
)
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt

_MAX_NAMED: Final = 5
"""Tasks that an error names."""
MAX_ATTEMPTS: Final = 1000
"""Attempts of a task that `attempt_rows` returns; one more shows that there are others."""
MAX_COUNTED: Final = 1000
"""Members of a workflow, or children, that are counted."""
MAX_CHILDREN: Final = 20
"""Children that are listed."""
_MAX_ABOVE: Final = 100
"""Tasks with the id of the parent or the root, of any customers, that are read."""
MAX_NAMESAKES: Final = 20
"""Tasks with one id that are listed."""


class Relative(NamedTuple):
    """Another task of the same workflow."""

    celery_task_id: str
    customer_key: str
    name: str
    status: AsyncTaskStatus
    id: int


class TaskDetail(NamedTuple):
    """The workflow around a task, as far as the reader may see it."""

    parent: Relative | None
    """None: there is none, or no row of it that the reader may see."""
    root: Relative | None
    """Like ``parent``; also None for a task that is its own root."""
    children: Sequence[Relative]
    """The first `MAX_CHILDREN` tasks that it sent, in the order of their creation."""
    children_counted: int
    """Number of its children; if greater than `MAX_COUNTED`, there may be more."""
    statuses: Mapping[AsyncTaskStatus, int]
    """Number of tasks with the same root, the task included, by status."""

    @property
    def members(self) -> int:
        """Number of tasks with the same root; if greater than `MAX_COUNTED`, there may be more."""
        return sum(self.statuses.values())


def find(reader: Reader, session: Session, text: str, customer: str | None = None) -> AsyncTask:
    """The task whose Celery id is ``text``, or the only one whose id begins with it; of several customers' tasks with
    that id the newest, or that of ``customer``, by its key. A UUID may be in upper case. Raises `NotFoundError`."""
    reader = reader.narrowed(customer)
    if not is_id(text):
        raise NotFoundError(f"{text[:80]!r} is not a task id. Give a task's Celery id, or its beginning.")
    tasks = _candidates(reader, session, text)
    if not tasks and is_hex(text) and text != text.lower():
        tasks = _candidates(reader, session, text.lower())
    if not tasks:
        numbered = exact(reader, session, "", number_of(text))
        known = f" The task whose number is {text} in the API has the id {numbered.celery_task_id}." if numbered else ""
        whose = "" if customer is None else f" of customer {customer}" if customer else " without a customer"
        raise NotFoundError(f"No task{whose} has the id {text}, and none begins with it.{known}")
    if len(tasks) > 1:
        named = ", ".join(f"{task.celery_task_id} ({task.name})" for task in tasks[:_MAX_NAMED])
        row = "" if number_of(text) is None else " The number of a row (id with --json and in the API) is no ID here."
        others = ", and others" if len(tasks) > _MAX_NAMED else ""
        raise NotFoundError(f"Several task ids begin with {text}: {named}{others}. Give more of the id.{row}")
    return tasks[0]


def _candidates(reader: Reader, session: Session, text: str) -> list[AsyncTask]:
    """The task with that id, or else some whose ids begin with it; of each id the newest."""
    beginning = reader.seen(select(AsyncTask.celery_task_id)).where(begins_with(AsyncTask.celery_task_id, text))
    ids = session.scalars(beginning.distinct().order_by(AsyncTask.celery_task_id).limit(_MAX_NAMED + 1)).all()
    # Sorted by bytes, the id itself comes first.
    tasks = (exact(reader, session, task_id) for task_id in (ids[:1] if text in ids[:1] else ids))
    return [task for task in tasks if task is not None]


@overload
def exact(
    reader: Reader, session: Session | Connection, text: str, number: int | None = None, columns: None = None
) -> AsyncTask | None: ...
@overload
def exact(
    reader: Reader, session: Session | Connection, text: str, number: int | None, columns: PageColumns
) -> PageRow | None: ...
@overload
def exact(
    reader: Reader, session: Session | Connection, text: str, number: int | None, columns: TaskColumns
) -> TaskRow | None: ...
def exact(
    reader: Reader,
    session: Session | Connection,
    text: str,
    number: int | None = None,
    columns: TaskColumns | None = None,
) -> Any:
    """The task with the row number ``number``, or else the newest one whose Celery id is ``text``; with ``columns``, a
    row of what they select. None: there is no such task."""
    for statement, value in zip(_exact(columns), (number, text if is_id(text) else None), strict=True):
        if value is not None:
            rows = session.execute(reader.seen(statement), {"value": value})
            if (row := (rows if columns is not None else rows.scalars()).first()) is not None:
                return row
    return None


@lru_cache
def _exact(columns: Select[Any] | None) -> tuple[Any, Any]:
    """The statements of `exact`, made once: SQLAlchemy takes long to find out that two statements are the same."""
    statement: Select[Any] = select(AsyncTask) if columns is None else columns
    value: Any = bindparam("value")
    of_id = statement.where(AsyncTask.celery_task_id == value).order_by(*NEWEST.terms).limit(1)
    return statement.where(AsyncTask.id == value), of_id


def related(reader: Reader, session: Session, task_id: str, task: OwnedTask) -> AsyncTask | None:
    """The task with an id that another ``task`` names: that of the same customer, or else the newest."""
    mine: AsyncTask | None = exact(reader.narrowed(task.customer_key), session, task_id)
    return mine if mine is not None or not reader.sees_several else exact(reader, session, task_id)


def number_of(text: str) -> int | None:
    """A text as the number of a row; None: it is not one."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) else None


def is_id(text: str) -> bool:
    """Whether a database can hold the text as a task id."""
    return re.fullmatch(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}", text) is not None


def attempt_rows(reader: Reader, session: Session, task: AsyncTask, parts: Parts) -> Sequence[AttemptRow]:
    """Rows of `reader.attempt_columns` for the first `MAX_ATTEMPTS` attempts of a task, and one more if there is."""
    statement = attempt_columns(reader.dialect, parts).where(seen_of(reader.scope, task))
    rows: Sequence[Any] = session.execute(statement.order_by(AsyncTaskAttempt.run_key).limit(MAX_ATTEMPTS + 1)).all()
    return rows


def attempts(
    reader: Reader, session: Session, task: EvidentTask, first: int = 1, count: int | None = None
) -> Sequence[AsyncTaskAttempt]:
    """The attempts of a task in order, first those of earlier executions under its id: ``count`` of them (None: all)
    from number ``first``. Their ``attempt`` is left unread."""
    statement = select(AsyncTaskAttempt).where(seen_of(reader.scope, task))
    statement = statement.options(defer(AsyncTaskAttempt.attempt)).order_by(AsyncTaskAttempt.run_key)
    return session.scalars(statement.offset(first - 1).limit(count)).all()


@cache
def of_list(dialect: str, parts: Parts) -> ListColumns:
    """SELECT of `reader.task_columns` and the keys of the customer and the creator."""
    return ListColumns(task_columns(dialect, parts).add_columns(AsyncTask.customer_key, AsyncTask.created_by_key))


@cache
def of_page(dialect: str, parts: Parts) -> PageColumns:
    """SELECT of `of_list` and the columns that `diagnosis` needs."""
    return PageColumns(of_list(dialect, parts).add_columns(AsyncTask.holder, AsyncTask.order_key))


def task_detail(reader: Reader, session: Session, task: EvidentTask) -> TaskDetail:
    """The workflow around a task, by a few statements, each with an index and bounded."""
    relative = [getattr(AsyncTask, name) for name in Relative._fields]
    ids = {task_id for task_id in (task.parent_task_id, task.root_task_id) if task_id} - {task.celery_task_id}
    above: dict[str | None, Relative] = {}
    if ids:
        statement = reader.seen(select(*relative)).where(AsyncTask.celery_task_id.in_(sorted(ids)))
        is_other = case((AsyncTask.customer_key == task.customer_key, 0), else_=1)
        for row in session.execute(statement.order_by(is_other, *NEWEST.terms).limit(_MAX_ABOVE)):
            above.setdefault(row.celery_task_id, Relative(*row))
    sent = reader.seen(select(*relative, AsyncTask.created_at))
    sent = sent.where(AsyncTask.parent_task_id == task.celery_task_id, _is_below(reader, task.celery_task_id, task))
    children = sorted(session.execute(sent.limit(MAX_COUNTED + 1)), key=lambda row: (row.created_at, row.id))
    root = task.root_task_id or task.celery_task_id
    members = reader.seen(select(AsyncTask.status)).where(AsyncTask.root_task_id == root, _is_below(reader, root, task))
    statuses = Counter(session.scalars(members.limit(MAX_COUNTED + 1)))
    return TaskDetail(
        parent=above.get(task.parent_task_id),
        root=above.get(task.root_task_id),
        children=[Relative(*row[: len(relative)]) for row in children[:MAX_CHILDREN]],
        children_counted=len(children),
        statuses={status: statuses[status] for status in SHOWN if statuses[status]},
    )


def _is_below(reader: Reader, task_id: str, task: OwnedTask) -> ColumnElement[bool]:
    """Whether a task that names ``task_id`` as its parent or root can mean the one of this task's customer: it is for
    the same customer, or its own customer has no task with that id."""
    if not reader.sees_several:
        return true()
    other = aliased(AsyncTask)
    has_own = exists().where(other.celery_task_id == task_id, other.customer_key == AsyncTask.customer_key)
    return or_(AsyncTask.customer_key == task.customer_key, not_(has_own))


def namesakes(reader: Reader, session: Session, task: OwnedTask) -> list[Relative]:
    """At most `MAX_NAMESAKES` tasks with the id of this one, for different customers, the newest first; the id alone
    means that one. Empty where the reader sees no more than one."""
    if not reader.sees_several:
        return []
    alike = reader.seen(select(*(getattr(AsyncTask, name) for name in Relative._fields)))
    alike = alike.where(AsyncTask.celery_task_id == task.celery_task_id).order_by(*NEWEST.terms)
    return [Relative(*row) for row in session.execute(alike.limit(MAX_NAMESAKES))]
