"""Measures of groups of tasks: how many there are, how many failed, and how long they waited and ran.

The database computes them, in its own dialect, with the same results on all.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, FromClause, Select, SelectBase, case, cast, func, select
from sqlalchemy.orm import Session

from celery_asynctask.core.status import FAILED
from celery_asynctask.queries.search.condition import LENGTHS, Condition
from celery_asynctask.store.models import AsyncTask

PERCENTILES: Final = (50, 95, 99)
"""The percentiles that are computed."""


class Percentiles(NamedTuple):
    """Percentiles of a length of time, in seconds, by nearest rank: each is a length that occurred. None: no length
    is known."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None

    @classmethod
    def of(cls, row: Any, length: str) -> Percentiles:
        """The percentiles of ``wait`` or ``run`` in a row of `grouped`."""
        lengths = (getattr(row, f"{length}{percent}") for percent in PERCENTILES)
        return cls(*(None if microseconds is None else microseconds / 1_000_000 for microseconds in lengths))


def measures(matches: Condition) -> Select[Any]:
    """SELECT of the measures of each task; a task that does not match has only its time."""

    def if_matching(value: Any, otherwise: Any = None) -> ColumnElement[Any]:
        return case((matches, value), else_=otherwise)

    return select(
        AsyncTask.created_at,
        if_matching(1, 0).label("matches"),
        if_matching(AsyncTask.retries, 0).label("retries"),
        if_matching(case((AsyncTask.status.in_(FAILED), 1), else_=0), 0).label("failed"),
        *(if_matching(length).label(name) for name, length in LENGTHS.items()),
    )


def grouped(measured: SelectBase, key: str, dialect: str) -> Select[Any]:
    """SELECT of the rows of `measures`, grouped by their column ``key``: the key, looked_at, tasks, failed, retries,
    first, and percentiles in microseconds, such as ``wait95``."""
    task = measured.subquery()
    rows, nearest = (task, _disc) if dialect == "postgresql" else (_ranked(task, key), _of_rank)
    return select(
        rows.c[key],
        func.count().label("looked_at"),
        total(rows.c.matches).label("tasks"),
        total(rows.c.failed).label("failed"),
        total(rows.c.retries).label("retries"),
        func.min(rows.c.created_at).label("first"),
        *(nearest(rows, length, percent).label(f"{length}{percent}") for length in LENGTHS for percent in PERCENTILES),
    ).group_by(rows.c[key])


def total(column: ColumnElement[int]) -> ColumnElement[int]:
    """The sum of a column as an integer (some databases return a decimal); 0 without rows."""
    return cast(func.coalesce(func.sum(column), 0), BigInteger)


def looked_back_to(session: Session, newest: Select[Any], rows: Sequence[Any], limit: int) -> dt.datetime | None:
    """When the oldest of the first ``limit`` of the ``newest`` tasks was created; None: there are no tasks behind it.
    ``rows`` are the groups of these tasks, with ``looked_at`` and ``first``."""
    if sum(row.looked_at for row in rows) < limit:
        return None
    first: dt.datetime = min(row.first for row in rows)
    others = newest.with_only_columns(AsyncTask.id)
    # The first query is quick; the second one finds tasks created at that very moment.
    behind = others.order_by(None).where(AsyncTask.created_at < first).limit(1), others.offset(limit).limit(1)
    return first if any(session.execute(query).first() is not None for query in behind) else None


def _disc(rows: FromClause, length: str, percent: int) -> ColumnElement[Any]:
    """PostgreSQL's own percentile, in half the time. It multiplies floating-point numbers, which is exact for these
    percentiles of up to 100,000 rows."""
    return func.percentile_disc(percent / 100).within_group(rows.c[length])


def _of_rank(rows: FromClause, length: str, percent: int) -> ColumnElement[Any]:
    is_enough = rows.c[f"{length}_rank"] * 100 >= rows.c[f"{length}_count"] * percent
    return func.min(case((is_enough, rows.c[length])))


def _ranked(task: FromClause, key: str) -> FromClause:
    """The rows with the rank of each wait and run in its group, nulls last, and the number of those known."""
    ranked: Select[Any] = select(task)
    for length in LENGTHS:
        column = task.c[length]
        rank = func.row_number().over(partition_by=task.c[key], order_by=(column.is_(None), column))
        count = func.count(column).over(partition_by=task.c[key])
        ranked = ranked.add_columns(rank.label(f"{length}_rank"), count.label(f"{length}_count"))
    return ranked.subquery()
