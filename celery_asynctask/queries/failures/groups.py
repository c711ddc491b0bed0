"""Failures with the same cause, together: of one type, one message but for what varies in it, and one place.

The newest failures that a filter finds are fetched, `MAX_SCANNED` of them at most, with the end of their tracebacks,
and grouped here: what is the same message, and whose code it was, is nothing that a database can tell.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Select, case, func, select
from sqlalchemy.orm import Session

from celery_asynctask.core.reasons import first_reason
from celery_asynctask.core.status import FAILED
from celery_asynctask.queries.failures.fingerprint import normal, place
from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.search.condition import Condition, conditions
from celery_asynctask.queries.search.filter import Filter
from celery_asynctask.queries.search.order import NEWEST
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt

MAX_SCANNED: Final = 10_000
"""Failures that are grouped."""
TRACEBACK_END: Final = 4000
"""Characters of a traceback that are fetched: its end, where the error is."""
MESSAGE_START: Final = 1000
"""Characters of a message that are fetched."""
BUCKETS: Final = 24
"""Parts of the time looked at in which failures are counted."""


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


def failures(reader: Reader, session: Session, search: Filter, *, limit: int = MAX_SCANNED) -> Failures:
    """The newest ``most`` failures that the filter finds, in groups. A filter that names statuses decides itself what
    has failed; there, what has an error is grouped."""
    wanted = conditions(search, reader.dialect)
    if any(term.key == "status" for term in search.terms):
        wanted.indexed.append(AsyncTask.error_type.is_not(None))
    else:
        wanted.indexed.append(AsyncTask.status.in_(FAILED))
    newest = reader.seen(_failures(wanted.matches, reader.dialect)).where(*wanted.indexed)
    newest = newest.order_by(*NEWEST.terms).limit(limit + 1).execution_options(yield_per=1000)
    looked_back_to: dt.datetime | None = None

    def matching() -> Iterator[Failure]:
        nonlocal looked_back_to
        last = None
        for number, (matches, *about) in enumerate(session.execute(newest)):
            one = Failure(*about)
            if number == limit:
                looked_back_to = last
            elif matches:
                yield one
            last = one.asked_at

    found = grouped(matching())
    return found._replace(looked_back_to=looked_back_to)


def _failures(matches: Condition, dialect: str) -> Select[Any]:
    """Whether it matches, and the fields of a `Failure`, with a traceback only if it matches."""
    traceback = AsyncTaskAttempt.traceback
    is_sqlite = dialect == "sqlite"
    newest_run = (
        select(func.substr(traceback, -TRACEBACK_END) if is_sqlite else func.right(traceback, TRACEBACK_END))
        .where(AsyncTaskAttempt.celery_task_id == AsyncTask.celery_task_id)
        .order_by(AsyncTaskAttempt.run_key.desc())
        .limit(1)
        .scalar_subquery()
    )
    return select(
        case((matches, 1), else_=0),
        AsyncTask.celery_task_id,
        AsyncTask.name,
        func.coalesce(AsyncTask.completed_at, AsyncTask.created_at),
        AsyncTask.created_at,
        AsyncTask.customer,
        func.coalesce(AsyncTask.error_type, AsyncTask.status),
        func.coalesce(func.substr(AsyncTask.error_message, 1, MESSAGE_START), ""),
        case((matches, newest_run)),
    )


def grouped(found: Iterable[Failure]) -> Failures:
    """Failures in any order, in groups."""
    ran: defaultdict[tuple[str, str, str | None], list[Failure]] = defaultdict(list)
    unsent: defaultdict[tuple[str, str], list[Failure]] = defaultdict(list)
    for one in found:
        cause = first_reason(one.message)
        message = normal(cause)
        kept = one._replace(message="", traceback=None)  # of all that are looked at, these texts have 50 MB
        if cause != one.message:
            unsent[one.error_type, message].append(kept)
        else:
            ran[one.error_type, message, place(one.traceback, one.name.partition(".")[0])].append(kept)
    moments = [one.at for some in (*ran.values(), *unsent.values()) for one in some]
    if not moments:
        return Failures([], 0, None)
    span = min(moments), max(moments)
    likeliest = sorted(ran, key=lambda key: -len(ran[key]))  # to which what was not sent goes
    groups = [_group(*key, ran[key], unsent.pop(key[:2], []), span) for key in likeliest]
    groups += [_group(*key, None, [], held_up, span) for key, held_up in unsent.items()]
    groups.sort(key=lambda group: (-group.tasks, -group.last.timestamp(), group.example))
    return Failures(groups, len(moments), None, *span)


def _group(
    error_type: str,
    message: str,
    where: str | None,
    ran: Sequence[Failure],
    unsent: Sequence[Failure],
    span: tuple[dt.datetime, dt.datetime],
) -> Group:
    every = [*ran, *unsent]
    times = [(one.at, one.id) for one in ran or unsent]
    (first, _), (last, example) = min(times), max(times)
    names = Counter(one.name for one in every)
    return Group(
        error_type=error_type,
        message=message,
        place=where,
        tasks=len(every),
        unsent=len(unsent),
        first=first,
        last=last,
        customers=len({one.customer for one in every} - {None}),
        names=sorted(names, key=lambda name: (-names[name], name)),
        example=example,
        first_asked=min(one.asked_at for one in every),
        last_asked=max(one.asked_at for one in every),
        counts=_counts([one.at for one in every], *span),
    )


def _counts(moments: Iterable[dt.datetime], first: dt.datetime, last: dt.datetime) -> list[int]:
    counts = [0] * BUCKETS
    length = (last - first).total_seconds() or 1.0
    for at in moments:
        counts[min(int((at - first).total_seconds() / length * BUCKETS), BUCKETS - 1)] += 1
    return counts
