"""Pages of the tasks that a filter finds, newest first or in another order, each from where the previous one ended.

Some searches (for a value in an argument, for part of an error's text) look at rows one by one. They look at the
`MAX_SCANNED` newest rows, and the page says so and how far back that was: a search that takes minutes helps nobody, and
one that stops silently lies. The same holds for an order that no index has: that many of the newest rows are sorted.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Select, select
from sqlalchemy.orm import Session

from celery_asynctask.errors import FilterError
from celery_asynctask.queries.reader import WITHOUT_VALUES, Reader
from celery_asynctask.queries.scope import SHOWN, Scope
from celery_asynctask.queries.search.condition import conditions
from celery_asynctask.queries.search.filter import Filter
from celery_asynctask.queries.search.order import NEWEST, Cursor, Order, Place
from celery_asynctask.store.models import AsyncTask

MAX_SCANNED: Final = 100_000
"""Rows that one page of a search looks at if no index leads to its results."""
MAX_ROWS: Final = 1000
"""Rows of one page."""
MAX_CHARACTERS: Final = 16_000_000
"""Characters of texts and JSON in a page of more than `_FETCHED_ROWS` rows; the row that exceeds them is the last."""
_FETCHED_ROWS: Final = 100
"""Rows that are fetched at once."""
_CACHED_STATEMENTS: Final = 256
"""Pages whose statements are kept."""


class Page(NamedTuple):
    """One page of a search."""

    tasks: Sequence[Any]
    """`AsyncTask`, or rows of the columns that were selected."""
    next: str | None
    """Cursor of the next page; None: this is the last one. If the search was bounded, the next page goes on behind the
    rows that were looked at."""
    looked_back_to: dt.datetime | None
    """Only tasks created at that time or later (oldest first: or earlier) were looked at. None: all of them."""


def page(
    reader: Reader,
    session: Session | Connection,
    search: Filter,
    *,
    limit: int = 50,
    after: str | None = None,
    order: Order = NEWEST,
    payloads: bool = True,
    columns: Select[Any] | None = None,
) -> Page:
    """At most ``limit`` (1 to `MAX_ROWS`) tasks that the filter finds, after the cursor of the previous page.

    With ``columns``, the rows are what that SELECT gives; it must include ``id`` and the time that the order sorts by.
    Without ``payloads``, the JSON columns are left unread. Raises `FilterError` for a bad cursor.
    """
    limit = max(1, min(limit, MAX_ROWS))
    cursor = None if after is None else Cursor.read(after, order)
    indexed, behind, is_scan, statement = _statements(
        reader.dialect, reader.scope, search, columns, cursor, order, limit
    )
    if order.by_creation:
        bound = last_of_first(session, behind, MAX_SCANNED, order) if is_scan else None
    elif cursor is None:
        bound = last_of_first(session, indexed, MAX_SCANNED)
    else:
        bound = cursor.bound
        oldest = last_of_first(session, indexed, 2 * MAX_SCANNED)
        if oldest is not None and (bound is None or bound < oldest):
            raise FilterError(
                "The cursor is from a time when the store had fewer tasks. Begin with the first page again."
            )
    if bound is not None:
        statement = statement.where(bound.upto(order if order.by_creation else NEWEST))
    is_cut = False
    if columns is None:
        rows: list[Any] = list(session.scalars(statement if payloads else statement.options(*WITHOUT_VALUES)))
    else:
        rows, is_cut = _fetch(session, statement, limit + 1)
    looked_back_to = bound.created_at if bound is not None else None
    if is_cut or len(rows) > limit:
        limit = min(limit, len(rows))
        last = rows[limit - 1]
        kept = None if order.by_creation else bound
        following = str(Cursor(order, getattr(last, order.column), last.id, kept))
        return Page(rows[:limit], following, None if order.by_creation else looked_back_to)
    if bound is None or not order.by_creation:
        return Page(rows, None, looked_back_to)
    return Page(rows, str(Cursor(order, *bound)), looked_back_to)


@lru_cache(_CACHED_STATEMENTS)
def _statements(
    dialect: str,
    scope: Scope,
    search: Filter,
    columns: Select[Any] | None,
    cursor: Cursor | None,
    order: Order,
    limit: int,
) -> tuple[Select[Any], Select[Any], bool, Select[Any]]:
    """The rows that indexes lead to, hidden ones included, those of them behind the cursor, whether a page must look at
    these one by one, and the rows of the page if it needs no bound.

    Cached, because a reader looks at the same page again: building an equal statement, and SQLAlchemy's finding out
    that it knows it already, take a fifth of the time of an answer.
    """
    wanted = conditions(search, dialect, scope)
    tasks = select(AsyncTask) if columns is None else columns
    indexed = tasks.where(*scope.conditions(dialect), *wanted.indexed)
    behind = indexed if cursor is None else indexed.where(cursor.condition)
    matching = behind.where(SHOWN, *wanted.scanned).order_by(*order.terms).limit(limit + 1)
    return indexed, behind, bool(wanted.scanned), matching


def _fetch(session: Session | Connection, statement: Select[Any], limit: int) -> tuple[list[Any], bool]:
    """At most ``limit`` rows, fetched in parts, and whether they end early because they are too long for one page."""
    if limit <= _FETCHED_ROWS + 1:
        return list(session.execute(statement)), False
    fetched: list[Any] = []
    room = MAX_CHARACTERS
    with session.execute(statement, execution_options={"yield_per": _FETCHED_ROWS}) as rows:
        for row in rows:
            if room < 0:
                return fetched, True
            fetched.append(row)
            room -= sum(len(value) for value in row if isinstance(value, str))
    return fetched, False


def last_of_first(session: Session | Connection, tasks: Select[Any], limit: int, order: Order = NEWEST) -> Place | None:
    """The place of row number ``limit`` of these tasks, in an order of creation; None: no row is behind it."""
    ordered = tasks.with_only_columns(AsyncTask.created_at, AsyncTask.id).order_by(None).order_by(*order.terms)
    rows = session.execute(ordered.offset(limit - 1).limit(2)).all()
    return Place(rows[0].created_at, rows[0].id) if len(rows) > 1 else None
