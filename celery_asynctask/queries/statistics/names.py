"""What the tasks of each name have in common: how many, how many failed, how long they waited and ran; and of one name
the newest tasks, those that failed last, and those that took the longest.

Made in the database, of the newest tasks that a filter finds. It looks at `MAX_SCANNED` of them at most, and says so
and how far back that was, as `page` does.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from celery_asynctask.core.status import FAILED
from celery_asynctask.queries.reader import Reader, task_columns
from celery_asynctask.queries.search.condition import LENGTHS, conditions
from celery_asynctask.queries.search.filter import Filter, Term, Value
from celery_asynctask.queries.search.keys import KEYS, time
from celery_asynctask.queries.search.order import NEWEST
from celery_asynctask.queries.statistics.measures import Percentiles, grouped, looked_back_to, measures
from celery_asynctask.store.models import AsyncTask

MAX_SCANNED: Final = 100_000
"""Rows that statistics are made of."""
MAX_PER_NAME: Final = 1_000
"""Tasks of a name among which failures and slow ones are looked for."""
DEFAULT_AGE: Final = dt.timedelta(days=1)
"""How old tasks are looked at when a search names no time."""


class Name(NamedTuple):
    """The tasks of one name."""

    name: str
    tasks: int
    failed: int
    retries: int
    wait: Percentiles
    """From when a task was asked for to its first start."""
    run: Percentiles
    """From its first start to its end, its retries and their waits included."""

    @property
    def failure_rate(self) -> float:
        """From 0 to 1; of all that were asked for."""
        return self.failed / self.tasks


class Statistics(NamedTuple):
    """The names that a filter finds, those with most tasks first."""

    names: Sequence[Name]
    since: dt.datetime
    """The time looked at: from here ..."""
    until: dt.datetime
    """... to here."""
    looked_back_to: dt.datetime | None
    """It was bounded: it looked at tasks asked for down to that time, and at none before. None: at all."""

    def per_minute(self, name: Name) -> float:
        """Tasks of that name that were asked for in a minute of the time looked at."""
        return name.tasks / max((self.until - self.since).total_seconds() / 60, 1 / 60)


def with_time(search: Filter, now: dt.datetime) -> Filter:
    """The filter; where it names no time, with the last `DEFAULT_AGE` before ``now``."""
    if any(KEYS[term.key].read is time for term in search.terms):
        return search
    since = Term("since", (), (Value(">=", now - DEFAULT_AGE),), False)
    return search._replace(terms=(*search.terms, since))


def statistics(
    reader: Reader, session: Session, search: Filter, now: dt.datetime, *, limit: int = MAX_SCANNED
) -> Statistics:
    """Statistics of the newest ``most`` tasks that the filter finds."""
    wanted = conditions(search, reader.dialect)
    newest = reader.seen(measures(wanted.matches).add_columns(AsyncTask.name)).where(*wanted.indexed)
    newest = newest.order_by(*NEWEST.terms)
    rows = session.execute(grouped(newest.limit(limit), "name", reader.dialect)).all()
    bound = looked_back_to(session, newest, rows, limit)
    low, high = asked_between(search)
    since = bound or low or min((row.first for row in rows), default=now)
    names = [
        Name(row.name, row.tasks, row.failed, row.retries, Percentiles.of(row, "wait"), Percentiles.of(row, "run"))
        for row in rows
        if row.tasks
    ]
    names.sort(key=lambda one: (-one.tasks, one.name))
    return Statistics(names, since, max(min(high or now, now), since), bound)


def asked_between(search: Filter) -> tuple[dt.datetime | None, dt.datetime | None]:
    """Between which times the filter has tasks asked for, as far as it says."""
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
    """Rows of `reader.task_columns` without the tasks' values."""

    newest: Sequence[Any]
    failures: Sequence[Any]
    """The newest first."""
    slowest: Sequence[Any]
    """Of those that ended, the ones that took longest from their first start to their end."""
    looked_back_to: dt.datetime | None
    """It was bounded: it looked at tasks asked for down to that time, and at none before. None: at all."""


def by_name(name: str) -> Filter:
    """The search for the tasks of exactly this name."""
    glob = "".join(f"[{char}]" if char in "*?[" else char for char in name)
    return Filter((Term("name", (), (Value("=", glob),), False),))


def name_detail(
    reader: Reader, session: Session, name: str, *, rows: int = 10, limit: int = MAX_PER_NAME
) -> NameDetail:
    """So many ``rows`` of each, of the newest ``most`` tasks of that name."""
    asked = reader.seen(select(AsyncTask.id, AsyncTask.created_at, AsyncTask.status, LENGTHS["run"].label("run")))
    asked = asked.where(*conditions(by_name(name), reader.dialect).indexed).order_by(*NEWEST.terms).limit(limit)
    looked_at = session.execute(asked).all()
    failed = [row for row in looked_at if row.status in FAILED]
    ended = sorted((row for row in looked_at if row.run is not None), key=lambda row: row.run, reverse=True)
    chosen = [[row.id for row in some[:rows]] for some in (looked_at, failed, ended)]
    shown = reader.seen(task_columns(reader.dialect, values=False))
    found = session.execute(shown.where(AsyncTask.id.in_({number for ids in chosen for number in ids})))
    by_id = {row.id: row for row in found}
    newest, failures, slowest = ([by_id[number] for number in ids] for ids in chosen)
    return NameDetail(newest, failures, slowest, looked_at[-1].created_at if len(looked_at) == limit else None)
