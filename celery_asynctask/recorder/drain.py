"""Draining: from the segments of a journal directory, in batches, into the store.

A batch stores events of several sources in one transaction with the ledger of each, poison put aside.
``accepted = stored + in the journal + quarantined + dropped`` is kept here: what a source has numbered up to its
``last_number`` is stored or quarantined, and what it has dropped it says in its next segment.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from celery_asynctask.journal import Directory, Segment, metrics
from celery_asynctask.journal.directory import SUFFIX, is_being_written
from celery_asynctask.journal.frame import NOTHING, Chunk, describe, read
from celery_asynctask.recorder.liveness import Watch
from celery_asynctask.settings import Settings
from celery_asynctask.store import Position, SourceUpdate, Store, is_outage

logger = logging.getLogger("celery_asynctask.recorder")


class Part(NamedTuple):
    """What a batch has of one segment."""

    description: Mapping[str, Any]
    """Of the source, as `journal.frame.describe` gives it, with ``journal``, the id of its directory."""
    segment: int
    chunk: Chunk
    has_news: bool = True
    """There is something to note: events, or how many the process had dropped before it began this segment."""


class Drain:
    """Moves events from one journal directory into one store, and notes between the transactions who lives. Its caller
    holds the directory's election."""

    def __init__(self, directory: Directory, settings: Settings) -> None:
        self.directory = directory
        self.settings = settings
        self.store = Store(settings)
        metrics.observe_journal(directory.path, SUFFIX)
        self._watch = Watch(directory, self.store)
        self._prepared = False
        self._positions: dict[str, Position] = {}
        self._descriptions: dict[str, dict[str, Any]] = {}
        self._last = ""
        self.behind = False
        """Whether the last batch left something that was there."""

    @property
    def look_at(self) -> float:
        """When it is time to note who lives, by the monotonic clock."""
        return self._watch.look_at

    def close(self) -> None:
        """Give the database connection back and forget what may be stale; draining may go on."""
        self._watch.forget()
        self._positions.clear()
        self._descriptions.clear()
        self.store.close()

    def work(self) -> None:
        """Store everything that is in the journal now. Raises as `batch`."""
        self.behind = True
        while self.behind:
            self.batch()
            self.look()

    def look(self) -> None:
        """Note who lives, if it is time to. Raises `sqlalchemy.exc.SQLAlchemyError`, `OSError`."""
        self._watch.look()

    def batch(self) -> int:
        """Store one batch; how many events and damaged lines it had, 0 when there was nothing new.

        Raises `sqlalchemy.exc.SQLAlchemyError`, `StoreError`, `ImportError` (no driver), `OSError`; what was not stored
        then is taken again by the next call.
        """
        if not self._prepared:
            self.store.prepare()
            self._prepared = True
        parts: list[Part] = []
        done: list[Segment] = []
        newest: dict[str, int] = {}
        unread: set[str] = set()
        room = self.settings.batch_size
        for segment in self._in_turn():
            if segment.source in unread:
                continue
            self._last = segment.source
            try:
                part, ended = self._take(segment, room)
            except FileNotFoundError:
                continue
            newest[segment.source] = segment.number
            if part.has_news:
                parts.append(part)
            if not part.chunk.at_end:
                unread.add(segment.source)
            elif ended:
                done.append(segment)
            room -= len(part.chunk)
            if room <= 0:
                break
        self.behind = room <= 0 or bool(unread)
        if parts:
            self._positions |= store_batch(self.store, parts, self._positions, self.directory.quarantine, self.look)
        for segment in done:
            segment.path.unlink(missing_ok=True)
            if newest[segment.source] == segment.number:
                self._positions.pop(segment.source, None)
                self._descriptions.pop(segment.source, None)
        return self.settings.batch_size - room

    def _in_turn(self) -> list[Segment]:
        """The segments: those of each source in their order, and after the source that was looked at last the others
        first, for it may have more at any time than a batch takes."""
        found = self.directory.segments()
        return sorted(found, key=lambda segment: segment.source <= self._last)

    def _take(self, segment: Segment, room: int) -> tuple[Part, bool]:
        """What a batch takes from the segment, and whether its process is gone: nothing will follow then."""
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
        start = at.position if segment.number == at.segment else 0
        chunk = NOTHING if segment.number < at.segment else read(segment, start, room, ended)
        return Part(description, segment.number, chunk, chunk.end > start), ended


Quarantine = Callable[[str, bytes], None]
"""Keeps what cannot be stored: the source, and the event or damaged line."""


def store_batch(
    store: Store,
    parts: Sequence[Part],
    positions: Mapping[str, Position],
    quarantine: Quarantine,
    meanwhile: Callable[[], None],
) -> dict[str, Position]:
    """Store what the parts hold and move their sources' positions on, all in one transaction; the new positions.

    Poison is found by halves and put aside before the commit, so it may be put aside twice but is never missing; that
    may take long, so ``meanwhile`` is called between the halves. Raises as `Store.write`, and what ``quarantine`` and
    ``meanwhile`` raise; what is not stored then is taken again.
    """
    began = time.perf_counter()
    events = [event for part in parts for event in part.chunk.events]
    poison: Counter[bytes] = Counter()
    try:
        moved, rows = _write(store, parts, positions, events, poison, quarantine)
    except Exception as exc:
        if is_outage(exc):
            raise
        bad, rows = _find_poison(store, events, meanwhile)
        poison.update(bad)
        moved, _ = _write(store, parts, positions, [], poison, quarantine)
    metrics.batch(
        accepted=sum(len(part.chunk) for part in parts),
        quarantined=poison.total() + sum(len(part.chunk.damaged) for part in parts),
        rows=rows,
        seconds=time.perf_counter() - began,
    )
    return moved


def _write(
    store: Store,
    parts: Sequence[Part],
    positions: Mapping[str, Position],
    events: Sequence[bytes],
    poison: Counter[bytes],
    quarantine: Quarantine,
) -> tuple[dict[str, Position], int]:
    moved = dict(positions)
    updates: dict[str, SourceUpdate] = {}
    aside: list[tuple[str, bytes]] = []
    left = Counter(poison)
    for part in parts:
        source = part.description["source"]
        bad = []
        if left.total():
            for event in part.chunk.events:
                if left[event]:
                    left[event] -= 1
                    bad.append(event)
        aside += [(source, entry) for entry in (*bad, *part.chunk.damaged)]
        moved[source] = _moved(part, moved.get(source, Position()), len(bad))
        updates[source] = SourceUpdate(part.description, moved[source])

    def put_aside() -> None:
        for source, entry in aside:
            quarantine(source, entry)
        if aside:
            logger.error(
                "celery-asynctask put %d events or damaged lines, which cannot be stored, into quarantine, of: %s.",
                len(aside),
                ", ".join(sorted({source for source, _ in aside})),
            )

    return moved, store.write(events, updates.values(), before_commit=put_aside)


def _moved(part: Part, before: Position, bad: int) -> Position:
    """Where the source stands when the part is stored, ``bad`` of its events put aside."""
    chunk = part.chunk
    told = part.description["dropped"]
    after = Position(
        part.segment,
        chunk.end,
        max((before.last_number, *chunk.numbers)) + chunk.tail,
        before.stored + len(chunk.events) - bad,
        before.quarantined + bad,
        before.dropped if told is None else told,
    )
    # The numbers tell how many events were in damaged lines; behind the last event only the lines themselves do. What
    # they leave out beyond that is gone: somebody has removed a segment.
    after = after._replace(quarantined=after.quarantined + chunk.tail)
    inside = max(0, min(after.missing - max(0, before.missing), chunk.hidden))
    return after._replace(quarantined=after.quarantined + inside)


def _find_poison(store: Store, events: Sequence[bytes], meanwhile: Callable[[], None]) -> tuple[list[bytes], int]:
    """Store ``events`` in ever smaller parts; those that alone are refused, and how many rows the others made."""
    meanwhile()
    try:
        return [], store.write(events)
    except Exception as exc:
        if is_outage(exc):
            raise
        if len(events) == 1:
            _tell(exc, events[0])
            return list(events), 0
        middle = len(events) // 2
        halves = [_find_poison(store, half, meanwhile) for half in (events[:middle], events[middle:])]
        return [event for bad, _ in halves for event in bad], sum(rows for _, rows in halves)


_told: Counter[str] = Counter()
_TOLD = 20
"""Events that are logged for one and the same reason in a process."""


def _tell(exc: Exception, event: bytes) -> None:
    reason = str(getattr(exc, "orig", None) or exc).strip().partition("\n")[0]
    _told[reason[:80]] += 1
    if _told[reason[:80]] <= _TOLD:
        logger.error(
            "celery-asynctask cannot store an event and keeps it in quarantine, for %s: %.200s",
            reason,
            event.decode("ascii", "replace"),
        )
