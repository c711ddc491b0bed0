"""Of the tasks of one name: the newest, those that failed last, and those that took the longest."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import CTE, func, literal, select, union_all
from sqlalchemy.orm import Session

from celery_asynctask.core.status import FAILED
from celery_asynctask.queries.reader import Reader, task_columns
from celery_asynctask.queries.search.condition import conditions, run_microseconds
from celery_asynctask.queries.search.filter import Filter, Term, Value
from celery_asynctask.queries.search.order import NEWEST
from celery_asynctask.store.models import AsyncTask

MOST_LOOKED_AT: Final = 1_000
"""Tasks of a name among which failures and slow ones are looked for."""


class Named(NamedTuple):
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


def named(reader: Reader, session: Session, name: str, *, rows: int = 10, most: int = MOST_LOOKED_AT) -> Named:
    """So many ``rows`` of each, of the newest ``most`` tasks of that name."""
    asked = select(AsyncTask.id, AsyncTask.created_at, AsyncTask.status, run_microseconds().label("run"))
    asked = reader.seen(asked).where(*conditions(by_name(name), reader.dialect).indexed)
    asked = asked.order_by(*NEWEST.terms).limit(most)
    one = asked.cte("newest")
    newest_first = (one.c.created_at.desc(), one.c.id.desc())
    each = {
        "newest": select(one.c.id).order_by(*newest_first),
        "failures": select(one.c.id).where(one.c.status.in_(FAILED)).order_by(*newest_first),
        "slowest": select(one.c.id).where(one.c.run.is_not(None)).order_by(one.c.run.desc(), *newest_first),
    }
    ids: dict[str, list[int]] = {what: [] for what in each}
    parts = []
    for what, chosen in each.items():
        some = chosen.limit(rows).subquery()
        parts.append(select(literal(what).label("what"), some.c.id))
    for what, number in session.execute(union_all(*parts)):
        ids[what].append(number)
    columns = reader.seen(task_columns(reader.dialect, values=False))
    found = session.execute(columns.where(AsyncTask.id.in_({number for some in ids.values() for number in some})))
    by_id = {row.id: row for row in found}
    newest, failures = (
        sorted((by_id[number] for number in ids[what]), key=lambda row: (row.created_at, row.id), reverse=True)
        for what in ("newest", "failures")
    )
    slowest = sorted((by_id[number] for number in ids["slowest"]), key=_slowness, reverse=True)
    return Named(newest, failures, slowest, _first(session, one, most))


def _slowness(row: Any) -> Any:
    return row.completed_at - row.started_at, row.created_at, row.id


def _first(session: Session, one: CTE, most: int) -> dt.datetime | None:
    """When the last one that was looked at was asked for, where there may be others behind it."""
    row = session.execute(select(func.count(), func.min(one.c.created_at)).select_from(one)).one()
    return row[1] if row[0] == most else None
