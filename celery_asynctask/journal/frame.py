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


class Frame(NamedTuple):
    """One undamaged frame."""

    number: int
    data: bytes


class Scan(NamedTuple):
    """What some bytes of a segment held."""

    frames: list[Frame]
    damaged: list[bytes]
    """Lines that are no frame, each without its line break."""
    consumed: int
    """Bytes of the lines looked at: where to go on."""


def pack(number: int, data: bytes) -> bytes:
    """The frame with ``number`` around ``data``, which must hold no line break."""
    body = b"%d %b" % (number, data)
    return b"%08x %b\n" % (crc32(body), body)


def unpack(line: bytes) -> Frame:
    """The frame in one line without its line break. Raises `ValueError` when it is damaged."""
    check, body = line[:8], line[9:]
    if line[8:9] != b" " or crc32(body) != int(check, 16):
        raise ValueError("checksum does not match")
    number, _, data = body.partition(b" ")
    return Frame(int(number), data)


def scan(data: bytes, most: int) -> Scan:
    """The whole lines of ``data``, at most ``most`` of them; a last line without its break is left for later."""
    frames: list[Frame] = []
    damaged: list[bytes] = []
    consumed = 0
    for _ in range(most):
        end = data.find(b"\n", consumed)
        if end < 0:
            break
        line = data[consumed:end]
        consumed = end + 1
        try:
            frames.append(unpack(line))
        except ValueError:
            damaged.append(line)
    return Scan(frames, damaged, consumed)
