"""Times: in events microseconds since the epoch, in rows datetimes in UTC."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any, Final

EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)


def now() -> int:
    """The wall clock, microseconds since the epoch. Where every task passes it is written out, which is a call less."""
    return time.time_ns() // 1000


def microseconds(at: dt.datetime) -> int:
    """A time as events have it. One without a zone is in UTC."""
    return ((at if at.tzinfo else at.replace(tzinfo=dt.timezone.utc)) - EPOCH) // dt.timedelta(microseconds=1)


def read_microseconds(told: Any) -> int | None:
    """`microseconds` of a datetime or a text in ISO 8601; None: it is neither."""
    try:
        at = dt.datetime.fromisoformat(told) if isinstance(told, str) else told
    except ValueError:
        return None
    return microseconds(at) if isinstance(at, dt.datetime) else None


def time_of(at: int) -> dt.datetime:
    """A time of an event as rows have it."""
    return EPOCH + dt.timedelta(microseconds=at)
