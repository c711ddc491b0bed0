"""The journal directory: who may use it, its segments, and the lock that elects its recorder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from celery_asynctask.errors import JournalError
from celery_asynctask.journal import spare
from celery_asynctask.journal.aside import append
from celery_asynctask.journal.claim import Claim, claim, know_identity, read_claim
from celery_asynctask.journal.files import is_being_written, lock, open_if_read_only, opened
from celery_asynctask.journal.names import (
    CLAIM_NAME,
    KEPT,
    LOCK_NAME,
    OLD_CLAIM_NAME,
    OLD_LOCK_NAME,
    OLD_UNNAMED,
    PAGE,
    QUARANTINE,
    SEGMENTS,
    STORE_NAME,
    SUFFIX,
    UNNAMED,
    Segment,
    is_ours,
    segment_of,
)
from celery_asynctask.journal.page import View, merged, read
from celery_asynctask.journal.place import is_nowhere

_UNNAMED_SECONDS = 60
"""Age at which a segment without a lock was left behind by a process that died while it began it."""
NO_PLACE = (
    "There is no place for the journal: this user has no home directory to write to, and can use neither "
    "$XDG_RUNTIME_DIR, /dev/shm nor $TMPDIR"
)
_INSIDE = "celery-asynctask"


class Directory:
    """A journal directory. Creating the object creates the directory if there is none, makes it private (mode 0700),
    and checks that it belongs to this user and to the store ``store_id`` (a URL without credentials).

    In it, only regular files of this user are read. Raises `JournalError` if it cannot be created or used.
    """

    def __init__(self, path: Path, store_id: str, *, first: Path | None = None) -> None:
        """``first``: the directory whose second place this is."""
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
            claimed = claim(path, store_id, "" if first is None else spare.id_of(first, store_id))
        except OSError as exc:
            raise JournalError(
                f"The journal directory {path} cannot be used: {exc.strerror or exc}. Make it writable or set "
                "asynctask_journal_dir to another one."
            ) from exc
        self.id = claimed.id
        self.old_id = claimed.old_id
        self.spare = None if first is not None else spare.spare_of(path, store_id)
        self.ids = self.id, Claim(store_id, spare.id_of(first or path, store_id)).id

    id: str
    """The directory's own id, in the ledger of its processes."""
    ids: tuple[str, str]
    """That, and the id of its second place while it could not be used itself: what is there is its own again."""
    old_id: str
    """The same for processes of earlier versions (`Segment.is_old`)."""
    spare: Path | None
    """Its second place, which may not exist (`spare.is_usable`); None: there can be none."""

    @classmethod
    def usable(cls, path: Path, store_id: str) -> Directory:
        """The directory or, where that cannot be used, its second place as a directory of its own. Raises
        `JournalError`, about the first one."""
        try:
            return cls(path, store_id)
        except JournalError:
            second = spare.spare_of(path, store_id)
            if second is None or not spare.make(second):
                raise
            with contextlib.suppress(JournalError):
                return cls(second, store_id, first=path)
            raise

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

    def known_identity(self) -> str | None:
        """The identity of the database that the directory is stored in; None: not known yet. Raises `OSError`."""
        with opened(self.path / STORE_NAME) as file:
            return read_claim(file.fileno()).identity or None

    def know_identity(self, identity: str) -> None:
        """Note the identity of the database that the directory is stored in. Raises `OSError`."""
        know_identity(self.path, identity)

    def segments(self) -> list[Segment]:
        """All segments in the directory and its second place, also those of earlier versions, sorted; without
        strangers and what is kept. Raises `OSError`."""
        return self._segments(*SEGMENTS)

    def kept(self) -> list[Segment]:
        """The segments that are stored and kept, sorted. Raises `OSError`."""
        return self._segments(KEPT)

    def _segments(self, *suffixes: str) -> list[Segment]:
        segments: dict[tuple[str, int], Segment] = {}
        for path in self.paths(*suffixes):
            if (segment := segment_of(path)) is not None:
                segments.setdefault((segment.source, segment.number), segment)  # one that is being moved is twice there
        return sorted(segments.values())

    def keep(self, segment: Segment) -> None:
        """Keep a stored segment, under a name by which it is not read again. Raises `OSError`."""
        with contextlib.suppress(FileNotFoundError):
            segment.path.rename(segment.path.with_suffix(KEPT))

    def revive(self, segment: Segment) -> None:
        """Undo `keep`: the database has lost what was stored of it. Raises `OSError`."""
        with contextlib.suppress(FileNotFoundError):
            segment.path.rename(segment.path.with_suffix(SUFFIX))

    def let_go(self, place: Path) -> int:
        """Remove the segments that are kept in one of the `places`, because there is no room for others. Returns their
        number; what cannot be removed stays."""
        removed = 0
        with contextlib.suppress(OSError):
            for segment in self.kept():
                if segment.path.parent == place:
                    segment.path.unlink(missing_ok=True)
                    removed += 1
        return removed

    def pages(self) -> dict[str, list[Path]]:
        """The control pages of each process that has one: a second one follows where the first could not be written any
        more. Raises `OSError`."""
        pages: dict[str, list[Path]] = {}
        for path in self.paths(PAGE):
            pages.setdefault(path.name.removesuffix(PAGE), []).append(path)
        return pages

    def view(self, source: str) -> View | None:
        """What the control pages of a process say, and whether it lives; None: it has none. Raises `OSError`."""
        paths = [place / f"{source}{PAGE}" for place in self.places()]
        lives = any(map(is_being_written, paths))  # before reading, as with segments
        view = merged(filter(None, map(read, paths)))
        return None if view is None else view._replace(lives=lives)

    def places(self) -> list[Path]:
        """The directory, and its second place if that exists."""
        return [self.path] if self.spare is None or not spare.is_usable(self.spare) else [self.path, self.spare]

    def paths(self, *suffixes: str) -> list[Path]:
        """The files with these ends in all `places`, in no order within a place, if they are regular files of this
        user. Raises `OSError`."""
        return list(self._paths(suffixes))

    def _paths(self, suffixes: tuple[str, ...]) -> Iterator[Path]:
        for place in self.places():
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.endswith(suffixes) and self.is_own(entry):
                        yield place / entry.name

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
        """Bytes of the segments in a journal directory that are not only kept. Raises `OSError`."""
        total = 0
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.endswith(SEGMENTS):
                    with contextlib.suppress(FileNotFoundError):
                        total += entry.stat(follow_symlinks=False).st_size
        return total

    def share(self, max_bytes: int, least: int, most: int) -> int:
        """Bytes that a segment may have, between two bounds, so that those of all processes, stored or not, take a
        quarter of the room. Raises `OSError`."""
        volume = os.statvfs(self.path)
        room = min(max_bytes, volume.f_frsize * volume.f_blocks) // 4
        return min(most, max(least, room // max(16, len(self.segments()))))

    def sweep(self) -> None:
        """Remove files of processes that were killed while they began a segment. Raises `OSError`."""
        for path in self.paths(UNNAMED, OLD_UNNAMED):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _UNNAMED_SECONDS and not is_being_written(path):
                    path.unlink()

    def elect(self) -> int | None:
        """Become the directory's recorder. Returns a descriptor that holds the lock until it is closed; None: another
        process holds the lock, or tests it at this instant (`is_being_written`), so try again on the next turn.

        The kernel releases the lock when the holder dies. A forked child must close its copy: call this, and keep the
        descriptor, inside of `forking.locking`. Raises `OSError`.
        """
        return self._lock(LOCK_NAME)

    def claim(self) -> int | None:
        """Become the directory's dedicated recorder, to which the others leave the election. Otherwise as `elect`."""
        return self._lock(CLAIM_NAME)

    def elect_old(self) -> int | None:
        """Become the recorder of the segments of earlier versions, which recorders of these versions leave to us then.
        Otherwise as `elect`."""
        return self._lock(OLD_LOCK_NAME)

    def claim_old(self) -> int | None:
        """Let the recorders of earlier versions leave the election to us. Otherwise as `elect`."""
        return self._lock(OLD_CLAIM_NAME)

    def _lock(self, name: str) -> int | None:
        try:
            handle = open_if_read_only(self.path / name, 0)
        except OSError:
            if self.spare is None or not spare.make(self.spare):
                raise
            handle = open_if_read_only(self.spare / name, 0)  # as all others who find none in the first place
        return lock(handle, fcntl.LOCK_EX)

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
        """Append ``data`` that cannot be stored, as one line, to the quarantine of the source ``name``: in the second
        place, if the disk takes nothing. Returns False, and appends nothing, if all quarantine would have more than
        ``limit`` bytes then. Raises `OSError`."""
        if limit is not None and self.quarantined() + len(data) >= limit:
            return False
        try:
            append(self.path / f"{name}{QUARANTINE}", data)
        except OSError:
            second = self.spare
            if second is None or not spare.make(second) or not spare.make_room(second, None):
                raise
            append(second / f"{name}{QUARANTINE}", data)
        return True

    def quarantined(self) -> int:
        """Bytes in quarantine. Raises `OSError`."""
        total = 0
        for path in self.paths(QUARANTINE):
            with contextlib.suppress(FileNotFoundError):
                total += path.lstat().st_size
        return total


def max_quarantine(max_bytes: int) -> int:
    """Bytes that quarantine may take beside a journal of ``max_bytes``."""
    return min(64_000_000, max_bytes // 16)


def is_used(path: Path) -> bool:
    """Whether a directory has anything with a name of ours. Raises `OSError`."""
    with os.scandir(path) as entries:
        return any(is_ours(entry.name) for entry in entries)
