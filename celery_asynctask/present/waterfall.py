"""A workflow drawn in time: what is drawn, and where a moment stands. Pure.

The command line has columns of characters, the console units of a picture; both are shares of what is seen.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from celery_asynctask.queries.workflow.timeline import Part, Time
from celery_asynctask.queries.workflow.tree import Member

ZOOMS: Final = tuple(2**power for power in range(11))
MEANINGS: Final = {
    Time.QUEUED: "queued",
    Time.WAITING: "delayed (ETA or retry)",
    Time.RAN: "ran",
    Time.FAILED: "failed",
    Time.UNKNOWN: "outcome unknown",
    Time.END: "never started",
}
"""For the legend, in the order in which they are drawn: what is short must not hide below what is long."""
_SHORTEST: Final = dt.timedelta(milliseconds=1)
"""A scale is so long at least: the nearest zoom divides it by 1024."""


class Scale(NamedTuple):
    """Where a moment stands: what of the time from ``start`` on is seen."""

    start: dt.datetime
    length: dt.timedelta
    zoom: int = 1
    at: float = 0.0
    """Left edge, as a part of the whole."""

    @property
    def seen(self) -> dt.timedelta:
        """How long it is from the left edge to the right one."""
        return self.length / self.zoom

    @property
    def left(self) -> dt.timedelta:
        """From the start to the left edge."""
        return self.length * self.at

    def share(self, at: dt.datetime) -> float:
        """From 0 at the left edge to 1 at the right one; outside of what is seen it is below or above."""
        return ((at - self.start) / self.length - self.at) * self.zoom

    def moved(self, zoom: int, by: float = 0.0) -> Scale | None:
        """With another zoom around the same middle, or moved by so many widths; None: there is no more."""
        if zoom not in ZOOMS:
            return None
        middle = self.at + 0.5 / self.zoom + by / self.zoom
        found = self._replace(zoom=zoom, at=_edge(middle, zoom))
        return None if found == self else found

    def over(self, start: dt.datetime, end: dt.datetime) -> Scale:
        """As near as a time is seen whole."""
        length = (end - start) / self.length * 1.25
        zoom = max(one for one in ZOOMS if one == 1 or one * length <= 1)
        middle = ((start - self.start) + (end - self.start)) / 2 / self.length
        return self._replace(zoom=zoom, at=_edge(middle, zoom))


def scale(members: Iterable[Member], drawn: Iterable[Sequence[Part]], now: dt.datetime) -> Scale:
    """Of the time that members took, and whatever is drawn of them."""
    moments: list[dt.datetime] = []
    for member in members:
        moments += (at for at in (member.created_at, member.started_at, member.completed_at) if at is not None)
        if member.open:
            moments.append(now)
    moments += (at for found in drawn for part in found for at in (part.start, part.end))
    start, end = min(moments, default=now), max(moments, default=now)
    return Scale(start, max(end - start, _SHORTEST))


def _edge(middle: float, zoom: int) -> float:
    return round(min(max(middle - 0.5 / zoom, 0.0), 1 - 1 / zoom), 9)
