"""In which order tasks are listed, and cursors: where a page of them ended."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import struct
from operator import ge, gt, le, lt
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, and_, or_

from celery_asynctask.core.time import microseconds, time_of
from celery_asynctask.errors import FilterError
from celery_asynctask.store.models import AsyncTask

_PLACE: Final = struct.Struct(">qq")
_NEVER: Final = -(2**63)
"""Stands for a time that is null."""


class Order(NamedTuple):
    """By which time tasks are sorted; those that have none come last, whichever way."""

    column: str = "created_at"
    """Or ``started_at``, ``completed_at``."""
    descending: bool = True

    @property
    def by_creation(self) -> bool:
        """Whether an index has this order: no search has to sort."""
        return self.column == "created_at"

    @property
    def terms(self) -> list[Any]:
        """Arguments of ORDER BY."""
        column = getattr(AsyncTask, self.column)
        last = [] if self.by_creation else [column.is_(None)]
        return [*last, *(one.desc() if self.descending else one.asc() for one in (column, AsyncTask.id))]


NEWEST: Final = Order()
OLDEST: Final = Order(descending=False)
ORDERS: Final = [Order(column, way) for column in ("created_at", "started_at", "completed_at") for way in (True, False)]
"""In cursors, each is its place in this list."""


class Place(NamedTuple):
    """A row's place in the order of creation."""

    created_at: dt.datetime
    id: int

    def upto(self, order: Order = NEWEST) -> ColumnElement[bool]:
        """That row, or one before it in the order; the first part is what an index on the time understands."""
        before, upto = (gt, ge) if order.descending else (lt, le)
        column, at = AsyncTask.created_at, self.created_at
        return and_(upto(column, at), or_(before(column, at), and_(column == at, upto(AsyncTask.id, self.id))))


class Cursor(NamedTuple):
    """The last row that a page has looked at."""

    order: Order
    at: dt.datetime | None
    """The time that the order is by."""
    id: int
    bound: Place | None = None
    """The oldest row that is sorted, where not all of them are: the same for all pages."""

    def __str__(self) -> str:
        places = [(self.at, self.id)] if self.bound is None else [(self.at, self.id), self.bound]
        packed = b"".join(_PLACE.pack(_NEVER if at is None else microseconds(at), number) for at, number in places)
        return base64.urlsafe_b64encode(bytes([ORDERS.index(self.order)]) + packed).decode("ascii").rstrip("=")

    @classmethod
    def read(cls, text: str, order: Order = NEWEST) -> Cursor:
        """Raises `FilterError` for what no page has given, or one in another order."""
        try:
            packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            (at, number), *rest = _PLACE.iter_unpack(packed[1:])
            bound = Place(time_of(rest[0][0]), rest[0][1]) if rest else None
            found = cls(ORDERS[packed[0]], None if at == _NEVER else time_of(at), number, bound)
            is_one = str(found) == text  # base64 skips what is not of it
        except (ValueError, LookupError, struct.error, OverflowError, binascii.Error):
            is_one = False
        if not is_one:
            raise FilterError(f"{text[:80]!r} is no cursor: take the one that the page before gave.")
        if found.order != order:
            raise FilterError(f"{text[:80]!r} is a cursor of another order: ask for the first page in this one.")
        return found

    @property
    def condition(self) -> ColumnElement[bool]:
        """Behind this row; where the order is that of an index, the first part is what the index understands."""
        column: Any = getattr(AsyncTask, self.order.column)
        after, since = (lt, le) if self.order.descending else (gt, ge)
        behind = after(AsyncTask.id, self.id)
        if self.at is None:
            return and_(column.is_(None), behind)
        follows = or_(after(column, self.at), and_(column == self.at, behind))
        return and_(since(column, self.at), follows) if self.order.by_creation else or_(follows, column.is_(None))
