"""What is measured of tasks, group by group: how many, how many failed, and how long they waited and ran.

Made by a database, in the words of each and with the same answer on all.
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


class Percentiles(NamedTuple):
    """Seconds that so many of a hundred took at most: of those that are there, the one of the nearest rank. None: there
    are none."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None

    @classmethod
    def of(cls, row: Any, length: str) -> Percentiles:
        """Those of ``wait`` or ``run`` in a row of `grouped`."""
        found = (getattr(row, f"{length}{percent}") for percent in PERCENTILES)
        return cls(*(None if one is None else one / 1_000_000 for one in found))


def measures(matches: Condition) -> Select[Any]:
    """What is known of each task that is looked at; what does not match has nothing but its time."""

    def known(value: Any, otherwise: Any = None) -> ColumnElement[Any]:
        return case((matches, value), else_=otherwise)

    return select(
        AsyncTask.created_at,
        known(1, 0).label("matches"),
        known(AsyncTask.retries, 0).label("retries"),
        known(case((AsyncTask.status.in_(FAILED), 1), else_=0), 0).label("failed"),
        *(known(length).label(name) for name, length in LENGTHS.items()),
    )


def grouped(measured: SelectBase, key: str, dialect: str) -> Select[Any]:
    """Rows of `measures` by their column ``key``: that, looked_at, tasks, failed, retries, first, and percentiles of
    the nearest rank, such as ``wait95``."""
    one = measured.subquery()
    every, nearest = (one, _disc) if dialect == "postgresql" else (_ranked(one, key), _of_rank)
    return select(
        every.c[key],
        func.count().label("looked_at"),
        total(every.c.matches).label("tasks"),
        total(every.c.failed).label("failed"),
        total(every.c.retries).label("retries"),
        func.min(every.c.created_at).label("first"),
        *(nearest(every, what, percent).label(f"{what}{percent}") for what in LENGTHS for percent in PERCENTILES),
    ).group_by(every.c[key])


def total(column: ColumnElement[int]) -> ColumnElement[int]:
    """Their sum, which some databases make a decimal; 0 where there is nothing."""
    return cast(func.coalesce(func.sum(column), 0), BigInteger)


def looked_back_to(session: Session, newest: Select[Any], rows: Sequence[Any], limit: int) -> dt.datetime | None:
    """Down to when the first ``most`` of the ``newest`` tasks, which are grouped in ``rows`` with their ``looked_at``
    and ``first``, were asked for; None where there are no others behind them."""
    if sum(row.looked_at for row in rows) < limit:
        return None
    first: dt.datetime = min(row.first for row in rows)
    others = newest.with_only_columns(AsyncTask.id)
    # The first is quick, and the second finds what was asked for at that very moment.
    behind = others.order_by(None).where(AsyncTask.created_at < first).limit(1), others.offset(limit).limit(1)
    return first if any(session.execute(one).first() is not None for one in behind) else None


def _disc(every: FromClause, what: str, percent: int) -> ColumnElement[Any]:
    """PostgreSQL has it, in half of the time. It multiplies floating-point numbers, which is exact for these
    percentiles of up to 100,000 rows."""
    return func.percentile_disc(percent / 100).within_group(every.c[what])


def _of_rank(every: FromClause, what: str, percent: int) -> ColumnElement[Any]:
    enough = every.c[f"{what}_rank"] * 100 >= every.c[f"{what}_there"] * percent
    return func.min(case((enough, every.c[what])))


def _ranked(one: FromClause, key: str) -> FromClause:
    """With the rank of each wait and run in its group, and how many there are; those that are null last."""
    ranked: Select[Any] = select(one)
    for what in LENGTHS:
        column = one.c[what]
        rank = func.row_number().over(partition_by=one.c[key], order_by=(column.is_(None), column))
        there = func.count(column).over(partition_by=one.c[key])
        ranked = ranked.add_columns(rank.label(f"{what}_rank"), there.label(f"{what}_there"))
    return ranked.subquery()
