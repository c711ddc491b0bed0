"""Draining: from the segments of a journal directory, in batches, through the fold, into the store."""

from __future__ import annotations

import logging
import time
from typing import Any, NamedTuple

from celery_asynctask import health
from celery_asynctask.events import Event, decode
from celery_asynctask.journal import Directory, Segment
from celery_asynctask.journal.directory import SUFFIX, is_being_written
from celery_asynctask.journal.reader import Chunk, describe, read
from celery_asynctask.lifecycle import fold_all
from celery_asynctask.settings import Settings
from celery_asynctask.store import Position, SourceUpdate, Store, is_outage

logger = logging.getLogger("celery_asynctask.recorder")


class _Take(NamedTuple):
    """What one batch takes from one segment."""

    segment: Segment
    chunk: Chunk
    done: bool
    """Nothing will follow in it: it can be removed once the batch is stored."""


class Drain:
    """Moves events from one journal directory into one store. Its caller holds the directory's election."""

    def __init__(self, directory: Directory, settings: Settings) -> None:
        self.directory = directory
        self.settings = settings
        self.store = Store(settings)
        health.observe_journal(directory.path, SUFFIX)
        self._prepared = False
        self._positions: dict[str, Position] = {}
        self._descriptions: dict[str, dict[str, Any]] = {}
        self._behind = False
        """Whether the last batch left something that was there."""

    def close(self) -> None:
        """Give the database connection back and forget what may be stale; draining may go on."""
        self._positions.clear()
        self._descriptions.clear()
        self.store.close()

    def all(self) -> None:
        """Store everything that is in the journal now. Raises as `batch`."""
        self._behind = True
        while self._behind:
            self.batch()

    def batch(self) -> int:
        """Store one batch; how many frames it had, 0 when there was nothing new.

        Raises `sqlalchemy.exc.SQLAlchemyError`, `ImportError` (no driver), `OSError`; what was not stored then is
        taken again by the next call.
        """
        if not self._prepared:
            self.store.prepare()
            self._prepared = True
        began = time.perf_counter()
        takes: list[_Take] = []
        positions: dict[str, Position] = {}
        unread: set[str] = set()
        room = self.settings.batch_size
        for segment in self.directory.segments():
            if segment.source in unread:
                continue
            try:
                take = self._take(segment, positions, room)
            except FileNotFoundError:
                continue
            takes.append(take)
            if not take.chunk.whole:
                unread.add(segment.source)
            room -= len(take.chunk.frames) + len(take.chunk.damaged)
            if room <= 0:
                break
        self._behind = room <= 0 or bool(unread)
        self._store([take for take in takes if take.chunk.frames or take.chunk.damaged], positions, began)
        for take in takes:
            if take.done:
                take.segment.path.unlink(missing_ok=True)
                self._positions.pop(take.segment.source, None)
                self._descriptions.pop(take.segment.source, None)
        return self.settings.batch_size - room

    def _take(self, segment: Segment, positions: dict[str, Position], room: int) -> _Take:
        """What this batch takes from the segment; ``positions`` moves on with it."""
        source = segment.source
        if source not in self._positions:
            self._positions[source] = self.store.position(source)
        if self._descriptions.get(source, {}).get("segment") != segment.number:
            self._descriptions[source] = {**describe(segment), "segment": segment.number}
        at = positions.get(source, self._positions[source])
        ended = not is_being_written(segment.path)  # before reading: what is written later is not missed
        if segment.number < at.segment:
            return _Take(segment, Chunk([], [], 0, whole=True), done=ended)
        chunk = read(segment, at.position if segment.number == at.segment else 0, room, ended)
        if chunk.frames or chunk.damaged:
            positions[source] = at._replace(
                segment=segment.number,
                position=chunk.end,
                last_number=chunk.frames[-1].number if chunk.frames else at.last_number,
            )
        return _Take(segment, chunk, done=ended and chunk.whole)

    def _store(self, takes: list[_Take], positions: dict[str, Position], began: float) -> None:
        if not takes:
            return
        events: list[Event] = []
        poison: dict[str, list[bytes]] = {}
        origin: dict[int, tuple[str, bytes]] = {}
        for take in takes:
            source = take.segment.source
            poison.setdefault(source, []).extend(take.chunk.damaged)
            for one in take.chunk.frames:
                try:
                    event = decode(one.data)
                except ValueError:
                    poison[source].append(one.data)
                    continue
                events.append(event)
                origin[id(event)] = (source, one.data)
        try:
            self._write(events, positions, poison, takes)
        except Exception as exc:
            if is_outage(exc):
                raise
            for event in self._find_poison(events):
                source, data = origin.pop(id(event))
                poison[source].append(data)
            self._write([], positions, poison, takes)
        health.batch(
            accepted=sum(len(take.chunk.frames) + len(take.chunk.damaged) for take in takes),
            quarantined=sum(map(len, poison.values())),
            rows=len({event["id"] for event in events if id(event) in origin}),
            seconds=time.perf_counter() - began,
        )

    def _write(
        self,
        events: list[Event],
        positions: dict[str, Position],
        poison: dict[str, list[bytes]],
        takes: list[_Take],
    ) -> None:
        """One transaction: the events' rows, the sources' high-water marks and counts, and before they are committed
        what is put aside, which may so be there twice but never be missing."""
        moved = {}
        for source, position in positions.items():
            seen = sum(
                len(take.chunk.frames) + len(take.chunk.damaged) for take in takes if take.segment.source == source
            )
            bad = len(poison.get(source, ()))
            moved[source] = position._replace(
                stored=position.stored + seen - bad, quarantined=position.quarantined + bad
            )
        self.store.write(
            fold_all(events).values(),
            [SourceUpdate(self._descriptions[source], position) for source, position in moved.items()],
            before_commit=lambda: self._quarantine(poison),
        )
        self._positions.update(moved)

    def _find_poison(self, events: list[Event]) -> list[Event]:
        """Store ``events`` in ever smaller parts; those that alone are refused come back."""
        try:
            self.store.write(fold_all(events).values())
        except Exception as exc:
            if is_outage(exc):
                raise
            if len(events) == 1:
                logger.error(  # noqa: TRY400 - the statement's traceback says nothing about the event
                    "celery-asynctask cannot store an event (%s) of task %s and keeps it in quarantine: %s",
                    events[0]["kind"],
                    events[0]["id"],
                    getattr(exc, "orig", None) or exc,
                )
                return events
            middle = len(events) // 2
            return self._find_poison(events[:middle]) + self._find_poison(events[middle:])
        return []

    def _quarantine(self, poison: dict[str, list[bytes]]) -> None:
        for source, entries in poison.items():
            for data in entries:
                self.directory.quarantine(source, data)
            if entries:
                logger.error(
                    "celery-asynctask put %d entries that cannot be stored into %s.quarantine in %s.",
                    len(entries),
                    source,
                    self.directory.path,
                )
