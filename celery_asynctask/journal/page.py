"""The control page of a process: what it accepted, and which runs it has in hand, in a file that survives its SIGKILL.

The format
==========
``<source>.page`` has blocks of 4096 bytes. The first has a line that describes the process (frame 0, as in a segment)
and, at byte 2048, a line with its counts: a frame whose number is how many events the process has numbered, and whose
JSON has ``dropped`` (events without a number, by reason) and ``held`` (events that wait in its memory). Each other
block is a slot for the start of a run in hand: a frame whose number is how many events were numbered before, and whose
JSON is the event; empty if it begins with a line break or a zero byte. What does not match its checksum says nothing.

The blocks are filled with zeros first, so later writes need no room: a full disk does not stop them. They are made with
``pwrite`` and never mapped: a store into a mapped file raises SIGBUS in the user's process once somebody truncates the
file, or the disk fails.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from celery_asynctask.journal import frame
from celery_asynctask.journal.files import WITH_CARE, opened

BLOCK: Final = 4096
COUNTS_AT: Final = 2048
SLOTS: Final = 64
"""Most runs in hand at a time whose starts a page has room for."""
_IN_PART: Final = "only a part of the control page was written"


class ControlPage:
    """The page of this process, for writing. It is locked as long as it is open: a process that cannot begin a segment
    may have a page alone. Not safe for threads. All methods raise `OSError`.

    Call `__init__` and `again`, and keep what they return, inside of `forking.locking`.
    """

    _handle: int | None = None
    _is_held = False
    """Whether its lock says that the process lives: somebody may have tested it just when it was taken."""

    def __init__(self, path: Path, description: bytes, before: ControlPage | None = None) -> None:
        """Create the file. ``description`` is the first frame of a segment. ``before`` is a page that is gone: the runs
        that had slots there still have these, empty ones."""
        self.path = path
        self._taken: set[int] = set() if before is None else before._taken
        self._count = max(1, *self._taken, 0)
        self._free = [slot for slot in range(self._count, 0, -1) if slot not in self._taken]
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | WITH_CARE | os.O_CLOEXEC, 0o600)
        self._hold()
        try:
            self._write(description.ljust(BLOCK * (1 + self._count), b"\0"), 0)
        except OSError:
            self.close()
            path.unlink(missing_ok=True)
            raise

    @classmethod
    def again(cls, path: Path) -> ControlPage:
        """Open a page that this process has closed without a run in it. Nothing is written."""
        page = cls.__new__(cls)
        page.path = path
        page._handle = os.open(path, os.O_RDWR | WITH_CARE | os.O_CLOEXEC)
        page._count = max(1, os.fstat(page._handle).st_size // BLOCK - 1)
        page._taken, page._free = set(), list(range(page._count, 0, -1))
        page._hold()
        return page

    def __del__(self) -> None:
        self.close()

    @property
    def is_gone(self) -> bool:
        """Whether somebody has removed the file."""
        return self._handle is None or not os.fstat(self._handle).st_nlink

    @property
    def is_used(self) -> bool:
        """Whether a run has a slot."""
        return bool(self._taken)

    def count(self, numbered: int, dropped: Mapping[str, int], held: int) -> None:
        """Say what the process has accepted so far."""
        self._hold()
        counts = json.dumps({"dropped": dropped, "held": held}, separators=(",", ":"))
        self._write(frame.pack(numbered, counts.encode())[: BLOCK - COUNTS_AT], COUNTS_AT)

    def begin(self, line: bytes) -> int | None:
        """Write a frame with the start of a run into a slot. Returns the slot; None: there is no room for it."""
        if len(line) > BLOCK or self._handle is None or not (self._free or self._grow()):
            return None
        slot = self._free.pop()
        if os.pwrite(self._handle, line, BLOCK * slot) != len(line):  # `_write`, without the call
            raise OSError(None, _IN_PART)
        self._taken.add(slot)
        return slot

    def _grow(self) -> bool:
        """Make room for one more slot. Returns whether there may be one."""
        if self._count == SLOTS:
            return False
        self._write(b"\0" * BLOCK, BLOCK * (self._count + 1))
        self._count += 1
        self._free.append(self._count)
        return True

    def end(self, slot: int, is_told: bool) -> None:
        """Free a slot for the next run. ``is_told``: the end of its run is in the journal, so the start has served."""
        if slot in self._taken:
            self._taken.discard(slot)
            self._free.append(slot)
            if is_told and self._handle is not None:
                os.pwrite(self._handle, b"\n", BLOCK * slot)

    def close(self) -> None:
        """Close the file; what is in it stays."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def _hold(self) -> None:
        if self._handle is not None and not self._is_held:
            with contextlib.suppress(OSError):
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._is_held = True

    def _write(self, data: bytes, at: int) -> None:
        if self._handle is not None and os.pwrite(self._handle, data, at) != len(data):
            raise OSError(None, _IN_PART)


class View(NamedTuple):
    """What a page says."""

    description: Mapping[str, Any]
    """The process, as in the first frame of a segment; empty: damaged."""
    numbered: int
    """How many events it has numbered, as far as the page knows: each had a number of its own, from 1."""
    dropped: Mapping[str, int]
    """Events that it could not keep, by reason; they have no number."""
    held: int
    """Events that wait in its memory; they are among those that are numbered."""
    starts: Mapping[int, bytes]
    """The encoded starts of the runs in hand, by slot."""
    lives: bool = False
    """Whether the process is known to live; only `Directory.view` asks for that."""


def read(path: Path) -> View | None:
    """Read a page; None: there is none. Raises `OSError`."""
    try:
        with opened(path) as file:
            data = file.read(BLOCK * (1 + SLOTS))
    except FileNotFoundError:
        return None
    _, description = _frame(data[:COUNTS_AT])
    numbered, counts = _frame(data[COUNTS_AT:BLOCK])
    starts: dict[int, bytes] = {}
    for slot in range(1, len(data) // BLOCK + 1):
        number, start = _frame(data[BLOCK * slot : BLOCK * (slot + 1)])
        if start:
            starts[slot] = start
            numbered = max(numbered, number)
    described, told = _json(description), _json(counts)
    dropped = told.get("dropped")
    held = told.get("held")
    return View(
        described,
        numbered,
        dropped if isinstance(dropped, dict) else {},
        held if isinstance(held, int) else 0,
        starts,
    )


def merged(views: Iterable[View]) -> View | None:
    """What the pages of one process say together, in the order of their creation; None: there are none."""
    whole: View | None = None
    for view in views:
        if whole is None:
            whole = view
            continue
        # The runs that were in hand when the first could not be written any more have their starts only there.
        starts = dict(enumerate(dict.fromkeys([*whole.starts.values(), *view.starts.values()]), 1))
        dropped = {
            reason: max(whole.dropped.get(reason, 0), view.dropped.get(reason, 0))
            for reason in (*whole.dropped, *view.dropped)
        }
        numbered = max(whole.numbered, view.numbered)
        whole = View(whole.description or view.description, numbered, dropped, view.held, starts)
    return whole


def _frame(block: bytes) -> tuple[int, bytes]:
    """Number and data of the frame at the beginning of a block; 0 and nothing: there is none."""
    line, end, _ = block.partition(b"\n")
    if line and end:
        with contextlib.suppress(ValueError):
            return frame.unpack(line)
    return 0, b""


def _json(data: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        value = json.loads(data)
        if isinstance(value, dict):
            return value
    return {}
