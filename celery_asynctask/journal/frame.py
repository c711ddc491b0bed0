"""The bytes of a segment: one frame a line, so a damaged one ends at the next line break and a person can read it.

A frame is ``<crc32 of the rest, 8 hex digits> <number> <JSON without line breaks>\\n``. The first frame of a
segment has the number 0 and describes the segment; the events follow, numbered on through all segments of a source.
Pure.
"""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

VERSION = 1
"""Version of the format, written into the first frame of every segment."""


class Scan(NamedTuple):
    """What some bytes of a segment held."""

    numbers: list[int]
    """Of the undamaged frames, in the order of the file."""
    data: list[bytes]
    """What is in them."""
    damaged: list[bytes]
    """Lines that are no frame, each without its line break."""
    tail: int
    """How many of them come behind the last undamaged frame."""
    hidden: int
    """How many events may be in the others: as many as the numbers around them leave out; before the first undamaged
    event, one a line."""
    consumed: int
    """Bytes of the lines looked at: where to go on."""


def pack(number: int, data: bytes) -> bytes:
    """The frame with ``number`` around ``data``, which must hold no line break."""
    body = b"%d %b" % (number, data)
    return b"%08x %b\n" % (crc32(body), body)


def unpack(line: bytes) -> tuple[int, bytes]:
    """Number and data of the frame in one line without its line break. Raises `ValueError` when it is damaged."""
    body = line[9:]
    if line[8:9] != b" " or crc32(body) != int(line[:8], 16):
        raise ValueError("checksum does not match")
    number, _, data = body.partition(b" ")
    return int(number), data


def scan(data: bytes, most: int) -> Scan:
    """The whole lines of ``data``, at most ``most`` of them; a last line without its break is left for later."""
    numbers: list[int] = []
    found: list[bytes] = []
    damaged: list[bytes] = []
    tail = hidden = last = at = 0
    while most > 0 and (end := data.find(b"\n", at)) >= 0:
        line = data[at:end]  # one by one: all of them at once would take as much memory as the data
        at = end + 1
        most -= 1
        try:
            number, one = unpack(line)
        except ValueError:
            damaged.append(line)
            tail += 1
            continue
        if tail:
            hidden += max(0, number - last - 1) if last else tail
            tail = 0
        last = number
        numbers.append(number)
        found.append(one)
    return Scan(numbers, found, damaged, tail, hidden, at)
