"""The journal directory: who may use it, its segments, and the lock that elects its recorder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shlex
import stat
import time
from pathlib import Path
from typing import IO, NamedTuple

from celery_asynctask.core.forking import locking
from celery_asynctask.core.url import same_store
from celery_asynctask.errors import JournalError
from celery_asynctask.journal.place import is_nowhere

SUFFIX = ".segment"
UNNAMED = ".new"
"""Suffix of a segment that is not locked yet."""
_UNNAMED_SECONDS = 60
"""Age at which such a file was left behind by a process that died."""
LOCK_NAME = "recorder.lock"
CLAIM_NAME = "dedicated.lock"
STORE_NAME = "store"
QUARANTINE = ".quarantine"
_WITH_CARE = os.O_NOFOLLOW | os.O_NONBLOCK
"""No link is followed, and a pipe is not waited for. Regular files do not have the latter."""
NO_PLACE = (
    "There is no place for the journal: this user has no home directory to write to, and can use neither "
    "$XDG_RUNTIME_DIR, /dev/shm nor $TMPDIR"
)
_INSIDE = "celery-asynctask"
ENCODING = ("utf-8", "surrogateescape")
"""Encoding and error handler of the store file, independent of a process's locale."""


class Segment(NamedTuple):
    """A segment file, by its name. Sorts by source, then number."""

    source: str
    number: int
    path: Path


class Directory:
    """A journal directory. Creating the object creates the directory if there is none, makes it private (mode 0700),
    and checks that it belongs to this user and to the store ``store_id`` (a URL without credentials).

    In it, only regular files of this user are read. Raises `JournalError` if it cannot be created or used.
    """

    def __init__(self, path: Path, store_id: str) -> None:
        self.path = path
        self.owner = os.geteuid()
        if is_nowhere(path):
            raise JournalError(f"{NO_PLACE}. Set HOME, or asynctask_journal_dir to a directory of this user.")
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode):
                raise JournalError(
                    f"The journal directory {path} is not a directory (symbolic links are not followed). "
                    "Set asynctask_journal_dir to a directory of this user."
                )
            if status.st_uid != os.geteuid():
                raise JournalError(
                    f"The journal directory {path} belongs to user id {status.st_uid}, but this process runs as "
                    f"{os.geteuid()}. Set asynctask_journal_dir to a directory of this user"
                    f"{f', such as {path / _INSIDE}, which is then created' if os.access(path, os.W_OK) else ''}."
                )
            if status.st_mode & 0o077:
                self._close_to_others(status.st_mode)
            self.id = self._claim(store_id)
        except OSError as exc:
            raise JournalError(
                f"The journal directory {path} cannot be used: {exc.strerror or exc}. Make it writable or set "
                "asynctask_journal_dir to another one."
            ) from exc

    def _close_to_others(self, mode: int) -> None:
        """Take the rights of others away. Raises `JournalError` where everybody could write and it is in use: files of
        this user in it may be others that somebody has moved there. A group may: Kubernetes lets that of a volume
        write at each start of a pod."""
        # Looked at again: another process of this user may have closed it meanwhile, and begun to use it.
        if mode & stat.S_IWOTH and is_used(self.path) and self.path.lstat().st_mode & stat.S_IWOTH:
            raise JournalError(
                f"The journal directory {self.path} has the mode {stat.S_IMODE(mode):04o}, so every user could change "
                f"what is in it. Remove what is not yours in it and run chmod 700 {shlex.quote(str(self.path))}, or "
                "set asynctask_journal_dir to another directory."
            )
        self.path.chmod(0o700)

    def _claim(self, store_id: str) -> str:
        """Make the directory this store's, or check that it is. Returns the directory's own id."""
        with locking():
            handle = os.open(self.path / STORE_NAME, os.O_RDWR | os.O_CREAT | _WITH_CARE | os.O_CLOEXEC, 0o600)
            try:
                if not self._is_own(os.fstat(handle)):
                    raise JournalError(
                        f"The file {self.path / STORE_NAME} is no regular file of this user. Remove it, or set "
                        "asynctask_journal_dir to another directory."
                    )
                if not os.fstat(handle).st_size:  # new: whoever locks it first claims the directory
                    fcntl.flock(handle, fcntl.LOCK_EX)
                    if not os.fstat(handle).st_size:
                        os.write(handle, f"{store_id}\n{secrets.token_hex(16)}\n".encode(*ENCODING))
                claimed, directory_id = read_claim(handle)
                if claimed != store_id and same_store(claimed, store_id):  # as an earlier version wrote it
                    fcntl.flock(handle, fcntl.LOCK_EX)
                    now = f"{store_id}\n{directory_id}\n".encode(*ENCODING)
                    os.pwrite(handle, now, 0)
                    os.ftruncate(handle, len(now))  # afterwards: whoever reads meanwhile reads these two lines
            finally:
                os.close(handle)
        if not same_store(claimed, store_id):
            raise JournalError(
                f"The journal directory {self.path} belongs to the store {claimed}, not to {store_id}. Give each "
                "store its own asynctask_journal_dir."
            )
        return directory_id

    def segments(self) -> list[Segment]:
        """All segments in the directory, sorted, without those that are `strangers`. Raises `OSError`."""
        segments = []
        for name in self.files(SUFFIX):
            source, _, number = name.removesuffix(SUFFIX).rpartition(".")
            if source and number.isdecimal():
                segments.append(Segment(source, int(number), self.path / name))
        return sorted(segments)

    def files(self, suffix: str) -> list[str]:
        """The names with this end, in no order, of regular files of this user. Raises `OSError`."""
        with os.scandir(self.path) as entries:
            return [entry.name for entry in entries if entry.name.endswith(suffix) and self.is_own(entry)]

    def strangers(self) -> list[str]:
        """The names, sorted, of what has a name of ours and is no regular file of this user: links, pipes, files of
        other users. They are neither read nor removed. Raises `OSError`."""
        with os.scandir(self.path) as entries:
            return sorted(entry.name for entry in entries if is_ours(entry.name) and not self.is_own(entry))

    def is_own(self, entry: os.DirEntry[str]) -> bool:
        """Whether an entry of the directory is a regular file of this user; False if it is gone. Raises `OSError`."""
        try:
            return self._is_own(entry.stat(follow_symlinks=False))
        except FileNotFoundError:
            return False

    def _is_own(self, status: os.stat_result) -> bool:
        return stat.S_ISREG(status.st_mode) and status.st_uid == self.owner

    @staticmethod
    def size(path: Path) -> int:
        """Bytes of all files in a journal directory, those in quarantine included. Raises `OSError`."""
        total = 0
        with os.scandir(path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_size
        return total

    def sweep(self) -> None:
        """Remove files of processes that were killed while they began a segment. Raises `OSError`."""
        for name in self.files(UNNAMED):
            path = self.path / name
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _UNNAMED_SECONDS and not is_being_written(path):
                    path.unlink()

    def elect(self) -> int | None:
        """Become the directory's recorder. Returns a descriptor that holds the lock until it is closed; None: another
        process holds the lock, or tests it at this instant (`is_being_written`), so try again on the next turn.

        The kernel releases the lock when the holder dies. A forked child must close its copy: call this, and keep the
        descriptor, inside of `forking.locking`. Raises `OSError`.
        """
        return _lock(self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX)

    def claim(self) -> int | None:
        """Become the directory's dedicated recorder, to which the others leave the election. Otherwise as `elect`."""
        return _lock(self.path / CLAIM_NAME, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX)

    @staticmethod
    def is_claimed(path: Path) -> bool:
        """Whether the journal directory has a dedicated recorder now. Raises `OSError`."""
        return is_being_written(path / CLAIM_NAME)

    def waiting(self) -> int:
        """Bytes in segments of processes that are gone, which a recorder has not stored yet. Raises `OSError`."""
        total = 0
        for segment in self.segments():
            with contextlib.suppress(FileNotFoundError):
                if not is_being_written(segment.path):
                    total += segment.path.stat().st_size
        return total

    def quarantine(self, name: str, data: bytes, limit: int | None = None) -> bool:
        """Append ``data`` that cannot be stored, as one line, to the quarantine of the source ``name``. Returns False,
        and appends nothing, if all quarantine would have more than ``limit`` bytes then. Raises `OSError`."""
        if limit is not None and self.quarantined() + len(data) >= limit:
            return False
        handle = os.open(
            self.path / f"{name}{QUARANTINE}",
            os.O_WRONLY | os.O_CREAT | os.O_APPEND | _WITH_CARE,
            0o600,
        )
        try:
            write_all(handle, data + b"\n")
        finally:
            os.close(handle)
        return True

    def quarantined(self) -> int:
        """Bytes in quarantine. Raises `OSError`."""
        total = 0
        for name in self.files(QUARANTINE):
            with contextlib.suppress(FileNotFoundError):
                total += (self.path / name).lstat().st_size
        return total


def max_quarantine(max_bytes: int) -> int:
    """Bytes that quarantine may take of those of the directory: so little that it never stops recording."""
    return max_bytes // 16


def is_used(path: Path) -> bool:
    """Whether a directory has anything with a name of ours. Raises `OSError`."""
    with os.scandir(path) as entries:
        return any(is_ours(entry.name) for entry in entries)


def is_ours(name: str) -> bool:
    """Whether a journal directory may have a file of this name."""
    return name in (LOCK_NAME, CLAIM_NAME, STORE_NAME) or name.endswith((SUFFIX, UNNAMED, QUARANTINE))


def read_claim(handle: int) -> tuple[str, str]:
    """The store that a directory belongs to, and the id of the directory, from its opened file that says so."""
    claimed, _, rest = os.pread(handle, 4096, 0).decode(*ENCODING).partition("\n")
    return claimed, rest.partition("\n")[0].strip()


def opened(path: Path) -> IO[bytes]:
    """A file of the directory, for reading. Raises `OSError`, also for a link."""
    return open(path, "rb", opener=_with_care)


def _with_care(path: str, flags: int) -> int:
    return os.open(path, flags | _WITH_CARE)


def write_all(handle: int, data: bytes) -> None:
    """Append all of ``data`` to a file, or nothing: a full disk may take a part, which is cut off. Raises `OSError`."""
    if (written := os.write(handle, data)) != len(data):
        os.ftruncate(handle, os.fstat(handle).st_size - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _lock(path: Path, flags: int, lock: int) -> int | None:
    """Open ``path`` and lock it. Returns the descriptor; None: another's lock forbids it. Raises `OSError`."""
    handle = os.open(path, flags | _WITH_CARE | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, lock | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(handle)
        if exc.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise
    return handle


def is_being_written(path: Path) -> bool:
    """Whether a process holds the lock of a file: of a segment, the process that writes it. False if there is no file.
    Others that test at the same time do not count: their locks are shared. Raises `OSError`."""
    with locking():
        try:
            handle = _lock(path, os.O_RDONLY, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False
        if handle is None:
            return True
        os.close(handle)
    return False
