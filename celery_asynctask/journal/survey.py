"""A journal directory as one finds it: looked at without making, claiming or repairing anything."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from celery_asynctask.errors import JournalError
from celery_asynctask.journal.directory import (
    CLAIM_NAME,
    ENCODING,
    LOCK_NAME,
    STORE_NAME,
    Directory,
    Segment,
    is_being_written,
)
from celery_asynctask.journal.frame import NOTHING, Chunk, describe, read

_FRAMES: Final = 20_000
"""Frames that are looked at in one go."""
UNKNOWN_PID: Final = 0
"""Stands for the holder of a lock that the kernel does not name."""


class Unstored(NamedTuple):
    """What a source has in the journal beyond what is stored."""

    description: Mapping[str, Any]
    """Of the source, as its newest segment has it."""
    events: int
    """Undamaged ones."""
    damaged: int
    """Lines that are no events; they will go into quarantine."""
    oldest: int | None
    """When the first of the events happened, in microseconds since the epoch; None: there is none."""


class Survey(Directory):
    """A journal directory that is there. Raises `OSError`, `FileNotFoundError` among them."""

    def __init__(self, path: Path) -> None:  # what `Directory` does when made is not for those who only look
        self.path = path
        with (path / STORE_NAME).open("rb") as file:
            self.store_id, _, directory_id = file.read(4096).decode(*ENCODING).partition("\n")
        self.id = directory_id.strip()

    def recorder(self) -> int | None:
        """Process id of the elected recorder, `UNKNOWN_PID` where the kernel does not tell it; None: there is none."""
        return holder(self.path / LOCK_NAME)

    def dedicated(self) -> int | None:
        """Process id of the dedicated recorder, as `recorder`."""
        return holder(self.path / CLAIM_NAME)

    def quarantines(self) -> dict[Path, int]:
        """How many lines each file of what could not be stored has."""
        found = {}
        for path in sorted(self.path.glob("*.quarantine")):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                found[path] = sum(1 for _ in file)
        return found

    def unstored(self, segments: list[Segment], number: int, position: int) -> Unstored | None:
        """What the segments of a source hold beyond ``position`` of segment ``number``, where it is stored up to; None:
        they are gone meanwhile."""
        description: Mapping[str, Any] | None = None
        events = damaged = 0
        oldest: int | None = None
        for segment in sorted(segments):
            with contextlib.suppress(FileNotFoundError):
                description = describe(segment)
                ended = not is_being_written(segment.path)
                at = position if segment.number == number else 0
                whole = segment.number < number
                while not whole:
                    chunk = _chunk(segment, at, ended)
                    at, whole = chunk.end, chunk.whole
                    events += len(chunk.events)
                    damaged += len(chunk.damaged)
                    if oldest is None and chunk.events:
                        oldest = _time(chunk.events[0])
        return Unstored(description, events, damaged, oldest) if description is not None else None

    def by_source(self) -> dict[str, list[Segment]]:
        """The segments of each source."""
        found: dict[str, list[Segment]] = {}
        for segment in self.segments():
            found.setdefault(segment.source, []).append(segment)
        return found


def _chunk(segment: Segment, at: int, ended: bool) -> Chunk:
    """What follows in a segment; nothing where it has become shorter than what is stored of it."""
    if segment.path.stat().st_size < at:
        return NOTHING
    return read(segment, at, _FRAMES, ended)


def _time(event: bytes) -> int | None:
    try:
        at = json.loads(event)["at"]
    except (ValueError, LookupError, TypeError):
        return None
    return at if isinstance(at, int) else None


def holder(path: Path) -> int | None:
    """The process that holds the lock of a file, `UNKNOWN_PID` where that is not told; None: nobody, or no file.

    Linux lists locks with their holders; but not those of other containers, so a file without one in the list is tried,
    for an instant. Raises `OSError` for a file that may not be read.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[3] == "WRITE":
                major, minor, inode = fields[5].split(":")
                if (os.makedev(int(major, 16), int(minor, 16)), int(inode)) == (status.st_dev, status.st_ino):
                    return max(UNKNOWN_PID, int(fields[4]))
    return UNKNOWN_PID if is_being_written(path) else None


def survey_of(path: Path) -> Survey | None:
    """The journal directory of this host, None where there is none. Raises `JournalError`."""
    try:
        return Survey(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise JournalError(
            f"The journal directory {path} cannot be read: {exc.strerror or exc}. Run this as the user of the workers."
        ) from exc
