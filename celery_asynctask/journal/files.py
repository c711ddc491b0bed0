"""Files of a journal directory: opened with care, written whole, locked."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import IO, Final

from celery_asynctask.core.forking import locking
from celery_asynctask.journal.names import UNNAMED

WITH_CARE: Final = os.O_NOFOLLOW | os.O_NONBLOCK
"""No link is followed, and a pipe is not waited for. Regular files do not have the latter."""


def opened(path: Path) -> IO[bytes]:
    """A file of the directory, for reading. Raises `OSError`, also for a link."""
    return open(path, "rb", opener=_with_care)


def _with_care(path: str, flags: int) -> int:
    return os.open(path, flags | WITH_CARE)


def open_if_read_only(path: Path, flags: int) -> int:
    """`os.open` for reading and writing, or for reading what cannot be written to. Raises `OSError`."""
    try:
        return os.open(path, flags | os.O_RDWR | os.O_CREAT | WITH_CARE | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        if exc.errno not in (errno.EROFS, errno.EPERM, errno.EACCES):
            raise
        try:
            return os.open(path, os.O_RDONLY | WITH_CARE | os.O_CLOEXEC)
        except FileNotFoundError:
            raise exc from None


def write_all(handle: int, data: bytes) -> None:
    """Append all of ``data`` to a file, or nothing: a full disk may take a part, which is cut off. Raises `OSError`."""
    if (written := os.write(handle, data)) != len(data):
        os.ftruncate(handle, os.fstat(handle).st_size - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def lock(handle: int, kind: int) -> int | None:
    """Lock an open file. Returns the descriptor; None: another's lock forbids it, and the file is closed. Raises
    `OSError`."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(handle)
        if exc.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise
    return handle


def is_being_written(path: Path) -> bool:
    """Whether a process holds a file's exclusive lock. False if there is no such file. Raises `OSError`.

    The test locks the file for an instant; see `forking.locking` for why no child may be forked in between.
    """
    with locking():
        try:
            handle = os.open(path, os.O_RDONLY | WITH_CARE | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        if (locked := lock(handle, fcntl.LOCK_SH)) is None:
            return True
        os.close(locked)
    return False


def create_locked(path: Path, line: bytes) -> tuple[Path, int]:
    """Create a segment with its first line and lock it. Returns where it is until it gets its name, and the descriptor.
    Raises `OSError`; nothing is left then."""
    unnamed = path.with_suffix(UNNAMED)
    handle = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_all(handle, line)
    except OSError:
        os.close(handle)
        unnamed.unlink(missing_ok=True)
        raise
    return unnamed, handle
