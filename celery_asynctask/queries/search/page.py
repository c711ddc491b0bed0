"""Pages of tasks, newest first or in another order: what a filter finds, from where the last page ended.

Some searches (what is in an argument, part of an error's text) look at rows one by one. They look at `MAX_SCANNED`
of the newest, and the page says so and how far back that was: a search that takes minutes helps nobody, and one that
stops silently lies. So it is with an order that no index has: it sorts that many of the newest.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Select, select
from sqlalchemy.orm import Session

from celery_asynctask.errors import FilterError
from celery_asynctask.queries.reader import WITHOUT_VALUES, Reader, seen_by
from celery_asynctask.queries.search.condition import conditions
from celery_asynctask.queries.search.filter import Filter
from celery_asynctask.queries.search.order import NEWEST, Cursor, Order, Place
from celery_asynctask.store.models import AsyncTask

MAX_SCANNED: Final = 100_000
"""Rows that one page of a search looks at where no index leads to what it finds."""
MAX_ROWS: Final = 1000
"""Rows of one page."""
MAX_CHARACTERS: Final = 16_000_000
"""Of the texts and JSON of a page's rows where it has more than `_AT_A_TIME`; one row more than that is shown."""
_AT_A_TIME: Final = 100
"""Rows that are fetched at once."""
_MOST_MADE: Final = 256
"""Pages whose statements are kept."""


class Page(NamedTuple):
    """One page of a search."""

    tasks: Sequence[Any]
    """`AsyncTask`, or rows of the columns that were asked for."""
    next: str | None
    """Cursor of the page that follows, None where this is the last; where the search was bounded, it goes on behind
    what was looked at."""
    looked_back_to: dt.datetime | None
    """The search was bounded: it looked at tasks asked for down to that time (oldest first: up to it), and at none
    beyond. None: at all."""


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
    """At most ``limit`` tasks that the filter finds, after the cursor of another page.

    With ``columns``, rows of what that selects, which must include ``id`` and the time that the order is by; without
    ``payloads`` the JSON columns are left unread. Raises `FilterError` for a bad cursor.
    """
    limit = max(1, min(limit, MAX_ROWS))
    cursor = None if after is None else Cursor.read(after, order)
    indexed, behind, is_scan, asked = _statements(
        reader.dialect, reader.customers, search, columns, cursor, order, limit
    )
    if order.by_creation:
        bound = last_of_first(session, behind, MAX_SCANNED, order) if is_scan else None
    elif cursor is None:
        bound = last_of_first(session, indexed, MAX_SCANNED)
    else:
        bound = cursor.bound
        oldest = last_of_first(session, indexed, 2 * MAX_SCANNED)
        if oldest is not None and (bound is None or bound < oldest):
            raise FilterError("The cursor is of a time when there were fewer tasks: begin with the first page again.")
    if bound is not None:
        asked = asked.where(bound.upto(order if order.by_creation else NEWEST))
    is_cut = False
    if columns is None:
        found: list[Any] = list(session.scalars(asked if payloads else asked.options(*WITHOUT_VALUES)))
    else:
        found, is_cut = _some(session, asked, limit + 1)
    looked_back_to = bound.created_at if bound is not None else None
    if is_cut or len(found) > limit:
        limit = min(limit, len(found))
        last = found[limit - 1]
        kept = None if order.by_creation else bound
        following = str(Cursor(order, getattr(last, order.column), last.id, kept))
        return Page(found[:limit], following, None if order.by_creation else looked_back_to)
    if bound is None or not order.by_creation:
        return Page(found, None, looked_back_to)
    return Page(found, str(Cursor(order, *bound)), looked_back_to)


@lru_cache(_MOST_MADE)
def _statements(
    dialect: str,
    customers: frozenset[int] | None,
    search: Filter,
    columns: Select[Any] | None,
    cursor: Cursor | None,
    order: Order,
    limit: int,
) -> tuple[Select[Any], Select[Any], bool, Select[Any]]:
    """What indexes lead to, what of that is behind the cursor, whether a page looks at these rows one by one, and what
    it shows where it needs no bound.

    Kept, for who looks at a page looks again, and SQLAlchemy knows a statement that it has seen: to make another and
    find that it is the same takes a fifth of the time of an answer.
    """
    wanted = conditions(search, dialect)
    indexed = seen_by(customers, select(AsyncTask) if columns is None else columns).where(*wanted.indexed)
    behind = indexed if cursor is None else indexed.where(cursor.condition)
    whole = behind.where(*wanted.scanned).order_by(*order.terms).limit(limit + 1)
    return indexed, behind, bool(wanted.scanned), whole


def _some(session: Session | Connection, asked: Select[Any], limit: int) -> tuple[list[Any], bool]:
    """Rows, some at a time where they may be many, and whether they were too long for one page, which ends there."""
    if limit <= _AT_A_TIME + 1:
        return list(session.execute(asked)), False
    found: list[Any] = []
    room = MAX_CHARACTERS
    with session.execute(asked, execution_options={"yield_per": _AT_A_TIME}) as rows:
        for row in rows:
            if room < 0:
                return found, True
            found.append(row)
            room -= sum(len(value) for value in row if isinstance(value, str))
    return found, False


def last_of_first(session: Session | Connection, tasks: Select[Any], limit: int, order: Order = NEWEST) -> Place | None:
    """The row numbered ``most`` of these tasks in an order of creation; None where there is none behind it."""
    sorted_ = tasks.with_only_columns(AsyncTask.created_at, AsyncTask.id).order_by(None).order_by(*order.terms)
    found = session.execute(sorted_.offset(limit - 1).limit(2)).all()
    return Place(found[0].created_at, found[0].id) if len(found) > 1 else None
