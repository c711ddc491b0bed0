"""Deleting tasks that are older than the rules of `retention` keep them: in batches, each task with its attempts in one
transaction, so that a purge can be stopped at any point and run again.

It walks along the primary key in windows (in a scope, along the index on the customer or the creator) and reads each
row once; no statement reads more than a window, and no transaction deletes more than a batch. A row that the recorder
is writing is left to the next purge.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from math import ceil
from typing import Final, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from celery_asynctask.core.accounting import is_unheard, plural
from celery_asynctask.operations.retention import Rule, longest
from celery_asynctask.operations.session import WINDOW, Writer
from celery_asynctask.queries.attempts import of_task
from celery_asynctask.queries.scope import ALL, SHOWN, Scope, of_creators, of_customers
from celery_asynctask.queries.search.condition import conditions
from celery_asynctask.queries.search.order import NEWEST, OLDEST, Cursor, Place
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt, AsyncTaskSource

BATCH: Final = 1000
"""Tasks that are deleted in one transaction."""
MAX_PARTS: Final = 100
"""Parts of a scope's customers or creators that are walked one after the other."""
SOURCES_KEPT: Final = dt.timedelta(days=7)
"""How long the account of a process is kept at least after its end: a process that was only cut off comes back, and its
account goes on."""

T = TypeVar("T")
Progress = Callable[[int], None]
"""Called with the number of tasks that were handled since the last call."""

_attempt: Final = AsyncTaskAttempt.__table__.c
_source: Final = AsyncTaskSource.__table__.c


class Count(NamedTuple):
    """What a rule finds."""

    tasks: int = 0
    """Tasks for which this rule is the first that finds them."""
    due: int = 0
    """Those of them that are to be deleted."""


class Purged(NamedTuple):
    """Rows that were deleted."""

    tasks: int = 0
    attempts: int = 0
    """Attempts of those tasks."""
    orphans: int = 0
    """Attempts that had no task."""
    sources: int = 0
    """Accounts of processes."""

    @property
    def sentence(self) -> str:
        """The same in words, for the audit."""
        nouns = (
            plural(self.tasks, "task"),
            plural(self.attempts, "attempt"),
            f"{plural(self.orphans, 'attempt')} without a task",
            f"{plural(self.sources, 'account')} of processes",
        )
        return ", ".join(f"{count:,} {noun}" for count, noun in zip(self, nouns, strict=True) if count) or "nothing"

    def __add__(self, other: object) -> Purged:
        if not isinstance(other, Purged):
            return NotImplemented
        return Purged(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Purge:
    """One purge of one store, as of ``now``. ``unfinished``: tasks that are not over are deleted too, their age counted
    from their creation. ``scope``: only its tasks; and unless these are all, no rows that belong to no task."""

    complete: bool = True
    """Whether the last `count` or `run` came to the end; False: it stopped at its limit."""
    purged: Purged = Purged()
    """What the last `run` has deleted so far, also if it was interrupted."""

    def __init__(
        self,
        writer: Writer,
        rules: Sequence[Rule],
        now: dt.datetime,
        *,
        unfinished: bool = False,
        batch: int = BATCH,
        scope: Scope = ALL,
    ) -> None:
        self._writer = writer
        self._rules = rules
        self._now = now
        self._batch = batch
        self._scope = scope
        self._in_scope = sa.and_(SHOWN, *scope.conditions(writer.dialect))
        self._finds: list[ColumnElement[bool]] = [
            sa.and_(*search.indexed, *search.scanned) if rule.search.terms else sa.literal_column("1") == 1
            for rule in rules
            for search in [conditions(rule.search, writer.dialect, scope)]
        ]
        over = AsyncTask.completed_at
        self._over = sa.func.coalesce(over, AsyncTask.created_at) if unfinished else over

    def count(self, progress: Progress, *, limit: int | None = None) -> list[Count]:
        """What each rule finds, in the order of the rules, and last what none of them finds. Stops when it has read
        ``limit`` tasks."""
        read = 0
        self.complete = True
        counts = [Count()] * (len(self._rules) + 1)
        numbers: list[ColumnElement[int]] = [sa.literal_column(str(number)) for number in range(len(counts))]
        number = self._decided(numbers[:-1], numbers[-1])
        for window in self._windows():
            if limit is not None and read >= limit:
                self.complete = False
                break
            decided = sa.select(number.label("rule"), self._due().label("due")).where(window, self._in_scope).subquery()
            due_count = sa.func.sum(sa.case((decided.c.due, 1), else_=0))
            by_rule = sa.select(decided.c.rule, sa.func.count(), due_count).group_by(decided.c.rule)
            in_window = 0
            for row in self._writer.read(by_rule):
                rule, tasks, due = tuple(row)
                before = counts[rule]
                counts[rule] = Count(before.tasks + tasks, before.due + int(due))
                in_window += tasks
            read += in_window
            progress(in_window)
        return counts

    def run(self, progress: Progress, *, limit: int | None = None) -> Purged:
        """Delete the tasks that are due, then attempts without tasks, and accounts of processes without attempts. Stops
        after ``limit`` tasks."""
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
                progress(len(ids))
        if self._scope.is_all:
            self.purged += self._tidy(age)
        return self.purged

    def _windows(self) -> Iterator[ColumnElement[bool]]:
        """Conditions, each for `WINDOW` of the tasks that exist when it begins."""
        if self._scope.is_all:
            for low, high in self._writer.windows(AsyncTask.id):
                yield sa.and_(AsyncTask.id > low, AsyncTask.id <= high)
            return
        customers, creators = self._scope
        if creators is None or (customers is not None and len(customers) <= len(creators)):
            keys = sorted(customers or ())
            condition: Callable[[Sequence[str], str], ColumnElement[bool]] = of_customers
        else:
            keys, condition = sorted(creators), of_creators
        together = ceil(len(keys) / MAX_PARTS) or 1
        for first in range(0, len(keys), together):
            yield from self._windows_of(condition(keys[first : first + together], self._writer.dialect))

    def _windows_of(self, owner: ColumnElement[bool]) -> Iterator[ColumnElement[bool]]:
        """The windows of one customer's or creator's tasks, in the order of creation, which is that of the index; of
        several together, where there are many."""
        tasks = sa.select(AsyncTask.created_at, AsyncTask.id).where(owner)
        newest = self._writer.read(tasks.order_by(*NEWEST.terms).limit(1))
        if not newest:
            return
        top = Place._make(newest[0])
        end: Place | None = None
        while end != top:
            behind = [] if end is None else [Cursor(OLDEST, *end).condition]
            ends = self._writer.read(tasks.where(*behind).order_by(*OLDEST.terms).offset(WINDOW - 1).limit(1))
            end = min(Place._make(ends[0]), top) if ends else top
            yield sa.and_(owner, *behind, end.upto(OLDEST))

    def _decided(self, by_rule: Sequence[ColumnElement[T]], otherwise: ColumnElement[T]) -> ColumnElement[T]:
        """The value of the first rule that finds a task."""
        return sa.case(*zip(self._finds, by_rule, strict=True), else_=otherwise) if by_rule else otherwise

    def _due(self) -> ColumnElement[bool]:
        by_rule = [sa.false() if rule.age is None else self._over < self._now - rule.age for rule in self._rules]
        return sa.and_(self._in_scope, self._decided(by_rule, sa.false()))

    def _batches(self, query: sa.Select[int]) -> Iterator[list[int]]:
        ids = iter([row_id for (row_id,) in self._writer.read(query)])
        while batch := list(islice(ids, self._batch)):
            yield batch

    def _delete(self, ids: Sequence[int], connection: Connection) -> Purged:
        """Delete the tasks that are still due, with their attempts. Locks in the recorder's order: tasks first, sorted
        by id."""
        due = sa.select(AsyncTask.id).where(AsyncTask.id.in_(ids), self._due())
        locked = due.order_by(AsyncTask.celery_task_id, AsyncTask.customer_key).with_for_update(
            skip_locked=self._writer.dialect == "postgresql"
        )
        rows = connection.execute(locked).all()
        if not rows:
            return Purged()
        is_deleted = AsyncTask.id.in_([row.id for row in rows])
        of_tasks = sa.select(_attempt.id).join_from(AsyncTask, AsyncTaskAttempt, of_task()).where(is_deleted)
        attempts = connection.scalars(of_tasks).all()
        connection.execute(sa.delete(AsyncTask).where(is_deleted))
        if attempts:
            connection.execute(sa.delete(AsyncTaskAttempt).where(_attempt.id.in_(attempts)))
        return Purged(tasks=len(rows), attempts=len(attempts))

    def _tidy(self, age: dt.timedelta) -> Purged:
        before = self._now - max(age, SOURCES_KEPT)
        # All their events are stored. Accounts of what is missing, dropped, in quarantine or not known stay.
        is_complete = (
            _source.ended_at < before,
            _source.stored >= _source.last_number,
            _source.quarantined == 0,
            _source.dropped.is_(None),
        )
        sight = (_source.last_seen_at, _source.ended_at, _source.settled_at, _source.numbered)
        complete = self._writer.read(sa.select(_source.source, *sight).where(*is_complete))
        unused = {row.source for row in complete if not is_unheard(row, self._now)}
        over = sa.func.coalesce(_attempt.ended_at, _attempt.started_at, _attempt.received_at, _attempt.published_at)
        has_task = sa.exists().where(of_task())
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
        while batch := list(islice(names, self._batch)):
            statement = sa.delete(AsyncTaskSource).where(_source.source.in_(batch), *is_complete)
            purged += Purged(sources=self._writer.batch(partial(_rows, statement)))
        return purged


def _rows(statement: sa.Delete, connection: Connection) -> int:
    """Run the statement; the number of rows that it deletes."""
    return connection.execute(statement).rowcount
