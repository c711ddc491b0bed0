"""A workflow drawn in time: places and texts of its bars and ticks. Pure.

A drawing is `ACROSS` units wide, whatever its width on the screen; each row is 16 units high.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from celery_asynctask.console.markup import seconds
from celery_asynctask.core.text import rfc3339
from celery_asynctask.present.waterfall import MEANINGS, Scale
from celery_asynctask.queries.workflow.members import MemberAttempt
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
"""Top and height of each kind of bar: they differ in more than their color."""
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
"""Units of the narrowest bar."""
STEP_WIDTH: Final = 16
"""Units of the box that stands for a step without a run."""
_MAX_TEXT_PARTS: Final = 12
"""Parts in the text alternative of a row."""
_MAX_TICKS: Final = 5
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
    text: str


class Drawing(NamedTuple):
    """The picture of a task's row."""

    bars: Sequence[Bar]
    text: str
    """Text alternative of the row."""
    left_out: int
    """Number of attempts, the first ones, that are not drawn."""
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
    text: str


def ticks(scale: Scale) -> list[Tick]:
    """At most `_MAX_TICKS` + 1 round times since the start."""
    least = scale.seen.total_seconds() / _MAX_TICKS
    step = next((step for step in _STEPS if step >= least), None)
    step = step if step is not None else -(-least // _STEPS[-1]) * _STEPS[-1]
    first = -(-scale.left.total_seconds() // step)
    marks = []
    for number in range(_MAX_TICKS + 1):
        since = (first + number) * step
        x = (since - scale.left.total_seconds()) / scale.seen.total_seconds() * ACROSS
        if x <= ACROSS:
            marks.append(Tick(round(x, 1), offset(since, step)))
    return marks


def drawing(
    member: Member, attempts: Sequence[MemberAttempt], parts: Sequence[Part], scale: Scale, limit: int
) -> Drawing:
    """The row of a task: the ``parts`` of its time, with its last ``limit`` attempts at most."""
    if member.unsent:
        return Drawing((), "never sent", 0, _step_at(member.completed_at or member.created_at, scale))
    if not parts:
        return Drawing((), "not sent yet", 0, _step_at(scale.start + scale.length, scale))
    texts = list(_texts(attempts, parts))
    first = max(len(parts) - limit * 3, 0)  # an attempt has three parts at most: delayed, queued, run
    bars = [_bar(part, text, scale) for part, text in zip(parts[first:], texts[first:], strict=True)]
    in_view = sorted((bar for bar in bars if bar is not None), key=lambda bar: _ORDER[Time(bar.kind)])
    left_out = sum(part.time in (Time.RAN, Time.FAILED, Time.UNKNOWN) for part in parts[:first])
    words = [_summary(part) for part in parts[:_MAX_TEXT_PARTS]]
    if len(parts) > _MAX_TEXT_PARTS:
        words.append(f"and {len(parts) - _MAX_TEXT_PARTS} more")
    begin = f"from {offset((parts[0].start - scale.start).total_seconds(), 0.001)} on: "
    return Drawing(in_view, begin + ", ".join(words), left_out)


def _step_at(at: dt.datetime, scale: Scale) -> float | None:
    share = scale.share(at)
    return round(min(share * ACROSS, ACROSS - STEP_WIDTH), 1) if 0 <= share <= 1 else None


def offset(since: float, step: float) -> str:
    """A time since the start, as exact as ``step``: ``+250 ms``, ``+12.5 s``, ``+1:02:05``, ``+2 d 3:00:00``."""
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
    total, rest = divmod(thousandths, 1000)
    fraction = f".{rest:03d}"[: digits + 1] if digits else ""
    days, hours, minutes, last = total // 86_400, total // 3600 % 24, total // 60 % 60, total % 60
    clock = f"{hours}:{minutes:02d}:{last:02d}{fraction}"
    return f"+{days} d {clock}" if days else f"+{clock}"


def _bar(part: Part, text: str, scale: Scale) -> Bar | None:
    """The bar of a part; None: it is out of view."""
    start, end = scale.share(part.start) * ACROSS, scale.share(part.end) * ACROSS
    if end < 0 or start > ACROSS:
        return None
    start, end = max(start, 0.0), min(end, float(ACROSS))
    width = max(end - start, _LEAST)
    y, height = HEIGHTS[part.time]
    return Bar(round(min(start, ACROSS - width), 1), round(width, 1), y, height, part.time.value, text)


def _texts(attempts: Sequence[MemberAttempt], parts: Sequence[Part]) -> Iterable[str]:
    """The text of each part: kind, time and length. Attempts without any known time have no part."""
    drawn = iter(
        [(number, attempt) for number, attempt in enumerate(attempts, 1) if attempt.started_at or attempt.ended_at]
    )
    for part in parts:
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


def _summary(part: Part) -> str:
    if part.time is Time.END:
        return _WORDS[Time.END]
    return f"{_WORDS[part.time]} {seconds(part.end - part.start)}"
