"""A series as bars, each with its text."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import NamedTuple

from celery_asynctask.console.markup import percent
from celery_asynctask.core.text import span
from celery_asynctask.queries.statistics.series import Part

Bar = tuple[float, str, str]
"""Height from 0 to 1, class, text."""


class Spark(NamedTuple):
    """A chart."""

    title: str
    values: Sequence[Bar]
    last: str
    """Value of the last hour, as text."""
    peak: str
    """Value and time of the highest hour, as text; empty: all hours are empty."""


def sparks(parts: Sequence[Part]) -> list[Spark]:
    """Hourly charts: tasks created, failure rate, 95th percentiles of wait and run times."""
    return [
        _spark("Tasks created", parts, lambda part: part.there, _count, "calm"),
        _spark("Failure rate", parts, lambda part: part.failure_rate, _rate, "bad"),
        _spark("Wait time p95", parts, lambda part: part.wait.p95, _time, "warn"),
        _spark("Run time p95", parts, lambda part: part.run.p95, _time, "ok"),
    ]


def sparks_note(parts: Sequence[Part]) -> str:
    """What the charts cover."""
    text = "Hourly, last 24 h."
    sample = max((part.tasks for part in parts if part.looked_back_to is not None), default=None)
    if sample is not None:
        text += f" Rates and times are sampled from the newest {sample:,} tasks per hour."
    limit = max((part.there for part in parts if part.has_more), default=None)
    if limit is not None:
        text += f" Counts stop at {limit:,} tasks per hour."
    return text


def _spark(
    title: str,
    parts: Sequence[Part],
    value: Callable[[Part], float | None],
    words: Callable[[Part, float | None], str],
    class_: str,
) -> Spark:
    heights = [value(part) for part in parts]
    top = max((height for height in heights if height is not None), default=0)
    bars = [
        ((height or 0) / top if top else 0.0, class_, f"{_hour(part)}: {words(part, height)}")
        for part, height in zip(parts, heights, strict=True)
    ]
    peak = ""
    if top:
        part = parts[heights.index(top)]
        peak = f"{words(part, top)} at {_hour(part)}"
    return Spark(title, bars, words(parts[-1], heights[-1]), peak)


def _hour(part: Part) -> str:
    start, end = (at.astimezone(dt.timezone.utc) for at in (part.start, part.end))
    return f"{start:%H:%M} to {end:%H:%M} UTC"


def _count(part: Part, value: float | None) -> str:
    return f"{int(value or 0):,}{' or more' if part.has_more else ''}"


def _rate(part: Part, value: float | None) -> str:
    if value is None:
        return "no tasks"
    return f"{percent(value)} of {'the newest ' if part.looked_back_to is not None else ''}{part.tasks:,}"


def _time(_part: Part, value: float | None) -> str:
    return "none" if value is None else span(value)
