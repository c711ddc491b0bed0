"""Draining: moves the events of a journal directory, in batches, into the store.

This keeps ``accepted = stored + in the journal + quarantined + dropped``: what a process has numbered up to its
``last_number`` is stored or quarantined, and its control page, or its next segment, says what it dropped.

How far a process is stored is known from the ledger alone. What is remembered of it is verified by the transaction of
the next batch: a failover may have led to an older state of the database, and another recorder may have been at work.
So a stored segment is kept for a while, until a later look has found that the database still has it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from celery_asynctask.core.accounting import listed
from celery_asynctask.core.logs import logger_of
from celery_asynctask.core.plainer import shortened
from celery_asynctask.core.text import reason
from celery_asynctask.errors import JournalError
from celery_asynctask.journal import Directory, Segment, metrics
from celery_asynctask.journal.directory import max_quarantine
from celery_asynctask.journal.files import is_being_written
from celery_asynctask.journal.frame import NOTHING, READ_BYTES, describe, read
from celery_asynctask.recorder.batch import Part, RefusedError, store_batch
from celery_asynctask.recorder.kept import Kept
from celery_asynctask.recorder.liveness import Watch
from celery_asynctask.recorder.pages import Pages
from celery_asynctask.recorder.refusal import Refusals
from celery_asynctask.settings import Settings
from celery_asynctask.store import Moved, Position, Store

logger = logger_of("celery_asynctask.recorder")

BATCH_BYTES = 2 * 1024 * 1024
"""Most bytes of the events in a batch, whatever the number of processes; a single event may have more. A batch takes
six times its size in memory on its way to the database."""


class _Batch(NamedTuple):
    """What is to be stored together."""

    parts: list[Part]
    done: list[Segment]
    """Segments that are stored with it to their end, and that nobody writes to any more."""
    unread: set[str]
    """Processes of which it leaves events that are there."""
    events: int = 0
    """Events and damaged lines."""
    last: str = ""
    """The process that was read last."""


class Drain:
    """Moves events from one journal directory into one store, and records between the transactions which processes
    live. Its caller holds the directory's election."""

    def __init__(self, directory: Directory, settings: Settings, *, drains_old: bool = True) -> None:
        """``drains_old``: see the attribute."""
        self.directory = directory
        self.settings = settings
        self.drains_old = drains_old
        """Whether it also drains what processes of earlier versions write: their own recorders do not."""
        self.store = Store(settings, directory)
        metrics.observe_journal(directory)
        self._watch = Watch(directory, self.store)
        self._pages = Pages(directory, settings.journal_keep)
        self._kept = Kept(directory, settings.journal_keep)
        self._refusals = Refusals()
        self._prepared = False
        self._positions: dict[str, Position] = {}
        self._descriptions: dict[str, dict[str, Any]] = {}
        self._last = ""
        self._logged: set[str] = set()
        self.behind = False
        """Whether the last batch left events that were there."""

    @property
    def look_at(self) -> float:
        """When the next `look` is due, by the monotonic clock."""
        return self._watch.look_at

    def close(self) -> None:
        """Give the database connection back and forget what may become stale; draining may go on."""
        self._watch.forget()
        self._forget()
        self.store.close()

    def _forget(self) -> None:
        self._positions.clear()
        self._descriptions.clear()
        self._pages.forget()

    def work(self, *, at_once: bool = True) -> None:
        """Store everything that is in the journal now; ``at_once`` as for `batch`. Raises what `batch` and `look`
        raise."""
        self.behind = True
        while self.behind:
            self.batch(at_once=at_once)
            self.look()
        self.store.let_go()

    def look(self) -> None:
        """Record which processes live, if that is due, and whether the database still has what was stored. Raises
        `sqlalchemy.exc.SQLAlchemyError`, `StoreError`, `OSError`."""
        if time.monotonic() < self._watch.look_at:
            return
        self._pages.see()
        segments = self._segments()  # in this order, see `Pages.settle`
        found = self.store.stored({*self._positions, *self._kept.sources()})
        if any(not found[source].is_at(position) for source, position in self._positions.items()):
            self._recover(found)
        elif self._kept.look(found):
            self.behind = True
        try:
            self._pages.look(self.store, segments, self._positions)
        except Moved as exc:
            self._recover(exc.positions)
        living = self._pages.living({segment.source for segment in segments})
        self._watch.look(segments, self._pages.numbered, living, drains_old=self.drains_old)
        self.store.note_change()
        there = {*self._pages, *(segment.source for segment in segments)}
        for known in (self._positions, self._descriptions):
            for source in set(known).difference(there):
                del known[source]

    def release(self, source: str) -> None:
        """Record that the messages that a process has received and not started are not with it any more. Raises
        `sqlalchemy.exc.SQLAlchemyError`."""
        self._watch.release(source)

    def finish(self) -> None:
        """Nothing is left to say at the end: what this process has written is in the directory."""

    def batch(self, *, at_once: bool = True) -> int:
        """Store one batch, and one more for each process that is stored alone because of what it is refused; and the
        starts of runs in hand, those that have just begun only ``at_once``. Returns the number of the batches' events
        and damaged lines, 0 if there was nothing new.

        Raises `sqlalchemy.exc.SQLAlchemyError`, `StoreError`, `ImportError` (no driver), `OSError`; the next call takes
        again what was not stored then.
        """
        self._prepare()
        self._pages.see()
        segments = self._segments()  # in this order, see `Pages.settle`
        sources = {segment.source for segment in segments}
        if not self._positions:  # whatever the database has lost meanwhile, before a page says the last word of it
            sources |= self._kept.sources()
        if self._know(sources):
            segments = self._segments()
        self.behind = False
        alone = list(self._refusals)
        together = [segment for segment in self._in_turn(segments) if segment.source not in self._refusals]
        batch = self._take(together, self._refusals.room(self.settings.batch_size))
        self._last = batch.last or self._last
        count = 0
        try:
            count += self._store(batch)
            for source in alone:
                own = [segment for segment in segments if segment.source == source]
                batch = self._take(own, self._refusals.room(self.settings.batch_size, source))
                count += self._store(batch)
                if not batch.events:
                    self._refusals.stored(source, 0, 0)
            self._pages.tell(self.store, segments, self._positions, at_once=at_once)
            self._pages.settle(self.store, self._segments(), self._positions)
        except Moved as exc:  # nothing more from these segments: others may come before them now
            self._recover(exc.positions)
        return count

    def _prepare(self) -> None:
        if self._prepared:
            return
        prepare(self.store)
        self._prepared = True
        if strangers := self.directory.strangers():
            logger.warning(
                "celery-asynctask leaves out %s in the journal directory %s: they are no regular files of this user. "
                "Find out who made them, and remove them.",
                listed([repr(name) for name in strangers]),
                self.directory.path,
            )

    def _segments(self) -> list[Segment]:
        """What may have to be stored."""
        return [
            segment
            for segment in self.directory.segments()
            if (self.drains_old or not segment.is_old) and not self._kept.is_stored(segment)
        ]

    def _in_turn(self, segments: Iterable[Segment]) -> list[Segment]:
        """The segments of each process in their order, beginning after the process that was read last: it may always
        have more than a batch takes."""
        return sorted(segments, key=lambda segment: segment.source <= self._last)

    def _know(self, sources: Collection[str]) -> bool:
        """Know how far these processes are stored. Returns whether kept segments of theirs are to be stored again. That
        must come before those that follow: what is stored is known by the last segment alone."""
        unknown = set(sources).difference(self._positions)
        if not unknown:
            return False
        found = self.store.stored(unknown)
        self._positions |= found
        return self._kept.revive(found)

    def _take(self, segments: Sequence[Segment], room: int) -> _Batch:
        """Read what is new in the segments, at most ``room`` events and damaged lines."""
        batch = _Batch([], [], set())
        size = 0
        left_alone: set[str] = set()
        newest = {segment.source: segment for segment in segments}
        for segment in segments:
            if segment.source in batch.unread or segment.source in left_alone:
                continue
            if room <= 0:
                batch.unread.add(segment.source)
                break
            try:
                if size and size + self._unread(segment) > BATCH_BYTES:
                    batch.unread.add(segment.source)
                    break
                batch = batch._replace(last=segment.source)
                part, ended = self._read(segment, room, has_next=newest[segment.source] != segment)
            except FileNotFoundError:
                continue
            except (OSError, JournalError) as exc:
                # What follows in the same process must wait: what is stored is known by the last segment alone.
                left_alone.add(segment.source)
                self._log_once(f"{segment.path}", f"leaves the segment {segment.path} alone: {reason(exc)}")
                continue
            if part.has_news:
                batch.parts.append(part)
            if not part.chunk.at_end:
                batch.unread.add(segment.source)
            elif ended:
                batch.done.append(segment)
            room -= len(part.chunk)
            size += sum(map(len, part.chunk.events))
            batch = batch._replace(events=batch.events + len(part.chunk))
        return batch

    def _unread(self, segment: Segment) -> int:
        """How many bytes of the segment are not stored, at most as many as one read takes. Raises `OSError`."""
        stored = self._positions[segment.source]
        if segment.number < stored.segment:
            return 0
        start = stored.position if segment.number == stored.segment else 0
        return min(READ_BYTES, segment.path.stat().st_size - start)

    def _read(self, segment: Segment, room: int, *, has_next: bool) -> tuple[Part, bool]:
        """What a batch takes from the segment, and whether its process is gone or has begun another, so that nothing
        will follow; with ``has_next`` it has, though a child that has not noticed its fork may hold the lock."""
        source = segment.source
        description = self._descriptions.get(source)
        if description is None or description["segment"] != segment.number:
            journal = self.directory.old_id if segment.is_old else self.directory.id
            description = {**describe(segment), "segment": segment.number, "journal": journal}
            self._descriptions[source] = description
        stored = self._positions[source]
        # Before reading, so that nothing written later is missed.
        ended = has_next or not is_being_written(segment.path)
        start = stored.position if segment.number == stored.segment else 0
        chunk = NOTHING if segment.number < stored.segment else read(segment, start, room, ended)
        description = self._pages.described(description)
        numbered = None if segment.is_old else self._pages.numbered(source) or 0
        return Part(description, segment.number, chunk, chunk.end > start, numbered), ended

    def _store(self, batch: _Batch) -> int:
        """Store what was read. Returns the number of events and damaged lines, 0 if they are to be read again. Raises
        like `store_batch`."""
        self.behind |= bool(batch.unread)
        if batch.parts:
            counts: Counter[str] = Counter()
            for part in batch.parts:
                counts[part.description["source"]] += len(part.chunk)
            try:
                stored = store_batch(self.store, batch.parts, self._positions, self._quarantine)
            except RefusedError:
                self._refusals.refused(counts)
                self.behind = True
                return 0
            self._positions |= stored.positions
            self._pages.go_on(counts)
            for source, count in counts.items():
                self._refusals.stored(source, count, stored.poison)
        for segment in batch.done:
            self._kept.keep(segment)
            if segment.is_old:
                self._pages.has_ended(self._descriptions[segment.source])
        return batch.events

    def _recover(self, found: Mapping[str, Position]) -> None:
        """The ledger has other positions than were remembered: go on from there. Where it has gone back, so has the
        rest of the database. Raises like `Store.stored`."""
        has_lost = any(
            position[:3] < before[:3]
            for source, position in found.items()
            if (before := self._positions.get(source)) is not None
        )
        self._positions |= found
        self.behind = True
        if not has_lost:
            return  # another recorder has stored something, or a person has emptied quarantine
        logger.warning(
            "celery-asynctask finds the database in an older state than it has left it, as after a failover. It stores "
            "again what the database has lost and the journal in %s still has.",
            self.directory.path,
        )
        sources = {*self._positions, *self._kept.sources()}
        self._forget()
        self._positions |= self.store.stored(sources)
        self._kept.look(self._positions)

    def _quarantine(self, source: str, entry: bytes) -> bool:
        return self.directory.quarantine(source, shortened(entry), max_quarantine(self.settings.journal_max_bytes))

    def _log_once(self, what: str, message: str) -> None:
        if what not in self._logged:
            self._logged.add(what)
            logger.error("celery-asynctask %s. What follows it in the same process waits as well.", message)


def prepare(store: Store) -> None:
    """Make the store ready, and log what it lacks. Raises like `Store.prepare`."""
    store.prepare()
    if narrow := store.narrow_charset():
        logger.warning("celery-asynctask: %s %s", narrow.problem, narrow.remedy)
