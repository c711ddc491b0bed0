"""A workflow drawn over time: what is drawn, and where a moment is. Pure.

Positions are shares of the visible time; the command line makes columns of them, the console units of a picture.
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
"""Of the legend, in the order of drawing: what is short must not hide below what is long."""
_SHORTEST: Final = dt.timedelta(milliseconds=1)
"""Minimum length of a scale: the nearest zoom divides it by 1024."""


class Scale(NamedTuple):
    """The visible part of the time from ``start`` on; says where a moment is in it."""

    start: dt.datetime
    length: dt.timedelta
    zoom: int = 1
    at: float = 0.0
    """Left edge, as a share of ``length``."""

    @property
    def seen(self) -> dt.timedelta:
        """Time from the left edge to the right one."""
        return self.length / self.zoom

    @property
    def left(self) -> dt.timedelta:
        """Time from the start to the left edge."""
        return self.length * self.at

    def share(self, at: dt.datetime) -> float:
        """The place of a moment: 0 at the left edge, 1 at the right one, below or above outside of them."""
        return ((at - self.start) / self.length - self.at) * self.zoom

    def moved(self, zoom: int, by: float = 0.0) -> Scale | None:
        """A scale with another zoom around the same middle, or moved by so many widths; None: there is none."""
        if zoom not in ZOOMS:
            return None
        middle = self.at + 0.5 / self.zoom + by / self.zoom
        scale = self._replace(zoom=zoom, at=_edge(middle, zoom))
        return None if scale == self else scale

    def over(self, start: dt.datetime, end: dt.datetime) -> Scale:
        """The nearest scale in which a time is visible as a whole."""
        length = (end - start) / self.length * 1.25
        zoom = max(zoom for zoom in ZOOMS if zoom == 1 or zoom * length <= 1)
        middle = ((start - self.start) + (end - self.start)) / 2 / self.length
        return self._replace(zoom=zoom, at=_edge(middle, zoom))


def scale(members: Iterable[Member], drawn: Iterable[Sequence[Part]], now: dt.datetime) -> Scale:
    """The scale of the time that the members took, and of all that is drawn."""
    moments: list[dt.datetime] = []
    for member in members:
        moments += (at for at in (member.created_at, member.started_at, member.completed_at) if at is not None)
        if member.open:
            moments.append(now)
    moments += (at for row in drawn for part in row for at in (part.start, part.end))
    start, end = min(moments, default=now), max(moments, default=now)
    return Scale(start, max(end - start, _SHORTEST))


def _edge(middle: float, zoom: int) -> float:
    return round(min(max(middle - 0.5 / zoom, 0.0), 1 - 1 / zoom), 9)
