"""The writing side of the journal: each process appends its events to a segment of its own, with one ``write`` each."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery_asynctask.core.forking import locking, reset_in_children
from celery_asynctask.core.limits import MAX_JOURNAL
from celery_asynctask.core.logs import logger_of
from celery_asynctask.core.time import now
from celery_asynctask.errors import JournalError
from celery_asynctask.journal import frame, metrics
from celery_asynctask.journal.directory import SUFFIX, UNNAMED, Directory, write_all

logger = logger_of("celery_asynctask.journal")

SEGMENT_BYTES = 16 * 1024 * 1024
"""A segment of this size is followed by another, so that the recorder can remove it."""
RETRY_SECONDS = 1.0
"""Between a failure and the next try with a new segment."""
CHECK_SECONDS = 1.0
"""For how long a process may write into a segment that somebody has deleted."""
CHECK_BYTES = 1024 * 1024
"""Bytes that a process writes between two checks of the size of the whole journal."""
KEPT_EVENTS = 10_000
"""Most events that wait in the memory of a process while it cannot write to its journal."""
KEPT_BYTES = 16 * 1024 * 1024
"""Most bytes of these events; the last one may exceed it."""


class Journal:
    """This process's place in a journal directory. Safe for threads; starts over in a forked child.

    `append` never raises and never waits for more than one ``write`` to a file. Events that cannot be written wait in
    memory, as far as there is room. The others are dropped and counted in ``dropped``, by reason: an errno name,
    ``unusable directory``, or ``journal_max_bytes``.

    From its first segment on, a process always holds a segment with a lock, even if it cannot write to it: by the lock,
    the recorder knows that the process lives.
    """

    def __init__(
        self, path: Path, store_id: str, max_bytes: int = MAX_JOURNAL, *, role: Callable[[], str] = lambda: "producer"
    ) -> None:
        """``role`` is called whenever a segment is begun, and returns producer, worker or child."""
        self.path = path
        self.store_id = store_id
        self.max_bytes = max_bytes
        self._role = role
        self._reset()
        reset_in_children(self)

    def _reset(self) -> None:
        """Become a new source, which has written nothing yet."""
        self._lock = threading.RLock()  # a signal handler that publishes may run inside of append
        self._handle: int | None = None
        self._trouble = ""
        """Why events are not written now, a reason as in ``dropped``; empty: they are written."""
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._size = 0
        self._segment = 0
        self._number = 0
        self._check_at = self._retry_at = 0.0
        self._check_size = CHECK_BYTES
        self._is_logged = False
        self.dropped: Counter[str] = Counter()
        started = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        self.source = f"{started}-{os.getpid()}-{secrets.token_hex(4)}"

    def after_fork_in_child(self) -> None:
        """Leave the parent's segment to the parent: a copy of the descriptor would keep its lock."""
        handle = self._handle
        self._reset()
        if handle is not None:
            os.close(handle)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self._handle is not None:
            close(self._handle)

    def append(self, data: bytes) -> bool:
        """Write one encoded event. Returns whether it is in the journal now; else it waits in memory or is dropped."""
        with self._lock:
            number = self._number = self._number + 1
            line = frame.pack(number, data)
            waits = self._kept or self._trouble or self._handle is None
            if (waits and not self._ready()) or not self._write(line):
                if not self._keep(line) and self._number == number:
                    self._number -= 1  # a dropped event has no number, so that a gap is a loss
                return False
            if self._size >= self._check_size or time.monotonic() >= self._check_at:
                self._look()
            return True

    def retry(self) -> bool:
        """Write what waits in memory, if it is time for another try. Returns whether nothing waits any more."""
        with self._lock:
            return (not self._kept and not self._trouble) or self._ready()

    def _ready(self) -> bool:
        """Whether an event can be written now, after all events before it."""
        if time.monotonic() < self._retry_at:
            return False
        if (self._trouble or self._handle is None) and not self._open():
            return False
        while self._kept:
            line = self._kept.popleft()  # before writing: a signal handler may append in between
            if not self._write(line):
                self._kept.appendleft(line)
                return False
            self._kept_bytes -= len(line)
        if self._is_logged:
            self._is_logged = False
            dropped = sum(self.dropped.values())
            logger.warning(
                "celery-asynctask writes to its journal again in this process (pid %d). Since its start it has dropped "
                "%d events.",
                os.getpid(),
                dropped,
            )
        return True

    def take(self) -> list[bytes]:
        """Take the frames that wait in memory, for a recorder that stores them itself; `give_back` what it could not
        store."""
        with self._lock:
            taken = list(self._kept)
            self._kept.clear()
            self._kept_bytes = 0
            return taken

    def give_back(self, lines: list[bytes]) -> None:
        """Undo `take`."""
        with self._lock:
            self._kept.extendleft(reversed(lines))
            self._kept_bytes += sum(map(len, lines))

    @property
    def role(self) -> str:
        """What this process is now: producer, worker or child."""
        return self._role()

    def describe(self) -> dict[str, Any]:
        """What the first frame of a segment says about it and its process, as `frame.describe` reads it."""
        return {
            "format": frame.VERSION,
            "source": self.source,
            "segment": self._segment,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "role": self.role,
            "at": now(),
            "dropped": dict(self.dropped),
        }

    def close(self) -> None:
        """End the current segment, so that it can be drained and removed; a later event begins another. Events that
        wait in memory are written if possible, and stay there otherwise."""
        with self._lock:
            self._retry_at = 0.0
            self.retry()
            self._close()

    def abandon(self) -> None:
        """Count the events that wait in memory as dropped, because the process ends, or all that write here have."""
        with self._lock:
            if self._kept:
                logger.error(
                    "celery-asynctask drops %d events of this process (pid %d), because it or its app ends: they could "
                    "not be written to the journal in %s. An earlier log line says why.",
                    len(self._kept),
                    os.getpid(),
                    self.path,
                )
            for _ in self._kept:
                self._drop()
            self._number -= len(self._kept)  # nothing was written after them
            self._kept.clear()
            self._kept_bytes = 0

    def _keep(self, line: bytes) -> bool:
        """Let a frame wait in memory. Returns False if there is no room, and it is dropped."""
        if self._trouble == "journal_max_bytes" or len(self._kept) >= KEPT_EVENTS or self._kept_bytes >= KEPT_BYTES:
            self._drop()
            return False
        self._kept.append(line)
        self._kept_bytes += len(line)
        return True

    def _drop(self) -> None:
        reason = self._trouble or "unusable directory"
        self.dropped[reason] += 1
        metrics.dropped(reason)

    def _write(self, line: bytes) -> bool:
        assert self._handle is not None
        try:
            write_all(self._handle, line)
        except OSError as exc:
            reason = errno.errorcode.get(exc.errno or 0, "error")
            self._give_up(reason, f"writing to the journal in {self.path} failed: {exc.strerror or exc}")
            return False
        self._size += len(line)
        return True

    def _look(self) -> None:
        """Every second or so: does our segment still exist, is it large enough, is the journal too large?"""
        self._check_at = time.monotonic() + CHECK_SECONDS
        try:
            if self._handle is not None and not os.fstat(self._handle).st_nlink:
                logger.error(
                    "celery-asynctask: the segment of this process (pid %d) in %s was deleted. Events in it that were "
                    "not stored yet are lost. Leave the files of the journal to the recorder, which removes them.",
                    os.getpid(),
                    self.path,
                )
                self._open()
            if self._size < self._check_size:
                return
            self._check_size = self._size + CHECK_BYTES
            if Directory.size(self.path) > self.max_bytes:
                self._give_up(
                    "journal_max_bytes",
                    f"the journal in {self.path} has reached asynctask_journal_max_bytes ({self.max_bytes}), and "
                    "events are dropped until the recorder has stored some",
                )
            elif self._size >= SEGMENT_BYTES:
                self._open(rotating=True)
        except OSError as exc:
            self._give_up(errno.errorcode.get(exc.errno or 0, "error"), str(exc))

    def _open(self, *, rotating: bool = False) -> bool:
        """Begin the next segment, then close the last one; ``rotating``: which stays in use if there is no next.
        Returns whether it could. A segment gets its real name when it is locked: the recorder would take it for that of
        a dead process, and remove it."""
        try:
            directory = Directory(self.path, self.store_id)
            if self._trouble == "journal_max_bytes" and Directory.size(self.path) > self.max_bytes:
                self._retry_at = time.monotonic() + RETRY_SECONDS
                return False
            self._segment += 1
            path = directory.path / f"{self.source}.{self._segment:06d}{SUFFIX}"
            line = frame.pack(0, json.dumps(self.describe(), separators=(",", ":")).encode())
            with locking():
                handle = _begin(path, line)
                self._close()
                self._handle = handle
        except (JournalError, OSError) as exc:
            if not rotating:
                self._give_up("unusable directory", str(exc))
            return False
        self._size, self._check_size = len(line), min(CHECK_BYTES, SEGMENT_BYTES)
        self._check_at = time.monotonic() + CHECK_SECONDS
        self._trouble = ""
        return True

    def _give_up(self, trouble: str, reason: str) -> None:
        """Stop writing for `RETRY_SECONDS`, and log it once until it works again."""
        self._trouble = trouble
        self._retry_at = time.monotonic() + RETRY_SECONDS
        if not self._is_logged:
            self._is_logged = True
            logger.error(
                "celery-asynctask cannot write to its journal in this process (%s, pid %d): %s. Tasks are not "
                "affected. Up to %d events are kept in memory, and recording resumes by itself when the cause is gone.",
                self.role,
                os.getpid(),
                reason.rstrip("."),
                KEPT_EVENTS,
            )

    def _close(self) -> None:
        with locking():
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None


def _begin(path: Path, line: bytes) -> int:
    """Create a segment with its first line and lock it. Returns the descriptor. Raises `OSError`; nothing is left
    then."""
    unnamed = path.with_suffix(UNNAMED)
    handle = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_all(handle, line)
        unnamed.rename(path)
    except OSError:
        os.close(handle)
        unnamed.unlink(missing_ok=True)
        raise
    return handle
