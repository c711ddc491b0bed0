"""Files of quarantine: ``<process>.quarantine``, an entry a line, to which the recorder appends; and what an operator
has taken away from it to work on, ``<process>.<token>.quarantine``.

No lock is held between the two: the recorder appends again what it may have appended to a file that was taken away
meanwhile. So an entry may be there twice, and is never lost; equal lines count as one.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path
from typing import Final, NamedTuple

from celery_asynctask.journal.files import WITH_CARE, opened, write_all
from celery_asynctask.journal.names import QUARANTINE

_TAKEN: Final = re.compile(r"(.+)\.([0-9a-f]{16})")


class Aside(NamedTuple):
    """A file of quarantine, by its name."""

    source: str
    token: str
    """Of what was taken away; empty: the recorder appends to it."""
    path: Path

    def lines(self) -> list[bytes]:
        """Its entries, each once; none if it is gone. Raises `OSError`."""
        try:
            with opened(self.path) as file:
                *lines, rest = file.read().split(b"\n")
        except FileNotFoundError:
            return []
        return list(dict.fromkeys([*lines, rest] if rest else lines))

    def take(self) -> Aside:
        """Move what is in it out of the way of the recorder, which begins a new one. Raises `OSError`."""
        token = secrets.token_hex(8)
        path = self.path.with_name(f"{self.source}.{token}{QUARANTINE}")
        self.path.rename(path)
        return Aside(self.source, token, path)


def aside_of(path: Path) -> Aside:
    """The file of quarantine at a path, by its name."""
    name = path.name.removesuffix(QUARANTINE)
    taken = _TAKEN.fullmatch(name)
    return Aside(name, "", path) if taken is None else Aside(taken[1], taken[2], path)


def append(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Append ``data``, one or more lines without the last line break, to the file at ``path``, even if somebody takes
    it away meanwhile. ``durable``: it survives a power failure. Raises `OSError`."""
    while True:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | WITH_CARE, 0o600)
        try:
            write_all(handle, data + b"\n")
            if durable:
                os.fsync(handle)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.lstat()):
                    return
        finally:
            os.close(handle)
