"""The reading side: what a segment holds from some position on."""

from __future__ import annotations

import json
import socket
from typing import Any, NamedTuple

from celery_asynctask.journal.directory import Segment
from celery_asynctask.journal.frame import VERSION, scan

READ_BYTES = 2 * 1024 * 1024
"""Bytes that are looked at in one go; more only where a single frame is longer."""


class Chunk(NamedTuple):
    """What a segment holds from a position on."""

    numbers: list[int]
    """Of the undamaged events; the frame that describes the segment is not among them."""
    events: list[bytes]
    """The events, encoded."""
    damaged: list[bytes]
    tail: int
    """How many of the damaged lines come behind the last event."""
    hidden: int
    """How many events may be in the other damaged lines; see `frame.Scan`."""
    end: int
    """Position behind what was read."""
    whole: bool
    """Whether this was all there is so far."""

    def __len__(self) -> int:
        return len(self.events) + len(self.damaged)


NOTHING = Chunk([], [], [], 0, 0, 0, whole=True)


def read(segment: Segment, position: int, most: int, ended: bool) -> Chunk:
    """At most ``most`` frames from ``position`` on.

    ``ended`` says that nobody writes to the segment any more: a last line that is cut is damage then, not
    something to wait for. Raises `OSError`.
    """
    with segment.path.open("rb") as file:
        file.seek(position)
        data = file.read(READ_BYTES)
        while data and b"\n" not in data and (more := file.read(READ_BYTES)):
            data += more
        at_end = not file.read(1)
    found = scan(data, most if position else most + 1)  # the first frame is no event
    numbers, events, damaged, tail, hidden, consumed = found
    if 0 in numbers:  # first in the segment, unless somebody has put something before it
        at = numbers.index(0)
        del numbers[at], events[at]
    rest = data.find(b"\n", consumed) < 0
    if ended and at_end and rest and consumed < len(data):
        damaged, tail = [*damaged, data[consumed:]], tail + 1
        consumed = len(data)
    return Chunk(numbers, events, damaged, tail, hidden, position + consumed, at_end and rest)


def describe(segment: Segment) -> dict[str, Any]:
    """What the first frame says about the segment and its process; where it is damaged, what the name says.

    Keys: source, host, pid, role, at (microseconds since the epoch), dropped (counts by reason; None: not known).
    Raises `OSError`.
    """
    guess: dict[str, Any] = {
        "source": segment.source,
        "host": socket.gethostname(),
        "pid": _pid(segment.source),
        "role": "unknown",
        "at": int(segment.path.stat().st_mtime * 1_000_000),
        "dropped": None,
    }
    with segment.path.open("rb") as file:
        first = scan(file.readline(), 1)
    if first.numbers != [0]:
        return guess
    try:
        said = json.loads(first.data[0])
    except ValueError:
        return guess
    if not isinstance(said, dict) or said.get("format") != VERSION:
        return guess
    return {**guess, **said, "source": segment.source}


def _pid(source: str) -> int:
    parts = source.split("-")
    return int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() else 0
