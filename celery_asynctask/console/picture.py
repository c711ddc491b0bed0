"""A workflow drawn in time: where its bars and ticks stand, and what they say. Pure.

Across, a drawing has `ACROSS` units whatever its width; each row is 16 units high.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from celery_asynctask.console.markup import seconds
from celery_asynctask.core.text import rfc3339
from celery_asynctask.present.waterfall import MEANINGS, Scale
from celery_asynctask.queries.workflow.members import Run
from celery_asynctask.queries.workflow.timeline import Part, Time
from celery_asynctask.queries.workflow.tree import Member

ACROSS: Final = 1000
HEIGHTS: Final = {
    Time.QUEUED: (5, 6),
    Time.WAITING: (7, 2),
    Time.RAN: (2, 12),
    Time.FAILED: (0, 16),
    Time.UNKNOWN: (3, 10),
    Time.END: (0, 16),
}
"""Top and height of each: they differ in more than their color."""
_ORDER: Final = {time: number for number, time in enumerate(MEANINGS)}
_WORDS: Final = {
    Time.QUEUED: "queued",
    Time.WAITING: "delayed",
    Time.RAN: "ran",
    Time.FAILED: "failed after",
    Time.UNKNOWN: "outcome unknown after",
    Time.END: "never started",
}
"""As `present.waterfall.MEANINGS`, before a length of time."""
_LEAST: Final = 2.0
"""Units that a bar has at least."""
STEP_WIDTH: Final = 16
"""Units of the box that stands for a step without a run."""
_MOST_SAID: Final = 12
"""Parts that a row's text alternative has."""
_MOST_TICKS: Final = 5
_STEPS: Final = (
    *(unit / 1000 for unit in (1, 2, 5, 10, 20, 50, 100, 200, 500)),
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600),
    *(7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 1_209_600, 2_419_200),
)
"""Seconds between two ticks."""


class Bar(NamedTuple):
    """A part of a task's time as a rectangle."""

    x: float
    width: float
    y: int
    height: int
    kind: str
    says: str


class Drawing(NamedTuple):
    """A row."""

    bars: Sequence[Bar]
    says: str
    """All of it in words, for who does not see it."""
    left_out: int
    """Runs that are not drawn, the first ones."""
    step_at: float | None = None
    """Where the box of a step without a run begins: one that was never sent where that was known, one that is not sent
    yet at the end. None: nowhere in view, or the task was sent."""

    @property
    def extent(self) -> tuple[float, float] | None:
        """Left edge and width of all its bars; None: there are none in view."""
        if not self.bars:
            return None
        left = min(bar.x for bar in self.bars)
        return left, round(max(bar.x + bar.width for bar in self.bars) - left, 1)


class Tick(NamedTuple):
    """A time on the axis."""

    x: float
    says: str


def ticks(scale: Scale) -> list[Tick]:
    """Round times since the start, a few of them."""
    wanted = scale.seen.total_seconds() / _MOST_TICKS
    step = next((one for one in _STEPS if one >= wanted), None)
    step = step if step is not None else -(-wanted // _STEPS[-1]) * _STEPS[-1]
    first = -(-scale.left.total_seconds() // step)
    found = []
    for number in range(_MOST_TICKS + 1):
        since = (first + number) * step
        x = (since - scale.left.total_seconds()) / scale.seen.total_seconds() * ACROSS
        if x <= ACROSS:
            found.append(Tick(round(x, 1), offset(since, step)))
    return found


def drawing(member: Member, runs: Sequence[Run], found: Sequence[Part], scale: Scale, limit: int) -> Drawing:
    """A task's row: what its time went into, at most so many runs, the last ones."""
    if member.unsent:
        return Drawing((), "never sent", 0, _step_at(member.completed_at or member.created_at, scale))
    if not found:
        return Drawing((), "not sent yet", 0, _step_at(scale.start + scale.length, scale))
    said = list(_said(runs, found))
    first = max(len(found) - limit * 3, 0)  # a run waits, is queued, and runs
    bars = [_bar(part, says, scale) for part, says in zip(found[first:], said[first:], strict=True)]
    shown = sorted((one for one in bars if one is not None), key=lambda one: _ORDER[Time(one.kind)])
    left_out = sum(part.time in (Time.RAN, Time.FAILED, Time.UNKNOWN) for part in found[:first])
    words = [_summed(part) for part in found[:_MOST_SAID]]
    if len(found) > _MOST_SAID:
        words.append(f"and {len(found) - _MOST_SAID} more")
    begun = f"from {offset((found[0].start - scale.start).total_seconds(), 0.001)} on: "
    return Drawing(shown, begun + ", ".join(words), left_out)


def _step_at(at: dt.datetime, scale: Scale) -> float | None:
    share = scale.share(at)
    return round(min(share * ACROSS, ACROSS - STEP_WIDTH), 1) if 0 <= share <= 1 else None


def offset(since: float, step: float) -> str:
    """A time since the start, as fine as a step is: ``+250 ms``, ``+12.5 s``, ``+1:02:05``, ``+2 d 3:00:00``."""
    if since < 0:
        return f"before {offset(-since, step)}"
    thousandths = round(since * 1000)
    digits = 0 if step >= 1 else 1 if step >= 0.1 else 2 if step >= 0.01 else 3
    if thousandths == 0:
        return "0"
    if thousandths < 1000:
        return f"+{thousandths} ms"
    if thousandths < 60_000:
        return f"+{thousandths / 1000:.{digits}f} s"
    whole, rest = divmod(thousandths, 1000)
    fine = f".{rest:03d}"[: digits + 1] if digits else ""
    days, hours, minutes, last = whole // 86_400, whole // 3600 % 24, whole // 60 % 60, whole % 60
    clock = f"{hours}:{minutes:02d}:{last:02d}{fine}"
    return f"+{days} d {clock}" if days else f"+{clock}"


def _bar(part: Part, says: str, scale: Scale) -> Bar | None:
    """None: it is not within what is seen."""
    start, end = scale.share(part.start) * ACROSS, scale.share(part.end) * ACROSS
    if end < 0 or start > ACROSS:
        return None
    start, end = max(start, 0.0), min(end, float(ACROSS))
    width = max(end - start, _LEAST)
    y, height = HEIGHTS[part.time]
    return Bar(round(min(start, ACROSS - width), 1), round(width, 1), y, height, part.time.value, says)


def _said(runs: Sequence[Run], found: Sequence[Part]) -> Iterable[str]:
    """What each part was, when, and how long. Runs of which no time is known have no part."""
    drawn = iter([(number, run) for number, run in enumerate(runs, 1) if run.started_at or run.ended_at])
    for part in found:
        when = f"{seconds(part.end - part.start)}, {rfc3339(part.start)} to {rfc3339(part.end)}"
        if part.time is Time.END:
            yield f"{_WORDS[Time.END]}, {rfc3339(part.start)}"
        elif part.time in (Time.QUEUED, Time.WAITING):
            yield f"{_WORDS[part.time]} {when}"
        else:
            number, run = next(drawn)
            error = f" by {run.error_type}" if run.error_type else ""
            where = f", {run.worker}" if run.worker else ""
            outcome = run.outcome or ("running" if part.time is Time.RAN else "outcome unknown")
            yield f"attempt {number} {outcome}{error}: {when}{where}"


def _summed(part: Part) -> str:
    if part.time is Time.END:
        return _WORDS[Time.END]
    return f"{_WORDS[part.time]} {seconds(part.end - part.start)}"
