"""Stored segments that are kept for a while: a database that fails over to a standby that lags behind, or is restored,
has lost what was stored last."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from celery_asynctask.core.logs import logger_of
from celery_asynctask.core.text import reason
from celery_asynctask.journal import Directory, Segment
from celery_asynctask.store import Position

logger = logger_of("celery_asynctask.recorder")


class Kept:
    """The stored segments of a journal directory."""

    def __init__(self, directory: Directory, seconds: float) -> None:
        self._directory = directory
        self._seconds = seconds
        self._since: dict[str, float] = {}
        """When each was seen first, by name and our clock."""
        self._immovable: dict[Path, Segment] = {}
        """Those that still have the names of segments, because the directory cannot be changed."""
        self._is_logged = False

    def is_stored(self, segment: Segment) -> bool:
        """Whether a segment that has not got another name is one of these."""
        return segment.path in self._immovable

    def sources(self) -> set[str]:
        """The processes that wrote them. Raises `OSError`."""
        return {segment.source for segment in (*self._directory.kept(), *self._immovable.values())}

    def keep(self, segment: Segment) -> None:
        """A segment is stored to its end, and nobody writes to it any more."""
        try:
            if self._seconds:
                self._directory.keep(segment)
            else:
                segment.path.unlink(missing_ok=True)
        except OSError as exc:
            self._immovable[segment.path] = segment
            self._log_once(exc)
        else:
            self._immovable.pop(segment.path, None)

    def _log_once(self, exc: OSError) -> None:
        if not self._is_logged:
            self._is_logged = True
            logger.error(
                "celery-asynctask stores what is in the journal directory %s, and cannot remove it: %s. Make the "
                "directory writable.",
                self._directory.path,
                reason(exc),
            )

    def look(self, found: Mapping[str, Position]) -> bool:
        """`revive`, and remove those that the ledger has had for long enough. ``found`` is of all `sources`."""
        lost = self.revive(found)
        now = time.monotonic()
        kept = self._directory.kept()
        self._since = {segment.path.name: self._since.get(segment.path.name, now) for segment in kept}
        for segment in kept:
            if now - self._since[segment.path.name] >= self._seconds:
                segment.path.unlink(missing_ok=True)
        return lost

    def revive(self, found: Mapping[str, Position]) -> bool:
        """Let those be stored again that the ledger does not have, by the positions that were ``found`` in it. Returns
        whether there are some. Raises `OSError`, as `look` does."""
        lost = False
        for segment in list(self._immovable.values()):
            if _has(found, segment):
                self.keep(segment)
            else:
                del self._immovable[segment.path]
                lost = True
        for segment in self._directory.kept():
            if not _has(found, segment):
                self._directory.revive(segment)
                lost = True
        return lost


def _has(found: Mapping[str, Position], segment: Segment) -> bool:
    """Whether all of a segment is stored; what is not asked for is."""
    position = found.get(segment.source)
    if position is None or segment.number < position.segment:
        return True
    try:
        size = segment.path.stat().st_size
    except FileNotFoundError:
        return True
    return not size or (segment.number == position.segment and position.position >= size)
