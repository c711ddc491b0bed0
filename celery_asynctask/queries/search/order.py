"""The order in which tasks are listed, and cursors, which say where a page ended."""

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
    """The time that tasks are sorted by. Tasks without that time come last in both directions."""

    column: str = "created_at"
    """``created_at``, ``started_at`` or ``completed_at``."""
    descending: bool = True

    @property
    def by_creation(self) -> bool:
        """Whether an index has this order, so that no search has to sort."""
        return self.column == "created_at"

    @property
    def terms(self) -> list[Any]:
        """Arguments of ORDER BY."""
        column = getattr(AsyncTask, self.column)
        last = [] if self.by_creation else [column.is_(None)]
        return [*last, *(key.desc() if self.descending else key.asc() for key in (column, AsyncTask.id))]


NEWEST: Final = Order()
OLDEST: Final = Order(descending=False)
ORDERS: Final = [Order(column, way) for column in ("created_at", "started_at", "completed_at") for way in (True, False)]
"""A cursor names an order by its position in this list."""


class Place(NamedTuple):
    """A row's place in the order of creation."""

    created_at: dt.datetime
    id: int

    def upto(self, order: Order = NEWEST) -> ColumnElement[bool]:
        """The condition of this row and all rows before it in the order. An index on the time serves its first part."""
        before, upto = (gt, ge) if order.descending else (lt, le)
        column, at = AsyncTask.created_at, self.created_at
        return and_(upto(column, at), or_(before(column, at), and_(column == at, upto(AsyncTask.id, self.id))))


class Cursor(NamedTuple):
    """The last row of a page. Its text is what a reader gives to get the next page."""

    order: Order
    at: dt.datetime | None
    """The row's time that the order sorts by."""
    id: int
    bound: Place | None = None
    """The oldest row that is sorted, if not all of them are; the same for all pages."""

    def __str__(self) -> str:
        places = [(self.at, self.id)] if self.bound is None else [(self.at, self.id), self.bound]
        packed = b"".join(_PLACE.pack(_NEVER if at is None else microseconds(at), number) for at, number in places)
        return base64.urlsafe_b64encode(bytes([ORDERS.index(self.order)]) + packed).decode("ascii").rstrip("=")

    @classmethod
    def read(cls, text: str, order: Order = NEWEST) -> Cursor:
        """The cursor of a text. Raises `FilterError` for a text that no page has given, or for another order."""
        try:
            packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            (at, number), *rest = _PLACE.iter_unpack(packed[1:])
            bound = Place(time_of(rest[0][0]), rest[0][1]) if rest else None
            cursor = cls(ORDERS[packed[0]], None if at == _NEVER else time_of(at), number, bound)
            is_valid = str(cursor) == text  # base64 skips foreign characters
        except (ValueError, LookupError, struct.error, OverflowError, binascii.Error):
            is_valid = False
        if not is_valid:
            raise FilterError(f"{text[:80]!r} is not a cursor. Take the cursor that the previous page gave.")
        if cursor.order != order:
            raise FilterError(f"{text[:80]!r} is a cursor of another order. Begin with the first page of this order.")
        return cursor

    @property
    def condition(self) -> ColumnElement[bool]:
        """The condition of all rows behind this one. If an index has the order, it serves the first part."""
        column: Any = getattr(AsyncTask, self.order.column)
        after, since = (lt, le) if self.order.descending else (gt, ge)
        behind = after(AsyncTask.id, self.id)
        if self.at is None:
            return and_(column.is_(None), behind)
        follows = or_(after(column, self.at), and_(column == self.at, behind))
        return and_(since(column, self.at), follows) if self.order.by_creation else or_(follows, column.is_(None))
