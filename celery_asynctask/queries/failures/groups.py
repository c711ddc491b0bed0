"""Groups failures by their cause: the same error type, the same normalized message, and the same place in the code.

At most `MAX_SCANNED` of the newest failures that a filter finds are fetched, each with the end of its traceback, and
grouped here: a database can neither normalize a message nor tell whose code a frame is. Where that end has no frame of
the user's own, behind a long message or below many frames of libraries, the traceback is fetched once more, whole.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Select, case, func, select
from sqlalchemy.orm import Session

from celery_asynctask.core.limits import MAX_TRACEBACK
from celery_asynctask.core.reasons import first_reason
from celery_asynctask.core.status import FAILED
from celery_asynctask.queries.attempts import of_newest
from celery_asynctask.queries.failures.fingerprint import find, normal, place
from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.search.condition import Condition, conditions
from celery_asynctask.queries.search.filter import Filter
from celery_asynctask.queries.search.order import NEWEST
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt

MAX_SCANNED: Final = 10_000
"""Failures that are grouped."""
TRACEBACK_END: Final = 4000
"""Characters of a traceback that are fetched: its end, where the error is mostly."""
_WHOLE: Final = 2 * MAX_TRACEBACK
"""Characters of a traceback that is fetched whole, at most: another release may have stored it."""
_WHOLE_AT_ONCE: Final = 100
"""Tracebacks that are fetched whole by one query."""
MESSAGE_START: Final = 1000
"""Characters of a message that are fetched."""
BUCKETS: Final = 24
"""Parts of equal length, of the time from the first to the last failure, in which failures are counted."""


class Failure(NamedTuple):
    """A task that failed: the columns that grouping needs."""

    id: str
    """Celery task id."""
    name: str
    at: dt.datetime
    """When it ended; if it has not, when it was created."""
    created_at: dt.datetime
    """When it was created."""
    customer_key: str
    """Empty: it is for none."""
    error_type: str
    """The status, if there is no error type."""
    message: str
    """The beginning of its message, `MESSAGE_START` characters."""
    traceback: str | None
    """The end of its latest attempt's traceback, `TRACEBACK_END` characters or `_WHOLE`; None: there is none."""


class Group(NamedTuple):
    """Failures with the same cause."""

    error_type: str
    message: str
    """The message as `normal` gives it."""
    place: str | None
    """The place as `fingerprint.place` gives it."""
    tasks: int
    """Number of failures in the group."""
    unsent: int
    """Number of them that were never sent, because a task before them in their workflow failed like this."""
    first: dt.datetime
    last: dt.datetime
    customers: int
    """Number of different customers; tasks without a customer do not count."""
    names: Sequence[str]
    """Task names, the most frequent first."""
    example: str
    """Id of the newest task that ran."""
    example_customer: str
    """Key of its customer; empty: it is for none."""
    first_created: dt.datetime
    """When the first of its tasks was created. Searches go by the time of creation."""
    last_created: dt.datetime
    """When the last of its tasks was created."""
    counts: Sequence[int]
    """Number of failures in each of `BUCKETS` parts of the time from the first to the last failure of all groups."""


class Failures(NamedTuple):
    """The failures that a filter finds, in groups."""

    groups: Sequence[Group]
    """The largest first."""
    tasks: int
    """Number of failures in all groups."""
    looked_back_to: dt.datetime | None
    """Only failures of tasks created at that time or later were looked at. None: all of them."""
    first: dt.datetime | None = None
    """When the first of them failed; None: there are none."""
    last: dt.datetime | None = None
    """When the last of them failed; None: there are none."""

    @property
    def bounds(self) -> list[dt.datetime]:
        """The beginnings of the parts of `Group.counts`, and the end of the last part."""
        if self.first is None or self.last is None:
            return []
        return [self.first + (self.last - self.first) / BUCKETS * number for number in range(BUCKETS + 1)]


def failures(reader: Reader, session: Session, search: Filter, *, limit: int = MAX_SCANNED) -> Failures:
    """Group the newest ``limit`` failures that the filter finds. If the filter names statuses, every task with an error
    among them counts as a failure."""
    wanted = conditions(search, reader.dialect, reader.scope)
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
        without_place: list[tuple[int, Failure]] = []
        for number, (matches, row, *fields) in enumerate(session.execute(newest)):
            failure = Failure(*fields)
            if number == limit:
                looked_back_to = last
            elif matches and _may_have_place(failure):
                without_place.append((row, failure._replace(traceback=None)))
            elif matches:
                yield failure
            last = failure.created_at
        for first in range(0, len(without_place), _WHOLE_AT_ONCE):
            rows = dict(without_place[first : first + _WHOLE_AT_ONCE])
            for row, traceback in session.execute(_tracebacks(rows, reader.dialect)):
                yield rows[row]._replace(traceback=traceback)

    groups = grouped(matching())
    return groups._replace(looked_back_to=looked_back_to)


def _may_have_place(failure: Failure) -> bool:
    """Whether a frame of the user's own may be in the part of the traceback that was not fetched: the end has none."""
    text = failure.traceback
    return text is not None and len(text) == TRACEBACK_END and not find(text, _package(failure)).is_own


def _package(failure: Failure) -> str:
    return failure.name.partition(".")[0]


def _latest_traceback(dialect: str, length: int) -> Any:
    """The end of the traceback of a task's latest attempt."""
    text = AsyncTaskAttempt.traceback
    return (
        select(func.substr(text, -length) if dialect == "sqlite" else func.right(text, length))
        .where(of_newest())
        .order_by(AsyncTaskAttempt.run_key.desc())
        .limit(1)
        .scalar_subquery()
    )


def _tracebacks(rows: Iterable[int], dialect: str) -> Select[Any]:
    """SELECT of rows of tasks, each with its whole traceback."""
    return select(AsyncTask.id, _latest_traceback(dialect, _WHOLE)).where(AsyncTask.id.in_(rows))


def _failures(matches: Condition, dialect: str) -> Select[Any]:
    """SELECT of whether a task matches, its row, and the fields of a `Failure`, with a traceback only for one that
    matches."""
    return select(
        case((matches, 1), else_=0),
        AsyncTask.id,
        AsyncTask.celery_task_id,
        AsyncTask.name,
        func.coalesce(AsyncTask.completed_at, AsyncTask.created_at),
        AsyncTask.created_at,
        AsyncTask.customer_key,
        func.coalesce(AsyncTask.error_type, AsyncTask.status),
        func.coalesce(func.substr(AsyncTask.error_message, 1, MESSAGE_START), ""),
        case((matches, _latest_traceback(dialect, TRACEBACK_END))),
    )


def grouped(failed: Iterable[Failure]) -> Failures:
    """Failures in any order, in groups."""
    ran: defaultdict[tuple[str, str, str | None], list[Failure]] = defaultdict(list)
    unsent: defaultdict[tuple[str, str], list[Failure]] = defaultdict(list)
    for failure in failed:
        cause = first_reason(failure.message)
        message = normal(cause)
        kept = failure._replace(message="", traceback=None)  # these texts of all failures would take 50 MB
        if cause != failure.message:
            unsent[failure.error_type, message].append(kept)
        else:
            where = place(failure.traceback, _package(failure))
            ran[failure.error_type, message, where].append(kept)
    moments = [failure.at for members in (*ran.values(), *unsent.values()) for failure in members]
    if not moments:
        return Failures([], 0, None)
    span = min(moments), max(moments)
    likeliest = sorted(ran, key=lambda key: -len(ran[key]))  # the largest group takes the unsent tasks
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
    members = [*ran, *unsent]
    times = [(failure.at, failure.id, failure.customer_key) for failure in ran or unsent]
    first, (last, example, example_customer) = min(times)[0], max(times)
    names = Counter(failure.name for failure in members)
    return Group(
        error_type=error_type,
        message=message,
        place=where,
        tasks=len(members),
        unsent=len(unsent),
        first=first,
        last=last,
        customers=len({failure.customer_key for failure in members} - {""}),
        names=sorted(names, key=lambda name: (-names[name], name)),
        example=example,
        example_customer=example_customer,
        first_created=min(failure.created_at for failure in members),
        last_created=max(failure.created_at for failure in members),
        counts=_counts([failure.at for failure in members], *span),
    )


def _counts(moments: Iterable[dt.datetime], first: dt.datetime, last: dt.datetime) -> list[int]:
    counts = [0] * BUCKETS
    length = (last - first).total_seconds() or 1.0
    for at in moments:
        counts[min(int((at - first).total_seconds() / length * BUCKETS), BUCKETS - 1)] += 1
    return counts
