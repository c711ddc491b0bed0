"""A journal directory as it is: read without creating, claiming or repairing anything."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from celery_asynctask.errors import JournalError
from celery_asynctask.journal.claim import Claim, read_claim
from celery_asynctask.journal.directory import Directory
from celery_asynctask.journal.files import is_being_written, opened
from celery_asynctask.journal.names import CLAIM_NAME, LOCK_NAME, OLD_LOCK_NAME, QUARANTINE, STORE_NAME, Segment
from celery_asynctask.journal.spare import id_of, spare_of

UNKNOWN_PID: Final = 0
"""Stands for the holder of a lock whose process id the kernel does not show."""


class Survey(Directory):
    """A journal directory that exists, for reading. Raises `OSError`, also `FileNotFoundError`."""

    def __init__(self, path: Path) -> None:  # without the checks and changes of `Directory`
        self.path = path
        self.owner = path.lstat().st_uid
        with opened(path / STORE_NAME) as file:
            claimed = read_claim(file.fileno())
        self.store_id, self.id, self.old_id = claimed.store, claimed.id, claimed.old_id
        self.ids = self.id, Claim(claimed.store, id_of(path, claimed.store)).id
        self.spare = spare_of(path, claimed.store)

    def recorder(self) -> int | None:
        """Process id of the elected recorder, `UNKNOWN_PID` if the kernel does not show it; None: there is none."""
        return holder(self.path / LOCK_NAME)

    def old_recorder(self) -> int | None:
        """Process id of the elected recorder for segments of earlier versions; otherwise as `recorder`."""
        return holder(self.path / OLD_LOCK_NAME)

    def dedicated(self) -> int | None:
        """Process id of the dedicated recorder; otherwise as `recorder`."""
        return holder(self.path / CLAIM_NAME)

    def quarantines(self) -> dict[Path, int]:
        """The number of lines in each quarantine file."""
        lines = {}
        for path in sorted(self.paths(QUARANTINE)):
            with contextlib.suppress(FileNotFoundError), opened(path) as file:
                lines[path] = sum(1 for _ in file)
        return lines

    def by_source(self) -> dict[str, list[Segment]]:
        """The segments of each process, by source."""
        segments: dict[str, list[Segment]] = {}
        for segment in self.segments():
            segments.setdefault(segment.source, []).append(segment)
        return segments


def holder(path: Path) -> int | None:
    """Id of the process that holds the lock of a file, `UNKNOWN_PID` if the kernel does not show it; None: the file has
    no lock, or does not exist.

    Linux lists locks with their holders, but not those of other containers. So a file without an entry is tested by
    locking it for an instant. Raises `OSError` if the file may not be read.
    """
    try:
        status = path.lstat()
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
    """The journal directory at ``path``; None: there is none. Raises `JournalError` if it cannot be read."""
    with readable(path):
        try:
            return Survey(path)
        except (FileNotFoundError, NotADirectoryError):
            return None


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what the operating system raises inside, about the journal directory, into `JournalError`."""
    try:
        yield
    except OSError as exc:
        raise JournalError(
            f"The journal directory {path} cannot be read: {exc.strerror or exc}. Run this as the user of the workers."
        ) from exc
