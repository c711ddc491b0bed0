"""Times: microseconds since the epoch in events, datetimes in UTC in rows."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any, Final

EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
AGO: Final = 365 * 86_400_000_000
AHEAD: Final = 86_400_000_000
"""What a message says of its own past is believed from one year before an event about it until one day after it, in
microseconds: anybody may have written the message, and the clocks of hosts differ."""


def now() -> int:
    """The wall clock, in microseconds since the epoch. The hot path writes this out instead, to save the call."""
    return time.time_ns() // 1000


def microseconds(at: dt.datetime) -> int:
    """A time as events have it, in microseconds since the epoch. A datetime without a zone is in UTC."""
    return ((at if at.tzinfo else at.replace(tzinfo=dt.timezone.utc)) - EPOCH) // dt.timedelta(microseconds=1)


def read_microseconds(value: Any) -> int | None:
    """`microseconds` of a datetime or a text in ISO 8601; None for any other value."""
    try:
        if isinstance(value, str):
            is_utc = value.endswith(("Z", "z"))  # which Python 3.10 does not read
            value = dt.datetime.fromisoformat(f"{value[:-1]}+00:00" if is_utc else value)
    except ValueError:
        return None
    return microseconds(value) if isinstance(value, dt.datetime) else None


def time_of(at: int) -> dt.datetime:
    """The time ``at`` of an event as rows have it: a datetime in UTC."""
    return EPOCH + dt.timedelta(microseconds=at)
