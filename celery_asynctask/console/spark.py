"""A series as bars, each with what it says in words."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import NamedTuple

from celery_asynctask.console.markup import percent
from celery_asynctask.core.text import span
from celery_asynctask.queries.statistics.series import Part

Bar = tuple[float, str, str]
"""Height from 0 to 1, class, and what it says."""


class Spark(NamedTuple):
    """One row of bars."""

    title: str
    values: Sequence[Bar]
    last: str
    """What the last hour has."""
    peak: str
    """What the hour with the most has; empty: there is nothing at all."""


def sparks(parts: Sequence[Part]) -> list[Spark]:
    """Tasks, failures, and the times that most of them stay under, hour by hour."""
    return [
        _spark("Tasks created", parts, lambda one: one.there, _count, "calm"),
        _spark("Failure rate", parts, lambda one: one.failure_rate, _rate, "bad"),
        _spark("Wait time p95", parts, lambda one: one.wait.p95, _time, "warn"),
        _spark("Run time p95", parts, lambda one: one.run.p95, _time, "ok"),
    ]


def sparks_note(parts: Sequence[Part]) -> str:
    """What the bars are made of."""
    said = "Hourly, last 24 h."
    looked_at = max((one.tasks for one in parts if one.looked_back_to is not None), default=None)
    if looked_at is not None:
        said += f" Rates and times are sampled from the newest {looked_at:,} tasks per hour."
    peak = max((one.there for one in parts if one.has_more), default=None)
    if peak is not None:
        said += f" Counts stop at {peak:,} tasks per hour."
    return said


def _spark(
    title: str,
    parts: Sequence[Part],
    value: Callable[[Part], float | None],
    words: Callable[[Part, float | None], str],
    class_: str,
) -> Spark:
    values = [value(one) for one in parts]
    top = max((one for one in values if one is not None), default=0)
    bars = [
        ((one or 0) / top if top else 0.0, class_, f"{_hour(part)}: {words(part, one)}")
        for part, one in zip(parts, values, strict=True)
    ]
    peak = ""
    if top:
        part = parts[values.index(top)]
        peak = f"{words(part, top)} at {_hour(part)}"
    return Spark(title, bars, words(parts[-1], values[-1]), peak)


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
