"""Percentiles made by a database, of groups of rows, in the words of each and with the same answer on all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, FromClause, Select, case, func, select

PERCENTILES: Final = (50, 95, 99)
_MEASURES: Final = ("wait", "run")


def percentiles(
    one: FromClause, key: str, dialect: str, wanted: Sequence[int] = PERCENTILES
) -> tuple[FromClause, list[ColumnElement[Any]]]:
    """What to select from, grouped by its column ``key``, and of its columns ``wait`` and ``run`` the percentiles
    ``wanted``, of the nearest rank, such as ``wait95``."""
    every = one if dialect == "postgresql" else _ranked(one, key)
    nearest = _disc if dialect == "postgresql" else _of_rank
    return every, [nearest(every, what, percent).label(f"{what}{percent}") for what in _MEASURES for percent in wanted]


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
    for what in _MEASURES:
        column = one.c[what]
        rank = func.row_number().over(partition_by=one.c[key], order_by=(column.is_(None), column))
        there = func.count(column).over(partition_by=one.c[key])
        ranked = ranked.add_columns(rank.label(f"{what}_rank"), there.label(f"{what}_there"))
    return ranked.subquery()
