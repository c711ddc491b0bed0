"""The writing side: each process appends its events to a segment of its own, one ``write`` an event, no waiting."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections import Counter
from pathlib import Path

from celery_asynctask import health
from celery_asynctask.errors import JournalError
from celery_asynctask.events import now
from celery_asynctask.journal import frame
from celery_asynctask.journal.directory import SUFFIX, Directory
from celery_asynctask.process import reset_in_children, role

logger = logging.getLogger("celery_asynctask.journal")

SEGMENT_BYTES = 16 * 1024 * 1024
"""A segment that has grown to this is closed, so that the recorder can remove it, and a new one begun."""
RETRY_SECONDS = 1.0
"""How long after a failure the next event tries to open a segment again."""


class Journal:
    """This process's place in a journal directory. Safe for threads; starts over in a forked child.

    ``append`` never raises and never waits for more than one ``write`` to a file. An event that could not be
    written is counted in ``dropped`` by reason (an errno name, or ``unusable directory``).
    """

    def __init__(self, path: Path, store_id: str) -> None:
        self.path = path
        self.store_id = store_id
        self._reset()
        reset_in_children(self)

    def _reset(self) -> None:
        """Be the journal of this process: a source that has written nothing yet."""
        self._lock = threading.RLock()  # a signal handler that publishes may run inside of append
        self._handle: int | None = None
        self._size = 0
        self._segment = 0
        self._number = 0
        self._retry_at = 0.0
        self._logged = False
        self.dropped: Counter[str] = Counter()
        self.source = ""

    def after_fork_in_child(self) -> None:
        """Leave the parent's segment to the parent: a copy of the descriptor would keep its lock alive."""
        handle = self._handle
        self._reset()
        if handle is not None:
            os.close(handle)

    def append(self, data: bytes) -> bool:
        """Write one encoded event; whether it is in the journal now."""
        with self._lock:
            number = self._number = self._number + 1  # what is dropped is counted, too
            if self._handle is None and not self._open():
                self._drop("unusable directory")
                return False
            line = frame.pack(number, data)
            try:
                self._write(line)
            except OSError as exc:
                self._drop(errno.errorcode.get(exc.errno or 0, "error"))
                self._give_up(f"writing to the journal in {self.path} failed: {exc.strerror or exc}")
                return False
            if self._size >= SEGMENT_BYTES:
                self._close()
            return True

    def _drop(self, reason: str) -> None:
        self.dropped[reason] += 1
        health.dropped(reason)

    def _write(self, line: bytes) -> None:
        assert self._handle is not None
        written = os.write(self._handle, line)
        if written != len(line):
            os.ftruncate(self._handle, os.fstat(self._handle).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += written

    def _open(self) -> bool:
        """Begin the next segment. It gets its real name once it is locked: the recorder takes an unlocked one for
        a dead process's and would remove it."""
        if time.monotonic() < self._retry_at:
            return False
        try:
            directory = Directory(self.path, self.store_id)
            self._name_source()
            self._segment += 1
            path = directory.path / f"{self.source}.{self._segment:06d}{SUFFIX}"
            unnamed = path.with_suffix(".new")
            handle = os.open(
                unnamed,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
            )
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._handle, self._size = handle, 0
                self._write(frame.pack(0, self._description()))
                unnamed.rename(path)
            except OSError:
                self._handle = None
                os.close(handle)
                unnamed.unlink(missing_ok=True)
                raise
        except (JournalError, OSError) as exc:
            self._give_up(str(exc))
            return False
        if self._logged:
            logger.warning("celery-asynctask records again; %d events were not kept.", sum(self.dropped.values()))
            self._logged = False
        return True

    def _name_source(self) -> None:
        if not self.source:
            started = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            self.source = f"{started}-{os.getpid()}-{secrets.token_hex(4)}"

    def _description(self) -> bytes:
        return json.dumps(
            {
                "format": frame.VERSION,
                "source": self.source,
                "segment": self._segment,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "role": role(),
                "at": now(),
                "dropped": dict(self.dropped),
            },
            separators=(",", ":"),
        ).encode()

    def _give_up(self, reason: str) -> None:
        """Stop writing for `RETRY_SECONDS`, and say so once until it works again."""
        self._close()
        self._retry_at = time.monotonic() + RETRY_SECONDS
        if not self._logged:
            self._logged = True
            logger.error(
                "celery-asynctask records nothing in this process (%s, pid %d): %s Tasks run as ever; recording "
                "resumes by itself when the cause is gone.",
                role(),
                os.getpid(),
                reason if reason.endswith(".") else f"{reason}.",
            )

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def close(self) -> None:
        """End the current segment, so that it can be drained and removed; a later event begins another."""
        with self._lock:
            self._close()
