"""Keeps the control page of this process, in whatever place takes it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from celery_asynctask.core.forking import locking
from celery_asynctask.journal import frame, spare
from celery_asynctask.journal.names import PAGE
from celery_asynctask.journal.page import ControlPage


class Accounts:
    """The control page of one process. It never raises: without a page, starts are events, and the process's numbers
    are those in its segments. Not safe for threads."""

    def __init__(self) -> None:
        self._source = ""
        self._page: ControlPage | None = None
        self._line = b""
        self._second: Path | None = None
        """Where to go on if this page takes no more."""
        self._closed: Path | None = None
        """The page that was closed last."""

    def open(self, source: str, describe: Callable[[], bytes], place: Path, second: Path | None) -> None:
        """Make sure that there is a page, in one of the places. ``describe`` makes the first frame of a segment."""
        if self._page is not None and not self._page.is_gone:
            return
        self._source, self._line, self._second = source, describe(), second
        before, self._page = self._page, None
        self._reopen()
        if self._page is None:
            with contextlib.suppress(OSError), locking():
                self._page = ControlPage(place / f"{source}{PAGE}", self._line, before)
        if self._page is None:
            self._move()
        if before is not None:
            before.close()

    def begin(self, numbered: int, start: bytes) -> int | None:
        """Write the start of a run into a slot. Returns it; None: there is no room."""
        if self._page is None:
            return None
        try:
            return self._page.begin(frame.pack(numbered, start))
        except OSError:
            self._move()
            return None

    def end(self, slot: int, is_told: bool) -> None:
        """Free a slot. ``is_told``: the end of its run is in the journal."""
        if self._page is not None:
            try:
                self._page.end(slot, is_told)
            except OSError:
                self._move()

    def count(self, numbered: int, dropped: Mapping[str, int], held: int) -> None:
        """Say what the process has accepted, also if the page is closed."""
        if self._page is None:
            self._reopen()
        while self._page is not None:
            try:
                self._page.count(numbered, dropped, held)
            except OSError:
                self._move()
            else:
                return

    def close(self, *, even_if_used: bool = False) -> None:
        """Close the page, unless a run has a slot in it."""
        if self._page is not None and (even_if_used or not self._page.is_used):
            self._page.close()
            self._closed, self._page = self._page.path, None

    def _reopen(self) -> None:
        """Go on with the page that was closed, if it is still there."""
        if self._closed is not None:
            with contextlib.suppress(OSError), locking():
                self._page = ControlPage.again(self._closed)
            self._closed = None

    def _move(self) -> None:
        """Go on with another page, in the second place."""
        before, self._page = self._page, None
        second, self._second = self._second, None
        if second is not None and spare.make(second):
            with contextlib.suppress(OSError), locking():
                self._page = ControlPage(second / f"{self._source}{PAGE}", self._line, before)
        if before is not None:
            before.close()
