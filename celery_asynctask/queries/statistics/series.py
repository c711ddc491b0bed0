"""How tasks do over time: of each hour how many there were, how many failed, how long they waited and ran.

Made in the database. Of each part of the time it looks at the newest tasks, at so many that `MAX_SCANNED` are looked
at in all, and says so: a busy store has less than an hour among its newest, and yet the whole day is to be seen. How
many there are is counted where an index does that, up to `MAX_COUNTED` in all; it is never reckoned from those that
were looked at, for tasks come in bursts.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Select, func, literal, select, union_all
from sqlalchemy.orm import Session

from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.search.condition import conditions
from celery_asynctask.queries.search.filter import Filter
from celery_asynctask.queries.search.order import NEWEST
from celery_asynctask.queries.statistics.measures import Percentiles, grouped, measures
from celery_asynctask.store.models import AsyncTask

MAX_SCANNED: Final = 4_800
"""Rows that a series is made of."""
FEWER: Final = 960
"""The same of one name, or of some customers: their rows lie far apart."""
MAX_COUNTED: Final = 120_000
"""Tasks that are counted besides, in all: 5,000 an hour where all 24 have more, and in a single burst every one. On
PostgreSQL it takes 10 to 50 ms, as its vacuum keeps up or not."""
HOUR: Final = dt.timedelta(hours=1)


class Part(NamedTuple):
    """The tasks that were asked for in one part of the time."""

    start: dt.datetime
    end: dt.datetime
    """Not included."""
    tasks: int
    """Of those that were looked at; so is all that follows, but for ``there``."""
    failed: int
    wait: Percentiles
    run: Percentiles
    looked_back_to: dt.datetime | None
    """It was bounded: it looked at tasks asked for down to that time, and at none before. None: at all."""
    there: int
    """How many there are, at least."""
    has_more: bool
    """There may be more than ``there``."""

    @property
    def failure_rate(self) -> float | None:
        """From 0 to 1, of those that were looked at; None: there are no tasks."""
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
    """So many parts of that ``length`` up to ``end``, the first one first, of the tasks that the filter finds."""
    wanted = conditions(search, reader.dialect)
    measured = reader.seen(measures(wanted.matches)).where(*wanted.indexed)
    times = [(end - length * (count - number), end - length * (count - number - 1)) for number in range(count)]
    each = max(limit // count, 1)
    parts = [_newest(measured, number, *time, each) for number, time in enumerate(times)]
    found = {row.part: row for row in session.execute(grouped(union_all(*parts), "part", reader.dialect))}
    told = [_told(found.get(number), *time) for number, time in enumerate(times)]
    full = [number for number, row in found.items() if row.looked_at == each]
    # For one term, or one bound on what is seen, there is an index that has the time too: it alone is read.
    is_cheap = not wanted.scanned and len(search.terms) + (reader.customers is not None) <= 1
    bound = max(each, max_counted // max(len(full), 1)) if is_cheap else each
    led_to = reader.seen(select(AsyncTask.created_at)).where(*wanted.indexed)
    for number, counted in _counts(session, led_to, times, bound + 1).items() if full else ():
        if counted > each:
            told[number] = told[number]._replace(
                looked_back_to=found[number].first,
                there=told[number].tasks if wanted.scanned else min(counted, bound),
                has_more=bool(wanted.scanned) or counted > bound,
            )
    return told


def _counts(
    session: Session, led_to: Select[Any], times: Sequence[tuple[dt.datetime, dt.datetime]], limit: int
) -> dict[int, int]:
    """How many rows there are in each part, ``most`` at most: an index alone tells. It asks of those too of which it is
    known: SQLAlchemy takes 35 ms for a statement of another number of parts than it has seen."""
    each = []
    for number, (start, end) in enumerate(times):
        one = led_to.where(AsyncTask.created_at >= start, AsyncTask.created_at < end).limit(limit).subquery()
        each.append(select(literal(number).label("part"), func.count().label("there")).select_from(one))
    return {row.part: row.there for row in session.execute(union_all(*each))}


def _newest(measured: Select[Any], number: int, start: dt.datetime, end: dt.datetime, limit: int) -> Select[Any]:
    """What is known of the newest of one part, and its number."""
    newest = measured.where(AsyncTask.created_at >= start, AsyncTask.created_at < end)
    newest = newest.add_columns(literal(number).label("part"))
    return select(newest.order_by(*NEWEST.terms).limit(limit).subquery())


def _told(row: Any, start: dt.datetime, end: dt.datetime) -> Part:
    """As if no others were there."""
    if row is None:
        return Part(start, end, 0, 0, Percentiles(), Percentiles(), None, 0, False)
    wait, run = Percentiles.of(row, "wait"), Percentiles.of(row, "run")
    return Part(start, end, row.tasks, row.failed, wait, run, None, row.tasks, False)
