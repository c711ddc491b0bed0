"""The journal directory: who may use it, which segments lie in it, and the lock that elects the recorder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from pathlib import Path
from typing import NamedTuple

from celery_asynctask.core.forking import locking
from celery_asynctask.errors import JournalError

SUFFIX = ".segment"
UNNAMED = ".new"
"""Ends the name of a segment that is not locked yet."""
_UNNAMED_SECONDS = 60
"""After which such a file is a dead process's."""
LOCK_NAME = "recorder.lock"
CLAIM_NAME = "dedicated.lock"
STORE_NAME = "store"
ENCODING = ("utf-8", "surrogateescape")
"""Of the store's name in that file, for processes of whatever locale."""


class Segment(NamedTuple):
    """A segment file, as its name tells. Sorts by source, then number."""

    source: str
    number: int
    path: Path


class Directory:
    """A journal directory, checked when made: it belongs to this user alone, and to one store.

    Raises `JournalError` when it cannot be made or used.
    """

    def __init__(self, path: Path, store_id: str) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode):
                raise JournalError(
                    f"The journal directory {path} is no directory (symbolic links are not followed); "
                    "set asynctask_journal_dir to a directory of this user."
                )
            if status.st_uid != os.geteuid():
                raise JournalError(
                    f"The journal directory {path} belongs to user id {status.st_uid}, this process runs as "
                    f"{os.geteuid()}; set asynctask_journal_dir to a directory of this user."
                )
            if status.st_mode & 0o077:
                path.chmod(0o700)
            self.id = self._claim(store_id)
        except OSError as exc:
            raise JournalError(
                f"The journal directory {path} cannot be used: {exc.strerror or exc}. Make it writable or set "
                "asynctask_journal_dir to another one."
            ) from exc

    def _claim(self, store_id: str) -> str:
        """Make the directory this store's, or see that it is; the directory's own id."""
        with locking():
            handle = os.open(self.path / STORE_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                if not os.fstat(handle).st_size:  # new: whoever locks it first claims the directory
                    fcntl.flock(handle, fcntl.LOCK_EX)
                    if not os.fstat(handle).st_size:
                        os.write(handle, f"{store_id}\n{secrets.token_hex(16)}\n".encode(*ENCODING))
                claimed, _, directory_id = os.pread(handle, 4096, 0).decode(*ENCODING).partition("\n")
            finally:
                os.close(handle)
        if claimed != store_id:
            raise JournalError(
                f"The journal directory {self.path} belongs to the store {claimed}, not to {store_id}; give each "
                "store its own asynctask_journal_dir."
            )
        return directory_id.strip()

    def segments(self) -> list[Segment]:
        """Every segment in the directory, sorted. Raises `OSError`."""
        found = []
        for name in os.listdir(self.path):  # noqa: PTH208 - names are all that is needed
            if name.endswith(SUFFIX):
                source, _, number = name.removesuffix(SUFFIX).rpartition(".")
                if source and number.isdecimal():
                    found.append(Segment(source, int(number), self.path / name))
        return sorted(found)

    @staticmethod
    def size(path: Path) -> int:
        """Bytes of everything in a journal directory, what is in quarantine among them. Raises `OSError`."""
        total = 0
        with os.scandir(path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_size
        return total

    def sweep(self) -> None:
        """Remove what processes left behind that were killed while they began a segment. Raises `OSError`."""
        for name in os.listdir(self.path):  # noqa: PTH208
            path = self.path / name
            if name.endswith(UNNAMED):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > _UNNAMED_SECONDS and not is_being_written(path):
                        path.unlink()

    def elect(self) -> int | None:
        """Become the directory's recorder: a descriptor that holds the lock until closed, None if another does. For the
        instant in which somebody looks who does (`is_being_written`) it is None as well: try again on the next turn.

        The kernel releases the lock when the holder dies. A forked child must close its copy: call this, and keep what
        it gives, inside of `forking.locking`. Raises `OSError`.
        """
        return _lock(self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX)

    def claim(self) -> int | None:
        """Be the directory's dedicated recorder, to which others leave the election: as `elect`."""
        return _lock(self.path / CLAIM_NAME, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX)

    @staticmethod
    def is_claimed(path: Path) -> bool:
        """Whether a dedicated recorder of the journal directory lives. Raises `OSError`."""
        return is_being_written(path / CLAIM_NAME)

    def waiting(self) -> int:
        """Bytes of the segments of processes that are gone: what a recorder has not stored yet. Raises `OSError`."""
        total = 0
        for segment in self.segments():
            with contextlib.suppress(FileNotFoundError):
                if not is_being_written(segment.path):
                    total += segment.path.stat().st_size
        return total

    def quarantine(self, name: str, data: bytes) -> None:
        """Keep ``data`` that cannot be stored, one entry a line, in a file beside the segments. Raises `OSError`."""
        handle = os.open(
            self.path / f"{name}.quarantine", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600
        )
        try:
            write_whole(handle, data + b"\n")
        finally:
            os.close(handle)


def write_whole(handle: int, data: bytes) -> None:
    """Append all of ``data`` to a file, or leave nothing of it: a full disk may take a part. Raises `OSError`."""
    if (written := os.write(handle, data)) != len(data):
        os.ftruncate(handle, os.fstat(handle).st_size - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _lock(path: Path, flags: int, how: int) -> int | None:
    """Open ``path`` and lock it: the descriptor, or None when another's lock forbids it. Raises `OSError`."""
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(handle)
        if exc.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise
    return handle


def is_being_written(path: Path) -> bool:
    """Whether the process that writes the segment lives, or any that holds the lock of a file; not where there is none.
    Others who look at the same time are not taken for it: the lock is shared. Raises `OSError`."""
    with locking():
        try:
            handle = _lock(path, os.O_RDONLY, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False
        if handle is None:
            return True
        os.close(handle)
    return False
