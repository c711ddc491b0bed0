"""Deleting what is older than the rules of `retention` keep: in batches, each task with its attempts in one
transaction, so that it can be stopped at any point and run again.

It walks along the primary key in windows (of some customers: along the index that has theirs) and looks at each row
once; no statement sees more than a window, and no transaction deletes more than a batch. A row that the recorder is
just writing is left to the next run.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from celery_asynctask.operations.retention import Rule, longest
from celery_asynctask.operations.session import WINDOW, Writer
from celery_asynctask.queries.search.condition import conditions
from celery_asynctask.queries.search.order import NEWEST, OLDEST, Cursor, Place
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt, AsyncTaskSource

BATCH: Final = 1000
"""Tasks that are deleted in one transaction."""
SOURCES_KEPT: Final = dt.timedelta(days=7)
"""How long a source that has ended is kept at least: one that was only cut off comes back and counts on from there."""

T = TypeVar("T")
Told = Callable[[int], None]
"""Hears of every so many tasks that are done with."""

_attempt: Final = AsyncTaskAttempt.__table__.c
_source: Final = AsyncTaskSource.__table__.c


class Count(NamedTuple):
    """What a rule finds."""

    tasks: int = 0
    """For which it is the first rule that finds them."""
    due: int = 0
    """Of these, those to be deleted."""


class Purged(NamedTuple):
    """How many rows were deleted."""

    tasks: int = 0
    attempts: int = 0
    """Of those tasks."""
    orphans: int = 0
    """Attempts that had no task."""
    sources: int = 0

    def __add__(self, other: object) -> Purged:
        if not isinstance(other, Purged):
            return NotImplemented
        return Purged(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Purge:
    """One purge of one store, as of ``now``; with ``unfinished``, tasks that are not over are as old as they are; with
    ``customers``, only theirs, and nothing that is of no customer."""

    complete: bool = True
    """Whether `count` or `run`, the last of them, came to the end; False: it stopped at ``most``."""
    purged: Purged = Purged()
    """What the last `run` has deleted by now, also where it was broken off."""

    def __init__(
        self,
        writer: Writer,
        rules: Sequence[Rule],
        now: dt.datetime,
        *,
        unfinished: bool = False,
        batch: int = BATCH,
        customers: Collection[int] | None = None,
    ) -> None:
        self._writer = writer
        self._rules = rules
        self._now = now
        self._batch = batch
        self._seen: ColumnElement[bool] = sa.true() if customers is None else AsyncTask.customer.in_(sorted(customers))
        self._customers = customers
        self._first: list[ColumnElement[bool]] = [
            sa.and_(*found.indexed, *found.scanned) if rule.search.terms else sa.literal_column("1") == 1
            for rule in rules
            for found in [conditions(rule.search, writer.dialect)]
        ]
        over = AsyncTask.completed_at
        self._over = sa.func.coalesce(over, AsyncTask.created_at) if unfinished else over

    def count(self, told: Told, *, limit: int | None = None) -> list[Count]:
        """What each rule finds, in their order, and at last what none of them finds. Stops after it looked at ``most``
        tasks."""
        looked = 0
        self.complete = True
        counts = [Count()] * (len(self._rules) + 1)
        numbers: list[ColumnElement[int]] = [sa.literal_column(str(number)) for number in range(len(counts))]
        number = self._decided(numbers[:-1], numbers[-1])
        for window in self._windows():
            if limit is not None and looked >= limit:
                self.complete = False
                break
            found = sa.select(number.label("rule"), self._due().label("due")).where(window, self._seen).subquery()
            are_due = sa.func.sum(sa.case((found.c.due, 1), else_=0))
            asked = sa.select(found.c.rule, sa.func.count(), are_due).group_by(found.c.rule)
            seen = 0
            for row in self._writer.read(asked):
                rule, tasks, due = tuple(row)
                before = counts[rule]
                counts[rule] = Count(before.tasks + tasks, before.due + int(due))
                seen += tasks
            looked += seen
            told(seen)
        return counts

    def run(self, told: Told, *, limit: int | None = None) -> Purged:
        """Delete what is due, then what is left without use: attempts without tasks, sources without attempts. Stops
        after ``most`` tasks."""
        age = longest(self._rules)
        self.complete, self.purged = True, Purged()
        if age is None:
            return self.purged
        for window in self._windows():
            due = sa.select(AsyncTask.id).where(window, self._due())
            for ids in self._batches(due.order_by(AsyncTask.id)):
                if limit is not None and self.purged.tasks >= limit:
                    self.complete = False
                    return self.purged
                self.purged += self._writer.batch(partial(self._delete, ids))
                told(len(ids))
        if self._customers is None:
            self.purged += self._tidy(age)
        return self.purged

    def _windows(self) -> Iterator[ColumnElement[bool]]:
        """Conditions, each of `WINDOW` of the tasks that are there when it begins."""
        if self._customers is None:
            for low, high in self._writer.windows(AsyncTask.id):
                yield sa.and_(AsyncTask.id > low, AsyncTask.id <= high)
        for customer in sorted(self._customers or ()):
            yield from self._windows_of(customer)

    def _windows_of(self, customer: int) -> Iterator[ColumnElement[bool]]:
        """In the order of creation, which is that of the index on the customer."""
        theirs = AsyncTask.customer == customer
        tasks = sa.select(AsyncTask.created_at, AsyncTask.id).where(theirs)
        newest = self._writer.read(tasks.order_by(*NEWEST.terms).limit(1))
        if not newest:
            return
        top = Place._make(newest[0])
        end: Place | None = None
        while end != top:
            behind = [] if end is None else [Cursor(OLDEST, *end).condition]
            ends = self._writer.read(tasks.where(*behind).order_by(*OLDEST.terms).offset(WINDOW - 1).limit(1))
            end = min(Place._make(ends[0]), top) if ends else top
            yield sa.and_(theirs, *behind, end.upto(OLDEST))

    def _decided(self, by_rule: Sequence[ColumnElement[T]], otherwise: ColumnElement[T]) -> ColumnElement[T]:
        """What the first rule that finds a task says."""
        return sa.case(*zip(self._first, by_rule, strict=True), else_=otherwise) if by_rule else otherwise

    def _due(self) -> ColumnElement[bool]:
        by_rule = [sa.false() if rule.age is None else self._over < self._now - rule.age for rule in self._rules]
        return sa.and_(self._seen, self._decided(by_rule, sa.false()))

    def _batches(self, asked: sa.Select[Any]) -> Iterator[list[int]]:
        ids = iter([number for (number,) in self._writer.read(asked)])
        while batch := list(islice(ids, self._batch)):
            yield batch

    def _delete(self, ids: Sequence[int], connection: Connection) -> Purged:
        """Tasks that are still due, with their attempts. Locks in the recorder's order: tasks first, by their ids."""
        due = sa.select(AsyncTask.id, AsyncTask.celery_task_id).where(AsyncTask.id.in_(ids), self._due())
        locked = due.order_by(AsyncTask.celery_task_id).with_for_update(
            skip_locked=self._writer.dialect == "postgresql"
        )
        rows = connection.execute(locked).all()
        if not rows:
            return Purged()
        theirs = sa.select(_attempt.id).where(_attempt.celery_task_id.in_([row.celery_task_id for row in rows]))
        attempts = connection.scalars(theirs).all()
        connection.execute(sa.delete(AsyncTask).where(AsyncTask.id.in_([row.id for row in rows])))
        if attempts:
            connection.execute(sa.delete(AsyncTaskAttempt).where(_attempt.id.in_(attempts)))
        return Purged(tasks=len(rows), attempts=len(attempts))

    def _tidy(self, age: dt.timedelta) -> Purged:
        before = self._now - max(age, SOURCES_KEPT)
        # All that they had to say is stored. What is missing, dropped or put aside of one stays in the ledger.
        whole = (
            _source.ended_at < before,
            _source.stored >= _source.last_number,
            _source.quarantined == 0,
            _source.dropped.is_(None),
        )
        unused = {name for (name,) in self._writer.read(sa.select(_source.source).where(*whole))}
        over = sa.func.coalesce(_attempt.ended_at, _attempt.started_at, _attempt.received_at, _attempt.published_at)
        has_task = sa.exists().where(AsyncTask.celery_task_id == _attempt.celery_task_id)
        orphan = sa.and_(sa.not_(has_task), over < self._now - age)
        purged = Purged()
        for low, high in self._writer.windows(_attempt.id):
            inside = (_attempt.id > low, _attempt.id <= high)
            for ids in self._batches(sa.select(_attempt.id).where(*inside, orphan)):
                statement = sa.delete(AsyncTaskAttempt).where(_attempt.id.in_(ids), orphan)
                purged += Purged(orphans=self._writer.batch(partial(_rows, statement)))
            if unused:
                used = sa.select(_attempt.source).where(*inside, _attempt.source.is_not(None)).distinct()
                unused -= {name for (name,) in self._writer.read(used)}
        names = iter(sorted(unused))
        while some := list(islice(names, self._batch)):
            statement = sa.delete(AsyncTaskSource).where(_source.source.in_(some), *whole)
            purged += Purged(sources=self._writer.batch(partial(_rows, statement)))
        return purged


def _rows(statement: sa.Delete, connection: Connection) -> int:
    """How many rows the statement deletes."""
    return connection.execute(statement).rowcount
