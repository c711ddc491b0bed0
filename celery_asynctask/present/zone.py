"""The local zone with its changes of the clock: 2026-01-31 may have begun at another offset than today."""

from __future__ import annotations

import datetime as dt
from typing import Final


class _Local(dt.tzinfo):
    """Asks the operating system about each time. Raises `OverflowError` or `ValueError` for times that it does not
    know."""

    def utcoffset(self, at: dt.datetime | None) -> dt.timedelta | None:
        return None if at is None else at.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, _at: dt.datetime | None) -> dt.timedelta | None:
        return None

    def tzname(self, at: dt.datetime | None) -> str | None:
        return None if at is None else at.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, at: dt.datetime) -> dt.datetime:
        local = at.replace(tzinfo=dt.timezone.utc).astimezone()
        first = local.replace(tzinfo=self)
        return first if first.utcoffset() == local.utcoffset() else first.replace(fold=1)


LOCAL: Final = _Local()
