"""The local zone as one that knows its clock's changes: 2026-01-31 began at another offset than today may have."""

from __future__ import annotations

import datetime as dt
from typing import Final


class _Local(dt.tzinfo):
    """Asks the operating system about each time. Raises `OverflowError` or `ValueError` for times it does not know."""

    def utcoffset(self, at: dt.datetime | None) -> dt.timedelta | None:
        return None if at is None else at.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, _at: dt.datetime | None) -> dt.timedelta | None:
        return None

    def tzname(self, at: dt.datetime | None) -> str | None:
        return None if at is None else at.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, at: dt.datetime) -> dt.datetime:
        local = at.replace(tzinfo=dt.timezone.utc).astimezone()
        found = local.replace(tzinfo=self)
        return found if found.utcoffset() == local.utcoffset() else found.replace(fold=1)


LOCAL: Final = _Local()
