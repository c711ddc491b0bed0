"""The bytes of a segment: frames, one a line, so a damaged one ends at the next line break and a person can read it.

A frame is ``<crc32 of the rest, 8 hex digits> <number> <JSON without line breaks>\\n``. The first frame of a
segment has the number 0 and describes the segment. The events follow, numbered through all segments of a source.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple
from zlib import crc32

from celery_asynctask.core.time import now
from celery_asynctask.errors import JournalError
from celery_asynctask.journal.files import opened
from celery_asynctask.journal.names import Segment


class FormatError(JournalError):
    """A segment has a format that is not known here."""


VERSION = 2
"""Version of the format, written into the first frame of every segment."""
READABLE = (1, 2)
"""The versions that are read: the format of version 1 has other names of files, and a start for each end."""
READ_BYTES = 2 * 1024 * 1024
"""Bytes read at a time; more only for a single frame that is longer."""


class Scan(NamedTuple):
    """What some bytes of a segment hold."""

    numbers: list[int]
    """The numbers of the undamaged frames, in the order of the file."""
    data: list[bytes]
    """The data in these frames."""
    damaged: list[bytes]
    """Lines that are no frame, each without its line break."""
    tail: int
    """How many of the damaged lines come after the last undamaged frame."""
    hidden: int
    """How many events may be in the other damaged lines: as many as the numbers around them leave out; before the first
    undamaged event, one a line."""
    consumed: int
    """Bytes of the lines that were scanned: where to go on."""


def pack(number: int, data: bytes) -> bytes:
    """The frame ``number`` around ``data``, which must not contain a line break."""
    body = b"%d %b" % (number, data)
    return b"%08x %b\n" % (crc32(body), body)


def unpack(line: bytes) -> tuple[int, bytes]:
    """Number and data of the frame in one line without its line break. Raises `ValueError` if it is damaged."""
    body = line[9:]
    if line[8:9] != b" " or crc32(body) != int(line[:8], 16):
        raise ValueError("checksum does not match")
    number, _, data = body.partition(b" ")
    return int(number), data


def scan(data: bytes, limit: int) -> Scan:
    """Read the complete lines of ``data``, at most ``limit`` of them. A last line without a line break is left."""
    numbers: list[int] = []
    events: list[bytes] = []
    damaged: list[bytes] = []
    tail = hidden = last = at = 0
    while limit > 0 and (end := data.find(b"\n", at)) >= 0:
        line = data[at:end]  # one at a time: a list of all lines would take as much memory as the data
        at = end + 1
        limit -= 1
        try:
            number, event = unpack(line)
        except ValueError:
            damaged.append(line)
            tail += 1
            continue
        if tail:
            hidden += max(0, number - last - 1) if last else tail
            tail = 0
        last = number
        numbers.append(number)
        events.append(event)
    return Scan(numbers, events, damaged, tail, hidden, at)


class Chunk(NamedTuple):
    """Events of a segment from a position on."""

    numbers: list[int]
    """The numbers of the undamaged events, without the frame that describes the segment."""
    events: list[bytes]
    """These events, encoded."""
    damaged: list[bytes]
    """Lines that are no frame, each without its line break."""
    tail: int
    """How many of the damaged lines come after the last event."""
    hidden: int
    """How many events may be in the other damaged lines, as in `Scan`."""
    end: int
    """Position behind what was read, in bytes."""
    at_end: bool
    """Whether the segment holds nothing more for now."""

    def __len__(self) -> int:
        return len(self.events) + len(self.damaged)


NOTHING = Chunk([], [], [], 0, 0, 0, at_end=True)


def read(segment: Segment, position: int, limit: int, ended: bool) -> Chunk:
    """At most ``limit`` events and damaged lines, from ``position`` on, which is in bytes.

    ``ended`` says that no process writes to the segment any more, so that a last line without a line break is damaged,
    and not still being written. Raises `OSError`.
    """
    with opened(segment.path) as file:
        file.seek(position)
        data = file.read(READ_BYTES)
        while data and b"\n" not in data and (more := file.read(READ_BYTES)):
            data += more
        at_end = not file.read(1)
    # The first frame is no event; it may be gone.
    scanned = scan(data, limit if position else limit + 1)
    if 0 not in scanned.numbers and len(scanned.numbers) + len(scanned.damaged) > limit:
        scanned = scan(data, limit)
    numbers, events, damaged, tail, hidden, consumed = scanned
    if 0 in numbers:  # first in the segment, unless somebody has put something before it
        at = numbers.index(0)
        del numbers[at], events[at]
    rest = data.find(b"\n", consumed) < 0
    if ended and at_end and rest and consumed < len(data):
        damaged, tail = [*damaged, data[consumed:]], tail + 1
        consumed = len(data)
    return Chunk(numbers, events, damaged, tail, hidden, position + consumed, at_end and rest)


def description(source: str, segment: int, role: str, dropped: Mapping[str, int]) -> dict[str, Any]:
    """What the first frame of a segment of this process says."""
    return {
        "format": VERSION,
        "source": source,
        "segment": segment,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "role": role,
        "at": now(),
        "dropped": dict(dropped),
    }


def guess_of(segment: Segment) -> dict[str, Any]:
    """What the name of a segment says about its process, with the keys of `describe`. Raises `OSError`."""
    return {
        "source": segment.source,
        "host": socket.gethostname(),
        "pid": _pid(segment.source),
        "role": "unknown",
        "at": int(segment.path.lstat().st_mtime * 1_000_000),
        "dropped": None,
    }


def describe(segment: Segment) -> dict[str, Any]:
    """What the first frame says about the segment and its process; if it is damaged, what the file's name says.

    Keys: source, host, pid, role, at (microseconds since the epoch), dropped (counts by reason; None: not known).
    Raises `OSError`, and `FormatError` for a segment that must be left alone.
    """
    guess = guess_of(segment)
    with opened(segment.path) as file:
        first = scan(file.readline(), 1)
    if first.numbers != [0]:
        return guess
    try:
        description = json.loads(first.data[0])
    except ValueError:
        return guess
    if not isinstance(description, dict):
        return guess
    if description.get("format") not in READABLE:
        raise FormatError(
            f"The segment {segment.path} has the format {description.get('format')!r}, which this version of "
            "celery-asynctask does not know. Upgrade celery-asynctask on this host; the file stays until then."
        )
    return {**guess, **description, "source": segment.source}


def _pid(source: str) -> int:
    parts = source.split("-")
    return int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() else 0
