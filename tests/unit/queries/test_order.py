"""`queries.search.order`: cursors come back unchanged, and nothing else is taken for one."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from celery_asynctask.errors import FilterError
from celery_asynctask.queries.search.order import ORDERS, Cursor, Order, Place

TIMES = st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2900, 1, 1), timezones=st.just(dt.timezone.utc))
NUMBERS = st.integers(-(2**63), 2**63 - 1)
PLACES = st.none() | st.builds(Place, TIMES, NUMBERS)


@given(st.sampled_from(ORDERS), st.none() | TIMES, NUMBERS, PLACES)
def test_cursors(order: Order, at: dt.datetime | None, number: int, bound: Place | None) -> None:
    cursor = Cursor(order, at, number, bound)
    assert Cursor.read(str(cursor), order) == cursor
    for text in (f"{cursor}!", f"!{cursor}", f"{cursor}=", f" {cursor}", str(cursor)[:-1]):
        with pytest.raises(FilterError, match="is not a cursor"):
            Cursor.read(text, order)
    for other in ORDERS:
        if other != order:
            with pytest.raises(FilterError, match="of another order"):
                Cursor.read(str(cursor), other)


@given(st.sampled_from(ORDERS), st.text(max_size=100) | st.binary(max_size=40).map(lambda raw: raw.hex()))
@example(Order(), "")
@example(Order(), "_" * 23)
@example(Order(), "f" * 22 + "8")
@example(Order(), "A" * 22)
@example(Order(), "AA" * 34)
def test_cursors_that_are_none(order: Order, text: str) -> None:
    try:
        result = Cursor.read(text, order)
    except FilterError:
        return
    assert str(result) == text
