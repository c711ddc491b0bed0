"""Statistics by task name: how many tasks there are, how many failed, how long they waited and ran; and for one name
its newest tasks, its latest failures and its slowest tasks.

The database computes them from the newest tasks that a filter finds. It looks at no more than `MAX_SCANNED`, and the
result says so and how far back that was, as `page` does.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from celery_asynctask.core.status import FAILED
from celery_asynctask.queries.reader import Parts, Reader
from celery_asynctask.queries.search.condition import LENGTHS, conditions
from celery_asynctask.queries.search.filter import Filter, Term, Value
from celery_asynctask.queries.search.glob import quoted
from celery_asynctask.queries.search.keys import KEYS, time
from celery_asynctask.queries.search.order import NEWEST
from celery_asynctask.queries.statistics.measures import Percentiles, grouped, looked_back_to, measures
from celery_asynctask.queries.task import of_list
from celery_asynctask.store.models import AsyncTask

MAX_SCANNED: Final = 100_000
"""Rows that statistics are computed from."""
MAX_PER_NAME: Final = 1_000
"""Tasks of a name among which failures and slow tasks are searched for."""
DEFAULT_AGE: Final = dt.timedelta(days=1)
"""Age of the oldest tasks that count if a search names no time."""


class Name(NamedTuple):
    """The tasks of one name."""

    name: str
    tasks: int
    """Number of tasks; the next two are numbers, too."""
    failed: int
    retries: int
    wait: Percentiles
    """From a task's creation to its first start."""
    run: Percentiles
    """From its first start to its end, including retries and their waits."""

    @property
    def failure_rate(self) -> float:
        """The part of the tasks that failed, from 0 to 1. Tasks that have not ended count as tasks."""
        return self.failed / self.tasks


class Statistics(NamedTuple):
    """The task names that a filter finds, those with most tasks first."""

    names: Sequence[Name]
    since: dt.datetime
    """Beginning of the time looked at."""
    until: dt.datetime
    """End of the time looked at."""
    looked_back_to: dt.datetime | None
    """Only tasks created at that time or later were looked at. None: all of them."""

    def per_minute(self, name: Name) -> float:
        """Tasks of that name created per minute of the time looked at."""
        return name.tasks / max((self.until - self.since).total_seconds() / 60, 1 / 60)


def with_time(search: Filter, now: dt.datetime) -> Filter:
    """The filter; if it names no time, narrowed to the last `DEFAULT_AGE` before ``now``."""
    if any(KEYS[term.key].read is time for term in search.terms):
        return search
    since = Term("since", (), (Value(">=", now - DEFAULT_AGE),), False)
    return search._replace(terms=(*search.terms, since))


def statistics(
    reader: Reader, session: Session, search: Filter, now: dt.datetime, *, limit: int = MAX_SCANNED
) -> Statistics:
    """Statistics of the newest ``limit`` tasks that the filter finds."""
    wanted = conditions(search, reader.dialect, reader.scope)
    newest = reader.seen(measures(wanted.matches).add_columns(AsyncTask.name)).where(*wanted.indexed)
    newest = newest.order_by(*NEWEST.terms)
    rows = session.execute(grouped(newest.limit(limit), "name", reader.dialect)).all()
    bound = looked_back_to(session, newest, rows, limit)
    low, high = created_between(search)
    since = bound or low or min((row.first for row in rows), default=now)
    names = [
        Name(row.name, row.tasks, row.failed, row.retries, Percentiles.of(row, "wait"), Percentiles.of(row, "run"))
        for row in rows
        if row.tasks
    ]
    names.sort(key=lambda name: (-name.tasks, name.name))
    return Statistics(names, since, max(min(high or now, now), since), bound)


def created_between(search: Filter) -> tuple[dt.datetime | None, dt.datetime | None]:
    """The earliest and the latest time of creation that the filter allows; None: it names none."""
    lows, highs = [], []
    for term in search.terms:
        if term.key not in ("since", "until", "created") or term.negated or len(term.values) != 1:
            continue
        value = term.values[0]
        if value.operator in (">", ">=", ".."):
            lows.append(value.value)
        if value.operator in ("<", "<=", ".."):
            highs.append(value.high or value.value)
    return max(lows, default=None), min(highs, default=None)


class NameDetail(NamedTuple):
    """Some tasks of one name: rows of `task.of_list` without the tasks' values."""

    newest: Sequence[Any]
    failures: Sequence[Any]
    """The latest failures, the newest first."""
    slowest: Sequence[Any]
    """The tasks that took longest from their first start to their end, the slowest first."""
    looked_back_to: dt.datetime | None
    """Only tasks created at that time or later were looked at. None: all of them."""


def by_name(name: str) -> Filter:
    """The filter for tasks of exactly this name."""
    return Filter((Term("name", (), (Value("=", quoted(name)),), False),))


def name_detail(
    reader: Reader, session: Session, name: str, *, rows: int = 10, limit: int = MAX_PER_NAME
) -> NameDetail:
    """At most ``rows`` newest, failed and slowest tasks each, among the newest ``limit`` tasks of that name."""
    newest_of_name = reader.seen(
        select(AsyncTask.id, AsyncTask.created_at, AsyncTask.status, LENGTHS["run"].label("run"))
        .where(*conditions(by_name(name), reader.dialect).indexed)
        .order_by(*NEWEST.terms)
        .limit(limit)
    )
    tasks = session.execute(newest_of_name).all()
    failed = [row for row in tasks if row.status in FAILED]
    ended = sorted((row for row in tasks if row.run is not None), key=lambda row: row.run, reverse=True)
    chosen = [[row.id for row in group[:rows]] for group in (tasks, failed, ended)]
    shown = reader.seen(of_list(reader.dialect, Parts(values=False)))
    details = session.execute(shown.where(AsyncTask.id.in_({number for ids in chosen for number in ids})))
    by_id = {row.id: row for row in details}
    newest, failures, slowest = ([by_id[number] for number in ids] for ids in chosen)
    return NameDetail(newest, failures, slowest, tasks[-1].created_at if len(tasks) == limit else None)
