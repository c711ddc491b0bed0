"""Failures with the same cause, together: of one type, one message but for what varies in it, and one place.

The newest failures that a filter finds are fetched, `MOST_LOOKED_AT` of them at most, with the end of their tracebacks,
and grouped here: what is the same message, and whose code it was, is nothing that a database can tell.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, case, func, select, true
from sqlalchemy.orm import Session

from celery_asynctask.core.reasons import first_reason
from celery_asynctask.core.status import FAILED
from celery_asynctask.queries.failures.fingerprint import normal, place
from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.search.condition import conditions
from celery_asynctask.queries.search.filter import Filter
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt

MOST_LOOKED_AT: Final = 10_000
"""Failures that are grouped."""
TRACEBACK_END: Final = 4000
"""Characters of a traceback that are fetched: its end, where the error is."""
MESSAGE_START: Final = 1000
"""Characters of a message that are fetched."""
BUCKETS: Final = 24
"""Parts of the time looked at in which failures are counted."""
STREAMED: Final = {"yield_per": 1000}


class Failure(NamedTuple):
    """One task that failed, as far as it matters here."""

    id: str
    name: str
    at: dt.datetime
    """When it ended; while it has not, when it was asked for."""
    asked_at: dt.datetime
    customer: int | None
    error_type: str
    message: str
    """Its beginning."""
    traceback: str | None
    """Its end, of the newest run; None: there is none."""


class Group(NamedTuple):
    """Failures with the same cause."""

    error_type: str
    message: str
    """`normal`."""
    place: str | None
    """`place`."""
    tasks: int
    unsent: int
    """How many of them were never sent, because a task before them in their workflow failed like this."""
    first: dt.datetime
    last: dt.datetime
    customers: int
    """How many different ones; what is for nobody counts as none."""
    names: Sequence[str]
    """Of the tasks, the most frequent first."""
    example: str
    """Id of the newest that ran."""
    first_asked: dt.datetime
    """When the first and the last of them were asked for: by that, tasks are searched."""
    last_asked: dt.datetime
    counts: Sequence[int]
    """How many of them in each of `BUCKETS` parts, all as long, of the time from the first to the last failure of all
    groups."""


class Failures(NamedTuple):
    """The groups, the largest first."""

    groups: Sequence[Group]
    tasks: int
    """How many are in all groups."""
    looked_back_to: dt.datetime | None
    """It was bounded: it looked at failures of tasks asked for down to that time, and at none before. None: at all."""
    first: dt.datetime | None = None
    """When the first and the last of them failed; None: there are none."""
    last: dt.datetime | None = None

    @property
    def bounds(self) -> list[dt.datetime]:
        """Where the parts of `Group.counts` begin, and where the last one ends."""
        if self.first is None or self.last is None:
            return []
        return [self.first + (self.last - self.first) / BUCKETS * number for number in range(BUCKETS + 1)]


def failures(reader: Reader, search: Filter, *, most: int = MOST_LOOKED_AT, session: Session | None = None) -> Failures:
    """The newest ``most`` failures that the filter finds, in groups. A filter that names statuses decides itself what
    has failed; there, what has an error is grouped. Raises `StoreError`."""
    if session is None:
        with reader.session() as own:
            return failures(reader, search, most=most, session=own)
    wanted = conditions(search, reader.dialect)
    if any(term.key == "status" for term in search.terms):
        wanted.indexed.append(AsyncTask.error_type.is_not(None))
    else:
        wanted.indexed.append(AsyncTask.status.in_(FAILED))
    newest = reader.seen(_failures(and_(true(), *wanted.scanned), reader.dialect)).where(*wanted.indexed)
    newest = newest.order_by(AsyncTask.created_at.desc(), AsyncTask.id.desc()).limit(most + 1)
    looked_back_to: dt.datetime | None = None

    def matching() -> Iterator[Failure]:
        nonlocal looked_back_to
        last = None
        for number, (matches, created_at, *about) in enumerate(session.execute(newest, execution_options=STREAMED)):
            if number == most:
                looked_back_to = last
            elif matches:
                yield Failure(*about)
            last = created_at

    groups, span = _grouped(matching())
    return Failures(groups, sum(group.tasks for group in groups), looked_back_to, *span)


def _failures(matches: ColumnElement[bool], dialect: str) -> Select[Any]:
    """Whether it matches, when it was asked for, and if it matches the fields of a `Failure`."""
    newest_run = (
        select(_end(AsyncTaskAttempt.traceback, TRACEBACK_END, dialect))
        .where(AsyncTaskAttempt.celery_task_id == AsyncTask.celery_task_id)
        .order_by(AsyncTaskAttempt.run_key.desc())
        .limit(1)
        .scalar_subquery()
    )
    return select(
        case((matches, 1), else_=0),
        AsyncTask.created_at,
        AsyncTask.celery_task_id,
        AsyncTask.name,
        func.coalesce(AsyncTask.completed_at, AsyncTask.created_at),
        AsyncTask.created_at,
        AsyncTask.customer,
        func.coalesce(AsyncTask.error_type, AsyncTask.status),
        func.coalesce(func.substr(AsyncTask.error_message, 1, MESSAGE_START), ""),
        case((matches, newest_run)),
    )


def _end(column: Any, size: int, dialect: str) -> ColumnElement[Any]:
    return func.substr(column, -size) if dialect == "sqlite" else func.right(column, size)


def grouped(found: Iterable[Failure]) -> list[Group]:
    """Failures in any order, in groups, the largest first."""
    return _grouped(found)[0]


def _grouped(found: Iterable[Failure]) -> tuple[list[Group], Sequence[dt.datetime]]:
    """The groups, and when the first and the last of all failed; nothing where there are none."""
    groups: dict[tuple[str, str, str | None], _Group] = {}
    unsent: dict[tuple[str, str], _Group] = {}
    for one in found:
        cause = first_reason(one.message)
        message = normal(cause)
        if cause != one.message:
            unsent.setdefault((one.error_type, message), _Group()).add(one)
        else:
            where = place(one.traceback, one.name.partition(".")[0])
            groups.setdefault((one.error_type, message, where), _Group()).add(one)
    every = [*groups.values(), *unsent.values()]
    span = (min(group.times[0][0] for group in every), max(group.times[1][0] for group in every)) if every else ()
    for key in sorted(groups, key=lambda key: -groups[key].count):  # what was not sent goes to the likeliest cause
        if (held_up := unsent.pop(key[:2], None)) is not None:
            groups[key].hold_up(held_up)
    made = [group.made(*key, span) for key, group in groups.items()]
    made += [group.made(*key, None, span, unsent=group.count) for key, group in unsent.items()]
    return sorted(made, key=lambda group: (-group.tasks, -group.last.timestamp(), group.example)), span


class _Group:
    """A `Group` that grows."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()
        self.customers: set[int] = set()
        self.moments: list[dt.datetime] = []
        """When each failed."""
        self.times: list[tuple[dt.datetime, str]] = []
        """The first and the last of them: when, and its id."""
        self.asked: list[dt.datetime] = []
        """When the first and the last were asked for."""
        self.unsent = 0

    @property
    def count(self) -> int:
        return len(self.moments)

    def add(self, one: Failure) -> None:
        self.names[one.name] += 1
        if one.customer is not None:
            self.customers.add(one.customer)
        self.moments.append(one.at)
        moment = (one.at, one.id)
        self.times = [min(*self.times, moment), max(*self.times, moment)] if self.times else [moment, moment]
        self._ask(one.asked_at, one.asked_at)

    def _ask(self, first: dt.datetime, last: dt.datetime) -> None:
        self.asked = [min(self.asked[0], first), max(self.asked[1], last)] if self.asked else [first, last]

    def hold_up(self, other: _Group) -> None:
        self.names += other.names
        self.customers |= other.customers
        self.moments += other.moments
        self._ask(*other.asked)
        self.unsent = other.count

    def made(
        self, error_type: str, message: str, where: str | None, span: Sequence[dt.datetime], unsent: int = 0
    ) -> Group:
        (first, _), (last, example) = self.times
        names = sorted(self.names, key=lambda name: (-self.names[name], name))
        return Group(
            error_type=error_type,
            message=message,
            place=where,
            tasks=self.count,
            unsent=unsent or self.unsent,
            first=first,
            last=last,
            customers=len(self.customers),
            names=names,
            example=example,
            first_asked=self.asked[0],
            last_asked=self.asked[1],
            counts=_counts(self.moments, *span),
        )


def _counts(moments: Iterable[dt.datetime], first: dt.datetime, last: dt.datetime) -> list[int]:
    counts = [0] * BUCKETS
    length = (last - first).total_seconds() or 1.0
    for at in moments:
        counts[min(int((at - first).total_seconds() / length * BUCKETS), BUCKETS - 1)] += 1
    return counts
