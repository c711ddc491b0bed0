"""The reading side: what a segment holds from some position on."""

from __future__ import annotations

import json
import socket
from typing import Any, NamedTuple

from celery_asynctask.journal.directory import Segment
from celery_asynctask.journal.frame import VERSION, Frame, scan

READ_BYTES = 4 * 1024 * 1024
"""Bytes that are looked at in one go; more only where a single frame is longer."""


class Chunk(NamedTuple):
    """What a segment holds from a position on."""

    frames: list[Frame]
    """Events; the frame that describes the segment is not among them."""
    damaged: list[bytes]
    end: int
    """Position behind what was read."""
    whole: bool
    """Whether this was all there is so far."""


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
    frames, damaged, consumed = found.frames, found.damaged, found.consumed
    if ended and at_end and b"\n" not in data[consumed:] and consumed < len(data):
        damaged = [*damaged, data[consumed:]]
        consumed = len(data)
    return Chunk(
        [one for one in frames if one.number > 0],
        damaged,
        position + consumed,
        at_end and b"\n" not in data[consumed:],
    )


def describe(segment: Segment) -> dict[str, Any]:
    """What the first frame says about the segment and its process; where it is damaged, what the name says.

    Keys: source, host, pid, role, at (microseconds since the epoch), dropped (counts by reason). Raises `OSError`.
    """
    guess: dict[str, Any] = {
        "source": segment.source,
        "host": socket.gethostname(),
        "pid": _pid(segment.source),
        "role": "unknown",
        "at": int(segment.path.stat().st_mtime * 1_000_000),
        "dropped": {},
    }
    with segment.path.open("rb") as file:
        first = scan(file.readline(), 1).frames
    if not first or first[0].number != 0:
        return guess
    try:
        said = json.loads(first[0].data)
    except ValueError:
        return guess
    if not isinstance(said, dict) or said.get("format") != VERSION:
        return guess
    return {**guess, **said, "source": segment.source}


def _pid(source: str) -> int:
    parts = source.split("-")
    return int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() else 0
