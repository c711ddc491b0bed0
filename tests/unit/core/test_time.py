"""Times are exact to the microsecond, in UTC."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest

from celery_asynctask.core.time import microseconds, now, read_microseconds, time_of
from tests.environment import variables

AT = dt.datetime(2026, 1, 31, 14, 5, 0, 123457, dt.timezone.utc)


@pytest.fixture
def far() -> Iterator[None]:
    """A zone that is never UTC."""
    with variables({"TZ": "Asia/Kolkata"}):
        yield


def test_now_is_in_microseconds() -> None:
    assert 1_700_000_000_000_000 < now() < 4_000_000_000_000_000


@pytest.mark.parametrize(
    "value",
    [
        AT,
        AT.replace(tzinfo=None),
        AT.astimezone(dt.timezone(dt.timedelta(hours=5))),
        AT.isoformat(),
        "2026-01-31T14:05:00.123457",
        "2026-01-31T14:05:00.123457Z",
        "2026-01-31T14:05:00.123457z",
    ],
    ids=["utc", "naive", "zone", "text", "naive text", "Z", "z"],
)
def test_times_are_read(value: object, far: None) -> None:
    at = read_microseconds(value)
    assert at is not None
    assert time_of(at) == AT
    assert microseconds(AT) == at


@pytest.mark.parametrize("value", [None, 1, 1.5, "", "soon", b"2026-01-31T14:05:00", [AT]])
def test_what_is_no_time(value: object) -> None:
    assert read_microseconds(value) is None
