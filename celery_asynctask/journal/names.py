"""The names of the files in a journal directory.

Since format 2 they are others than before, so that a recorder of an earlier version, which may share the directory
during an upgrade, neither reads nor removes what it does not understand, and both elect a recorder of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

SUFFIX: Final = ".events"
"""Of a segment."""
UNNAMED: Final = ".events-new"
"""Of a segment that is not locked yet."""
KEPT: Final = ".kept"
"""Of a segment that is stored, and kept for a while: a database that fails over may lose what it had stored last."""
PAGE: Final = ".page"
"""Of the control page of a process."""
QUARANTINE: Final = ".quarantine"
LOCK_NAME: Final = "drain.lock"
CLAIM_NAME: Final = "dedicated-drain.lock"
STORE_NAME: Final = "store"

OLD_SUFFIX: Final = ".segment"
OLD_UNNAMED: Final = ".new"
OLD_LOCK_NAME: Final = "recorder.lock"
OLD_CLAIM_NAME: Final = "dedicated.lock"

SEGMENTS: Final = (SUFFIX, OLD_SUFFIX)
LOCKS: Final = (LOCK_NAME, CLAIM_NAME, OLD_LOCK_NAME, OLD_CLAIM_NAME)
_SUFFIXES: Final = (SUFFIX, UNNAMED, KEPT, PAGE, QUARANTINE, OLD_SUFFIX, OLD_UNNAMED)


class Segment(NamedTuple):
    """A segment file, by its name. Sorts by source, then number."""

    source: str
    number: int
    path: Path

    @property
    def is_old(self) -> bool:
        """Whether a process of an earlier version writes, or wrote, it: format 1."""
        return self.path.name.endswith(OLD_SUFFIX)


def segment_of(path: Path) -> Segment | None:
    """The segment at a path, by its name; None: it has another name."""
    source, _, number = path.stem.rpartition(".")
    return Segment(source, int(number), path) if source and number.isdecimal() and number.isascii() else None


def is_ours(name: str) -> bool:
    """Whether a journal directory may have a file of this name."""
    return name == STORE_NAME or name in LOCKS or name.endswith(_SUFFIXES)
