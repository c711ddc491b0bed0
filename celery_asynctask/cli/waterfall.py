"""A workflow drawn over time: a bar per task with every attempt, and what it waited for. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from textwrap import wrap
from typing import Any, Final, NamedTuple

from celery_asynctask.cli.output import FIXED
from celery_asynctask.present.waterfall import MEANINGS, Scale, scale
from celery_asynctask.queries.workflow.members import MemberAttempt
from celery_asynctask.queries.workflow.timeline import Part, Time, parts
from celery_asynctask.queries.workflow.tree import Member

SIGNS: Final = {
    Time.QUEUED: "░",
    Time.WAITING: "·",
    Time.UNKNOWN: "?",
    Time.RAN: "█",
    Time.FAILED: "▓",
    Time.END: "!",
}
"""The sign of each part; where two fall into one column, the later of these is drawn."""
LEGEND: Final = "  ".join(f"{SIGNS[time]} {meaning}" for time, meaning in MEANINGS.items())
_STRENGTH: Final = {sign: number for number, sign in enumerate((" ", *SIGNS.values()))}
_MOST_LABEL: Final = 40
_LEAST_BAR: Final = 20
_TICK: Final = 16
"""Columns between two times of the axis, at least."""


class Row(NamedTuple):
    """What a line shows."""

    label: str
    member: Member
    attempts: Sequence[MemberAttempt]
    took: str
    """Text behind the bar."""


def draw(rows: Sequence[Row], width: int, now: dt.datetime, show: Callable[[Any], str]) -> Iterator[str]:
    """The lines: the axis, a bar per row, the legend; none is wider than ``width``."""
    if not rows:
        return
    drawn = [(row, list(parts(row.member, row.attempts, now))) for row in rows]
    took = max(len(row.took) for row in rows)
    label = min(max(len(row.label) for row in rows), _MOST_LABEL, max(width - took - _LEAST_BAR - 4, 8))
    columns = max(width - label - took - 4, 1)
    seen = scale((row.member for row in rows), (spans for _, spans in drawn), now)
    yield f"{'':{label}}  {_axis(seen, columns, show)}".rstrip()
    for row, spans in drawn:
        name = row.label if len(row.label) <= label else f"{row.label[: label - 1]}…"
        yield f"{name:{label}}  {bar(spans, seen, columns)}  {row.took:>{took}}".rstrip()
    yield ""
    legend = "  ".join(one.replace(" ", FIXED) for one in LEGEND.split("  "))
    for line in wrap(legend, width, break_long_words=False, break_on_hyphens=False):
        yield line.replace(FIXED, " ")


def bar(spans: Sequence[Part], seen: Scale, columns: int) -> str:
    """Parts drawn in so many ``columns``, each in at least one."""
    cells = [" "] * columns
    for part in spans:
        first, last = (min(max(int(seen.share(at) * columns), 0), columns - 1) for at in (part.start, part.end))
        if part.end > part.start and last > first and seen.start + seen.length * (last / columns) >= part.end:
            last -= 1  # it ends where that column begins
        sign = SIGNS[part.time]
        for at in range(first, last + 1):
            if _STRENGTH[sign] > _STRENGTH[cells[at]]:
                cells[at] = sign
    return "".join(cells)


def _axis(seen: Scale, columns: int, show: Callable[[Any], str]) -> str:
    """Times since the start, each with a mark at its column."""
    count = max(columns // _TICK, 1)
    line = ""
    for number in range(count):
        text = f"|{show(seen.length * (number / count)) if number else '0'}"
        line = line.ljust(round(columns * number / count)) + text
    last = f"{show(seen.length)}|"
    room = columns - len(line)
    return line + last.rjust(room) if room > len(last) else line[:columns]
