"""Statistics over time: for each hour how many tasks there were, how many failed, how long they waited and ran.

The database computes them. For each part of the time it looks at the newest tasks only, `MAX_SCANNED` of them in all,
and the result says so: the newest tasks of a busy store cover less than an hour, but a whole day must be visible. The
number of tasks is counted if an index can do it, up to `MAX_COUNTED` in all. It is never estimated from the tasks that
were looked at, because tasks come in bursts.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Select, func, literal, not_, select, union_all
from sqlalchemy.orm import Session

from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.scope import SHOWN
from celery_asynctask.queries.search.condition import conditions
from celery_asynctask.queries.search.filter import Filter
from celery_asynctask.queries.search.order import NEWEST
from celery_asynctask.queries.statistics.measures import Percentiles, grouped, measures
from celery_asynctask.store.models import AsyncTask

MAX_SCANNED: Final = 4_800
"""Rows that a series is computed from."""
FEWER: Final = 960
"""The same for one name or for some customers, whose rows lie far apart."""
MAX_COUNTED: Final = 120_000
"""Tasks that are counted in addition: 5,000 in each of 24 busy hours, or all of them in one burst. On PostgreSQL it
takes 10 to 50 ms, depending on whether its vacuum keeps up."""
HOUR: Final = dt.timedelta(hours=1)


class Part(NamedTuple):
    """The tasks that were created in one part of the time."""

    start: dt.datetime
    end: dt.datetime
    """The end, not included."""
    tasks: int
    """Number of matching tasks among those looked at. The next three are of the same tasks."""
    failed: int
    wait: Percentiles
    run: Percentiles
    looked_back_to: dt.datetime | None
    """Only tasks created at that time or later were looked at. None: all of them."""
    there: int
    """Number of matching tasks that exist, at least."""
    has_more: bool
    """Whether there may be more than ``there``."""

    @property
    def failure_rate(self) -> float | None:
        """The part of the tasks looked at that failed, from 0 to 1; None: there are no tasks."""
        return self.failed / self.tasks if self.tasks else None


def series(
    reader: Reader,
    session: Session,
    search: Filter,
    end: dt.datetime,
    *,
    length: dt.timedelta = HOUR,
    count: int = 24,
    limit: int = MAX_SCANNED,
    max_counted: int = MAX_COUNTED,
) -> Sequence[Part]:
    """Statistics of the tasks that the filter finds, in ``count`` parts of that ``length`` up to ``end``, the earliest
    first. ``limit`` and ``max_counted`` bound the rows of all parts together."""
    wanted = conditions(search, reader.dialect, reader.scope)
    measured = reader.seen(measures(wanted.matches)).where(*wanted.indexed)
    times = [(end - length * (count - number), end - length * (count - number - 1)) for number in range(count)]
    per_part = max(limit // count, 1)
    newest = [_newest(measured, number, *time, per_part) for number, time in enumerate(times)]
    rows = {row.part: row for row in session.execute(grouped(union_all(*newest), "part", reader.dialect))}
    parts = [_part(rows.get(number), *time) for number, time in enumerate(times)]
    full = [number for number, row in rows.items() if row.looked_at == per_part]
    # For a single term, or a scope of customers or creators, an index has the time as well, and nothing else is read.
    is_cheap = not wanted.scanned and len(search.terms) + sum(part is not None for part in reader.scope) <= 1
    bound = max(per_part, max_counted // max(len(full), 1)) if is_cheap else per_part
    indexed = reader.walked(select(AsyncTask.created_at)).where(*wanted.indexed)
    for number, walked, hidden in _counts(session, indexed, times, bound + 1) if full else ():
        counted = walked - hidden
        if counted > per_part:
            parts[number] = parts[number]._replace(
                looked_back_to=rows[number].first,
                there=parts[number].tasks if wanted.scanned else min(counted, bound),
                has_more=bool(wanted.scanned) or walked > bound,
            )
    return parts


def _counts(
    session: Session, indexed: Select[Any], times: Sequence[tuple[dt.datetime, dt.datetime]], limit: int
) -> Sequence[Any]:
    """Each part with the number of its rows, counted up to ``limit``, and how many of them are hidden. Only indexes are
    read. Parts whose number is known are counted as well: SQLAlchemy takes 35 ms to compile a statement with a new
    number of parts."""
    selects = []
    for number, (start, end) in enumerate(times):
        task = indexed.where(AsyncTask.created_at >= start, AsyncTask.created_at < end)
        counts = [_counted(one.limit(limit)) for one in (task, task.where(not_(SHOWN)))]
        selects.append(select(literal(number).label("part"), *counts))
    return session.execute(union_all(*selects)).all()


def _counted(tasks: Select[Any]) -> Any:
    return select(func.count()).select_from(tasks.subquery()).scalar_subquery()


def _newest(measured: Select[Any], number: int, start: dt.datetime, end: dt.datetime, limit: int) -> Select[Any]:
    """SELECT of the measures of the newest tasks of one part, with the part's number."""
    newest = measured.where(AsyncTask.created_at >= start, AsyncTask.created_at < end)
    newest = newest.add_columns(literal(number).label("part"))
    return select(newest.order_by(*NEWEST.terms).limit(limit).subquery())


def _part(row: Any, start: dt.datetime, end: dt.datetime) -> Part:
    """A part that has no tasks besides those of ``row``."""
    if row is None:
        return Part(start, end, 0, 0, Percentiles(), Percentiles(), None, 0, False)
    wait, run = Percentiles.of(row, "wait"), Percentiles.of(row, "run")
    return Part(start, end, row.tasks, row.failed, wait, run, None, row.tasks, False)
