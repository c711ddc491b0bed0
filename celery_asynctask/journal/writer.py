"""The writing side of the journal: each process appends its events to a segment of its own, with one ``write`` each,
and keeps the starts of its runs in its control page."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery_asynctask.core.forking import locking, notice_fork, reset_in_children
from celery_asynctask.core.limits import MAX_JOURNAL
from celery_asynctask.core.logs import logger_of
from celery_asynctask.errors import JournalError
from celery_asynctask.journal import frame, metrics, spare
from celery_asynctask.journal.accounts import Accounts
from celery_asynctask.journal.directory import Directory
from celery_asynctask.journal.files import create_locked, write_all
from celery_asynctask.journal.names import SUFFIX
from celery_asynctask.journal.trouble import Trouble
from celery_asynctask.journal.waiting import KEPT_EVENTS, Waiting

logger = logger_of("celery_asynctask.journal")

SEGMENT_BYTES = 4 * 1024 * 1024
"""Most bytes of a segment: one that has them is followed by another, so that the recorder can remove it."""
_LEAST_BYTES = 16 * 1024  # where there is little room
RETRY_SECONDS = 1.0
"""Between a failure and the next try with a new segment."""
FULL_SECONDS = 0.05
"""The same while the journal is too large: the recorder removes what is stored at any time."""
CHECK_SECONDS = 1.0
"""For how long a process may write into a segment that somebody has deleted."""
CHECK_BYTES = 256 * 1024
"""Bytes that a process writes between two checks of the size of the whole journal."""
_TOO_LARGE, _UNUSABLE = "journal_max_bytes", "unusable directory"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Journal:
    """This process's place in a journal directory. Safe for threads; starts over in a forked child.

    `append` and `begin` never raise and never wait for more than one ``write`` to a file; whoever begins a run, or ends
    it, has noticed a fork (`core.forking.notice_fork`). While the disk takes nothing, events go to the second place
    (`spare`), then into memory, as far as there is room. The others are dropped and counted in ``dropped``, by reason:
    an errno name, ``unusable directory``, or ``journal_max_bytes``. The control page says how many were accepted, so
    whatever happens to them, their number is known.

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
        self._away: Path | None = None
        """The second place, while the segment is there."""
        self._kept = Waiting()
        self._size = 0
        self._segment = 0
        self._number = 0
        self._check_at = self._retry_at = self._home_at = 0.0
        self._check_size = CHECK_BYTES
        self._most = SEGMENT_BYTES
        """Bytes of this segment after which the next begins."""
        self._log = Trouble()
        self.dropped: Counter[str] = Counter()
        started = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        self.source = f"{started}-{os.getpid()}-{secrets.token_hex(4)}"
        self._accounts = Accounts()

    def after_fork_in_child(self) -> None:
        """Leave the parent's segment to the parent: a copy of the descriptor would keep its lock."""
        handle, accounts = self._handle, self._accounts
        self._reset()
        accounts.close(even_if_used=True)
        if handle is not None:
            os.close(handle)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self._handle is not None:
            close(self._handle)

    def append(self, data: bytes, slot: int | None = None) -> bool:
        """Write one encoded event. Returns whether it is in the journal now; else it waits in memory or is dropped.
        With a ``slot``, it is the end of the run that has this one, and carries all that its start said."""
        if slot is None:
            notice_fork()
        with self._lock:
            number = self._number = self._number + 1
            line = frame.pack(number, data)
            waits = self._kept.frames or self._trouble or self._handle is None
            if is_written := (not waits or self._ready()) and self._write(line):
                if self._size >= self._check_size or self._away is not None or time.monotonic() >= self._check_at:
                    self._look()
            else:
                if not self._keep(line) and self._number == number:
                    self._number -= 1  # a dropped event has no number, so that a gap is a loss
                self._count()
            if slot is not None:
                self._accounts.end(slot, is_written)
            return is_written

    def begin(self, start: bytes) -> int | None:
        """Write the encoded start of a run to the control page. Returns its slot there, for `append`; None: there is no
        room for it, so append it as an event of its own."""
        with self._lock:
            if (self._handle is None or self._trouble or self._kept.frames) and not self._ready():
                return None
            return self._accounts.begin(self._number, start)

    def retry(self) -> bool:
        """Write what waits in memory, if it is time for another try. Returns whether nothing waits any more."""
        with self._lock:
            if self._away is not None and time.monotonic() >= self._home_at:
                self._open(rotating=True)
            return (not self._kept and not self._trouble) or self._ready()

    def _ready(self) -> bool:
        """Whether an event can be written now, after all events before it."""
        if time.monotonic() < self._retry_at:
            return False
        if (self._trouble or self._handle is None) and not self._open():
            return False
        while self._kept:
            line = self._kept.first()  # before writing: a signal handler may append in between
            if not self._write(line):
                self._kept.give_back([line])
                return False
        self._count()
        self._recover()
        return True

    def _recover(self) -> None:
        if self._away is None and not self._kept:
            self._log.ends(sum(self.dropped.values()))

    def take(self) -> list[bytes]:
        """Take the frames that wait in memory, for a recorder that stores them itself; `give_back` what it could not
        store."""
        with self._lock:
            return self._kept.take()

    def give_back(self, lines: list[bytes]) -> None:
        """Undo `take`."""
        with self._lock:
            self._kept.give_back(lines)

    @property
    def role(self) -> str:
        """What this process is now: producer, worker or child."""
        return self._role()

    @property
    def numbered(self) -> int:
        """How many events were accepted and not dropped."""
        return self._number

    def describe(self) -> dict[str, Any]:
        """What the first frame of a segment says about it and its process, as `frame.describe` reads it."""
        return frame.description(self.source, self._segment, self.role, self.dropped)

    def close(self) -> None:
        """End the current segment, so that it can be drained and removed; a later event begins another. Events that
        wait in memory are written if possible, and stay there otherwise."""
        with self._lock:
            self._retry_at = 0.0
            self.retry()
            if not self._kept:  # else its lock says that it is not gone
                self._end()

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
            for _ in self._kept.take():
                self._drop()
                self._number -= 1  # nothing was written after it
            self._end()

    def _end(self) -> None:
        """End the segment, and close the page."""
        self._count()
        self._close()
        self._accounts.close()

    def _keep(self, line: bytes) -> bool:
        """Let a frame wait in memory. Returns False if there is no room, and it is dropped."""
        is_kept = self._trouble != _TOO_LARGE and self._kept.add(line)
        if not is_kept:
            self._drop()
        return is_kept

    def _drop(self) -> None:
        reason = self._trouble or _UNUSABLE
        self.dropped[reason] += 1
        metrics.dropped(reason)

    def _write(self, line: bytes, tries: int = 3) -> bool:
        """Write a frame to the segment or, where its place takes it no more, to one in another place."""
        assert self._handle is not None
        try:
            write_all(self._handle, line)
        except OSError as exc:
            return self._find_room(exc) and tries > 1 and self._write(line, tries - 1)
        self._size += len(line)
        return True

    def _find_room(self, exc: OSError) -> bool:
        """Whether another try to write makes sense after this failure."""
        place = self._away or self.path
        text = f"writing to the journal in {place} failed: {exc.strerror or exc}"
        if exc.errno in _FULL:
            with contextlib.suppress(JournalError):
                if Directory(self.path, self.store_id).let_go(place):
                    return True
        if self._away is None:
            self._home_at = time.monotonic() + RETRY_SECONDS
            if self._open_away(text):
                return True
        self._give_up(_reason(exc), text)
        return False

    def _look(self) -> None:
        """Every second or so: is our segment still there, is it large enough, is the journal too large?"""
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
                self._count()  # no file has the last ones
                return
            self._count()
            if self._away is not None and time.monotonic() >= self._home_at:
                self._open(rotating=True)
            if self._size < self._check_size:
                return
            self._check_size = self._size + CHECK_BYTES
            if self._away is not None:
                if not spare.make_room(self._away, self.source):
                    self._give_up("ENOSPC", f"the second place {self._away} has no more room")
                elif self._size >= self._most:
                    self._begin(self._away, self._most)
            elif Directory.size(self.path) > self.max_bytes:
                self._open(rotating=True)  # so that this segment can be removed as soon as it is stored
                self._give_up(
                    _TOO_LARGE,
                    f"the journal in {self.path} has reached asynctask_journal_max_bytes ({self.max_bytes}), and "
                    "events are dropped until the recorder has stored some",
                )
            elif self._size >= self._most:
                self._open(rotating=True)
        except OSError as exc:
            self._give_up(_reason(exc), str(exc))

    def _open(self, *, rotating: bool = False) -> bool:
        """Begin the next segment, then close the last one; ``rotating``: which stays in use if there is no next.
        Returns whether it could."""
        trouble, reason = self._trouble or _UNUSABLE, f"writing to the journal in {self.path} failed"
        if time.monotonic() >= self._home_at:
            try:
                directory = Directory(self.path, self.store_id)
                if not rotating and self._trouble == _TOO_LARGE and Directory.size(self.path) > self.max_bytes:
                    self._retry_at = time.monotonic() + FULL_SECONDS
                    return False
                self._begin_home(directory)
            except (JournalError, OSError) as exc:
                trouble = _reason(exc)
                reason = str(exc) if isinstance(exc, JournalError) else f"{reason}: {exc.strerror or exc}"
                self._home_at = time.monotonic() + RETRY_SECONDS
            else:
                self._recover()
                return True
        if rotating and self._handle is not None:
            return False
        if self._open_away(reason):
            return True
        self._give_up(trouble, reason)
        return False

    def _begin_home(self, directory: Directory) -> None:
        """`_begin` in the first place. What is only kept there goes first. Raises `OSError`."""
        most = directory.share(self.max_bytes, _LEAST_BYTES, SEGMENT_BYTES)
        try:
            self._begin(directory.path, most)
        except OSError as exc:
            if exc.errno not in _FULL or not directory.let_go(directory.path):
                raise
            self._begin(directory.path, most)

    def _open_away(self, reason: str) -> bool:
        """`_open` in the second place. ``reason``: why it is needed."""
        place = None if self._trouble == _TOO_LARGE else spare.spare_of(self.path, self.store_id)
        try:
            if place is None or not spare.make(place) or not spare.make_room(place, self.source):
                return False
            self._begin(place, spare.SEGMENT_BYTES)
        except OSError:
            return False
        self._log.begins(
            self.role, reason, f"Events are kept in {place}, {spare.SPARE_BYTES // 1024**2} MiB of all processes"
        )
        return True

    def _begin(self, place: Path, most: int) -> None:
        """Begin a segment of so many bytes in a place, and close the last one. Raises `OSError`; the last one stays in
        use then.

        A segment gets its real name when it is locked: the recorder would take it for that of a dead process, and
        remove it. Before that, the process has its page: of one that is killed with a segment and no page, nobody knows
        what it did. And what is in the second place comes home: the recorder of another container, which shares only
        the first, must not meet a gap.
        """
        self._segment += 1
        path = place / f"{self.source}.{self._segment:06d}{SUFFIX}"
        line = self._first_line()
        away, is_home = self._away, place == self.path
        with locking():
            unnamed, handle = create_locked(path, line)
            self._open_page()
            try:
                if away is not None and is_home:
                    self._close()
                    spare.bring_home(away, place, self.source)
                unnamed.rename(path)
            except OSError:
                os.close(handle)
                unnamed.unlink(missing_ok=True)
                raise
            self._close()
            self._handle = handle
        self._away = None if is_home else place
        self._size, self._most, self._check_size = len(line), most, min(CHECK_BYTES, most)
        self._check_at = time.monotonic() + CHECK_SECONDS
        self._trouble = ""

    def _first_line(self) -> bytes:
        return frame.pack(0, json.dumps(self.describe(), separators=(",", ":")).encode())

    def _open_page(self) -> None:
        second = spare.spare_of(self.path, self.store_id)
        self._accounts.open(self.source, self._first_line, self.path, second)

    def _count(self) -> None:
        """Say in the control page how much was accepted."""
        self._accounts.count(self._number, self.dropped, len(self._kept))

    def _give_up(self, trouble: str, reason: str) -> None:
        """Stop writing for a while, and log it once until it works again."""
        self._trouble = trouble
        self._open_page()  # for the number of what waits in memory, should the process be killed
        self._retry_at = time.monotonic() + (FULL_SECONDS if trouble == _TOO_LARGE else RETRY_SECONDS)
        self._log.begins(self.role, reason, f"Up to {KEPT_EVENTS} events are kept in memory")

    def _close(self) -> None:
        with locking():
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None


def _reason(exc: JournalError | OSError) -> str:
    """Why events are dropped, as a key of `Journal.dropped`."""
    return errno.errorcode.get(exc.errno or 0, "error") if isinstance(exc, OSError) else _UNUSABLE
