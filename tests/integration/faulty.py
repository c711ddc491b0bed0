"""A disk and a database that fail, for schedules of everything that can go wrong."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy.exc import OperationalError

from celery_asynctask.store import Store


class KilledError(BaseException):
    """Ends the recorder where it stands."""


class Disk:
    """The journal's module `os`, on a disk with ``room`` bytes left: longer writes fail, or write a part. Or no file
    can be opened for writing."""

    def __init__(self, second: Path) -> None:
        self.second = second
        """Which is not on it."""
        self.fault = ""
        self.room = 0
        self.struck: Counter[str] = Counter()
        self.let_go: set[str] = set()
        """Names, without suffix, of the kept segments that made room."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, handle: int, data: bytes) -> int:
        if self.fault in ("full", "part") and not self._is_second(Path(f"/proc/self/fd/{handle}").readlink()):
            if len(data) > self.room:
                self.struck[f"disk: {self.fault}"] += 1
                if self.fault == "full" or not self.room:
                    raise OSError(errno.ENOSPC, "full")
                return os.write(handle, data[: self.room])  # the journal takes it back
            self.room -= len(data)
        return os.write(handle, data)

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        if self.fault == "open" and flags & os.O_CREAT and not self._is_second(Path(path)):
            self.struck["disk: open"] += 1
            raise OSError(errno.EMFILE, "too many")
        return os.open(path, flags, mode)

    def copyfileobj(self, source: Any, target: Any) -> None:
        """That of `shutil`, for what comes home from the second place."""
        if self.fault in ("full", "part"):
            raise OSError(errno.ENOSPC, "full")
        shutil.copyfileobj(source, target)

    def _is_second(self, path: Path) -> bool:
        return path.is_relative_to(self.second)


class FailingStore(Store):
    """Fails at the ``fails_at``-th of the next writes, at the place that ``fault`` names. It outlives its drains."""

    fault = ""
    fails_at = 0
    is_away = False
    most = 0
    """Events that it takes at once; 0: any number."""
    refused = 0

    def probe(self, *, commits: bool = True) -> None:
        if self.is_away:
            raise OperationalError("a statement", {}, Exception("the database is still away"))
        super().probe(commits=commits)

    def write(
        self, events: Any, sources: Any = (), before_commit: Callable[[], None] | None = None, expected: Any = None
    ) -> int:
        self.fails_at -= 1
        fault = self.fault if self.fails_at == 0 else ""
        self.is_away = bool(fault)
        away = OperationalError("a statement", {}, Exception("the database is away"))
        if self.most and len(events) > self.most:
            self.refused += 1
            raise OperationalError("a statement", {}, Exception("too many at once"))
        if fault == "refused":
            raise away

        def fail() -> None:
            if before_commit is not None:
                before_commit()
            raise KilledError if fault == "killed before the commit" else away

        undone = fault in ("rolled back", "killed before the commit")
        rows = super().write(events, sources, fail if undone else before_commit, expected)
        if fault:
            raise KilledError if fault == "killed after the commit" else away
        return rows

    def close(self) -> None:
        """The next drain uses it."""


FAULTS = ("refused", "rolled back", "answer lost", "killed before the commit", "killed after the commit")
