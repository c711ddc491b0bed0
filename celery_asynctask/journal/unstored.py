"""What a journal directory holds of a process beyond what is stored, for those who only look."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from celery_asynctask.journal.files import is_being_written
from celery_asynctask.journal.frame import NOTHING, Chunk, FormatError, describe, guess_of, read
from celery_asynctask.journal.names import Segment
from celery_asynctask.journal.page import View

_FRAMES: Final = 20_000
"""Frames read at a time."""


class Unstored(NamedTuple):
    """The part of a process's events that is in the journal and not stored yet, and what its control page says."""

    description: Mapping[str, Any]
    """Describes the process: `frame.describe`."""
    ranges: list[tuple[int, int]]
    """The first and the last number of undamaged events without a gap."""
    damaged: int
    """Number of damaged lines, which will go into quarantine."""
    hidden: int
    """How many events may be in these."""
    oldest: int | None
    """When the first of the events happened, in microseconds since the epoch; None: there is none."""
    lives: bool
    """Whether the process lives."""
    numbered: int
    """Number of the last event that it is known to have accepted."""
    held: int
    """Events that wait in its memory, if it lives."""
    dropped: Mapping[str, int] | None
    """Events that it could not keep, by reason; None: not known."""
    starts: int
    """Starts of runs that only its page has."""
    unread: int
    """Segments of a format that is not known here."""

    def events(self, after: int) -> int:
        """The number of undamaged events with a greater number than that."""
        return sum(last - max(first, after + 1) + 1 for first, last in self.ranges if last > after)


def unstored(segments: Iterable[Segment], page: View | None, number: int, position: int) -> Unstored | None:
    """What the segments of a process hold beyond ``position`` in segment ``number``, and its ``page``, read before
    them; None: all are gone meanwhile. Raises `OSError`."""
    description: Mapping[str, Any] = page.description if page is not None else {}
    dropped: Mapping[str, int] | None = page.dropped if page is not None else None
    ranges: list[tuple[int, int]] = []
    damaged = hidden = unread = 0
    oldest: int | None = None
    lives = page is not None and page.lives
    newest = max(segments := sorted(segments), default=None)
    for segment in segments:
        with contextlib.suppress(FileNotFoundError):
            is_held = is_being_written(segment.path)
            ended = segment != newest or not is_held
            try:
                told, is_known = describe(segment), True
            except FormatError:
                told, is_known = guess_of(segment), False
                unread += 1
            if not description or page is None:
                description, dropped = told, told["dropped"]
            lives = lives or is_held
            at = position if segment.number == number else 0
            at_end = segment.number < number or not is_known
            while not at_end:
                chunk = _chunk(segment, at, ended)
                at, at_end = chunk.end, chunk.at_end
                damaged += len(chunk.damaged)
                hidden += chunk.hidden + chunk.tail
                for one in chunk.numbers:
                    if ranges and one == ranges[-1][1] + 1:
                        ranges[-1] = ranges[-1][0], one
                    else:
                        ranges.append((one, one))
                if oldest is None and chunk.events:
                    oldest = _time(chunk.events[0])
    if not description:
        return None
    numbered = max([page.numbered if page is not None else 0, *(last for _, last in ranges)])
    held = page.held if page is not None and lives else 0
    starts = len(page.starts) if page is not None else 0
    return Unstored(description, ranges, damaged, hidden, oldest, lives, numbered, held, dropped, starts, unread)


def _chunk(segment: Segment, at: int, ended: bool) -> Chunk:
    """What follows in a segment; nothing if the segment is shorter than what is stored of it."""
    if segment.path.lstat().st_size < at:
        return NOTHING
    return read(segment, at, _FRAMES, ended)


def _time(event: bytes) -> int | None:
    try:
        at = json.loads(event)["at"]
    except (ValueError, LookupError, TypeError):
        return None
    return at if isinstance(at, int) else None
