"""Erasing the recorded values of one customer's tasks. That they ran, when, and how they ended stays.

Values become ``{"$asynctask": "erased"}``, by which `marks.is_whole` knows that they are gone; error messages,
tracebacks and the creator's name become null.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, case, exists, func, literal, null, or_, select, update

from celery_asynctask.core.columns import ATTEMPT, TASK, VALUES, Content
from celery_asynctask.core.ids import Id, key_of
from celery_asynctask.core.marks import MARK
from celery_asynctask.operations.session import Writer
from celery_asynctask.queries.attempts import of_task
from celery_asynctask.queries.scope import of_customers
from celery_asynctask.queries.search.filter import Value
from celery_asynctask.queries.search.json_path import at_path
from celery_asynctask.queries.search.order import OLDEST, Cursor, Place
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt
from celery_asynctask.store.tables import JsonValue, async_task, async_task_attempt

ERASED: Final = {MARK: "erased"}
BATCH: Final = 1000
"""Tasks that are changed in one transaction."""

_task: Final = async_task.c
_attempt: Final = async_task_attempt.c
_TEXTS, _ATTEMPT_TEXTS = (
    tuple(column.name for column in columns if column.holds in (Content.TEXT, Content.ERROR))
    for columns in (TASK, ATTEMPT)
)
_HAS_TEXT: Final = or_(*(_task[name].is_not(None) for name in _TEXTS))
_ATTEMPT_HAS_TEXT: Final = or_(*(_attempt[name].is_not(None) for name in _ATTEMPT_TEXTS))


class Erased(NamedTuple):
    """Rows that had something to erase."""

    tasks: int
    attempts: int


class Erasure:
    """Erases the values of one customer's tasks, in batches. Rows without values are not changed."""

    def __init__(self, writer: Writer, customer: Id, *, batch: int = BATCH) -> None:
        """Raises `ValueError` for a ``customer`` that is no id."""
        self._writer = writer
        self._customer = of_customers([key_of(customer)])
        self._batch = batch

    def count(self) -> Erased:
        """The rows that have something to erase."""
        tasks, attempts = 0, 0
        for ids in self._batches():
            has_values = select(func.count()).where(_task.id.in_(ids), self._has_values())
            tasks += self._writer.read(has_values)[0][0]
            attempts += self._writer.read(_attempts_with_text(func.count(), ids))[0][0]
        return Erased(tasks, attempts)

    def run(self) -> Iterator[Erased]:
        """Erase the values; yields the rows that each batch changed."""
        for ids in self._batches():
            yield self._writer.batch(partial(self._erase, ids))

    def _batches(self) -> Iterator[list[int]]:
        """Ids of this customer's tasks that have something to erase, or whose attempts do, in the order of the index
        that finds the customer's tasks."""
        in_attempts = exists().where(of_task(_task), _ATTEMPT_HAS_TEXT)
        tasks = select(_task.id, _task.created_at).where(self._customer)
        after: Place | None = None
        while True:
            behind = [] if after is None else [Cursor(OLDEST, *after).condition]
            batch = tasks.where(or_(self._has_values(), in_attempts), *behind)
            rows = self._writer.read(batch.order_by(*OLDEST.terms).limit(self._batch))
            if not rows:
                return
            yield [row.id for row in rows]
            after = Place(rows[-1].created_at, rows[-1].id)

    def _has_values(self) -> ColumnElement[bool]:
        """Whether a task's own row has something to erase."""
        dialect = self._writer.dialect
        marked = Value("=", ERASED[MARK])
        values = (and_(_task[name].is_not(None), ~at_path(_task[name], (MARK,), marked, dialect)) for name in VALUES)
        return or_(*values, _HAS_TEXT)

    def _erase(self, ids: Sequence[int], connection: Connection) -> Erased:
        rows = connection.execute(
            select(_task.id, self._has_values().label("has_values"))
            .where(_task.id.in_(ids))
            .order_by(_task.celery_task_id, _task.customer_key)
            .with_for_update()
        ).all()
        if changed := [row.id for row in rows if row.has_values]:
            values: dict[str, object] = {
                name: case((_task[name].is_not(None), literal(ERASED, JsonValue)), else_=null()) for name in VALUES
            }
            values.update(dict.fromkeys(_TEXTS))
            connection.execute(update(AsyncTask).where(_task.id.in_(changed)).values(values))
        attempts = connection.scalars(_attempts_with_text(_attempt.id, [row.id for row in rows])).all()
        if attempts:
            erased = update(AsyncTaskAttempt).where(_attempt.id.in_(attempts))
            connection.execute(erased.values(dict.fromkeys(_ATTEMPT_TEXTS)))
        return Erased(len(changed), len(attempts))


def _attempts_with_text(column: ColumnElement[int], ids: Sequence[int]) -> Select[int]:
    """SELECT of the attempts of some tasks that have something to erase."""
    of_tasks = select(column).join_from(async_task, async_task_attempt, of_task(_task))
    return of_tasks.where(_task.id.in_(ids), _ATTEMPT_HAS_TEXT)
