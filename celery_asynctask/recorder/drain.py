"""Draining: from the segments of a journal directory, in batches, into the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from celery_asynctask.journal import Directory, Segment, metrics
from celery_asynctask.journal.directory import SUFFIX, is_being_written
from celery_asynctask.journal.reader import NOTHING, describe, read
from celery_asynctask.recorder.batch import Part, store_batch
from celery_asynctask.settings import Settings
from celery_asynctask.store import Position, Store


class _Take(NamedTuple):
    """What one batch takes from one segment."""

    segment: Segment
    part: Part
    news: bool
    """There is something to note: events, or how many the process had dropped before it began this segment."""
    done: bool
    """Nothing will follow in it: it can be removed once the batch is stored."""


class Drain:
    """Moves events from one journal directory into one store. Its caller holds the directory's election."""

    def __init__(self, directory: Directory, settings: Settings) -> None:
        self.directory = directory
        self.settings = settings
        self.store = Store(settings)
        metrics.observe_journal(directory.path, SUFFIX)
        self._prepared = False
        self._positions: dict[str, Position] = {}
        self._descriptions: dict[str, dict[str, Any]] = {}
        self.meanwhile: Callable[[], None] | None = None
        """Called between the transactions of a batch that takes many; what it raises ends the batch."""
        self._last = ""
        self.behind = False
        """Whether the last batch left something that was there."""

    def close(self) -> None:
        """Give the database connection back and forget what may be stale; draining may go on."""
        self._positions.clear()
        self._descriptions.clear()
        self.store.close()

    def all(self) -> None:
        """Store everything that is in the journal now. Raises as `batch`."""
        self.behind = True
        while self.behind:
            self.batch()

    def batch(self) -> int:
        """Store one batch; how many events and damaged lines it had, 0 when there was nothing new.

        Raises `sqlalchemy.exc.SQLAlchemyError`, `StoreError`, `ImportError` (no driver), `OSError`; what was not stored
        then is taken again by the next call.
        """
        if not self._prepared:
            self.store.prepare()
            self._prepared = True
        takes: list[_Take] = []
        ends: dict[str, int] = {}
        unread: set[str] = set()
        room = self.settings.batch_size
        for segment in self._in_turn():
            if segment.source in unread:
                continue
            self._last = segment.source
            try:
                take = self._take(segment, room)
            except FileNotFoundError:
                continue
            takes.append(take)
            if not take.part.chunk.whole:
                unread.add(segment.source)
            ends[segment.source] = segment.number
            room -= len(take.part.chunk)
            if room <= 0:
                break
        self.behind = room <= 0 or bool(unread)
        parts = [take.part for take in takes if take.news]
        if parts:
            self._positions |= store_batch(
                self.store, parts, self._positions, self.directory.quarantine, self.meanwhile
            )
        for take in takes:
            if take.done:
                take.segment.path.unlink(missing_ok=True)
                if ends[take.segment.source] == take.segment.number:
                    self._positions.pop(take.segment.source, None)
                    self._descriptions.pop(take.segment.source, None)
        return self.settings.batch_size - room

    def _in_turn(self) -> list[Segment]:
        """The segments: those of each source in their order, and after the source that was looked at last the others
        first, for it may have more at any time than a batch takes."""
        found = self.directory.segments()
        return sorted(found, key=lambda segment: segment.source <= self._last)

    def _take(self, segment: Segment, room: int) -> _Take:
        """What this batch takes from the segment."""
        source = segment.source
        if source not in self._positions:
            self._positions[source] = self.store.position(source)
        description = self._descriptions.get(source)
        if description is None or description["segment"] != segment.number:
            about = describe(segment)
            description = {**about, "segment": segment.number, "journal": self.directory.id}
            self._descriptions[source] = description
        at = self._positions[source]
        ended = not is_being_written(segment.path)  # before reading: what is written later is not missed
        if segment.number < at.segment:
            return _Take(segment, Part(description, segment.number, NOTHING), news=False, done=ended)
        start = at.position if segment.number == at.segment else 0
        chunk = read(segment, start, room, ended)
        part = Part(description, segment.number, chunk)
        return _Take(segment, part, news=chunk.end > start, done=ended and chunk.whole)
