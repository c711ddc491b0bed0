"""Notes that processes write about their own actions, independent of the package: the truth that rows are checked
against.

Each entry is one line and one `write` with O_APPEND, so a killed process leaves only complete lines.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple


class Note(NamedTuple):
    at: int
    """Nanoseconds, by the wall clock."""
    what: str
    """start, end, retry, fail (of a body); asking, asked (of a producer, before and after sending); or free words."""
    task_id: str
    pid: int
    retries: int
    redelivered: bool
    kind: str
    """The task or the shape."""


class Notebook:
    """A file of notes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def write(self, what: str, task_id: str, kind: str, retries: int = 0, redelivered: bool = False) -> None:
        if self._handle is None:
            self._handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        line = f"{time.time_ns()} {what} {task_id} {os.getpid()} {retries} {int(redelivered)} {kind}\n"
        os.write(self._handle, line.encode())

    def read(self) -> list[Note]:
        if not self.path.exists():
            return []
        notes = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            at, what, task_id, pid, retries, redelivered, kind = line.split()
            notes.append(Note(int(at), what, task_id, int(pid), int(retries), redelivered == "1", kind))
        return notes

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0
