"""Draining: moves the events of a journal directory, in batches, into the store.

A batch stores events of several processes in one transaction, together with the account of each. An event of which the
database refuses a value is stored without that value; one that it still refuses (poison) is put aside. This keeps
``accepted = stored + in the journal + quarantined + dropped``: what a process has numbered up to its ``last_number`` is
stored or quarantined, and its next segment says what it dropped.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from celery_asynctask.core.accounting import GIVEN_UP, UNSIGNED, listed
from celery_asynctask.core.event import is_unsigned
from celery_asynctask.core.logs import logger_of
from celery_asynctask.core.plainer import plainer
from celery_asynctask.core.text import reason
from celery_asynctask.journal import Directory, Segment, metrics
from celery_asynctask.journal.directory import max_quarantine
from celery_asynctask.journal.files import is_being_written
from celery_asynctask.journal.frame import NOTHING, Chunk, describe, read
from celery_asynctask.recorder.liveness import Watch
from celery_asynctask.settings import Settings
from celery_asynctask.store import Position, SourceUpdate, Store, is_outage

logger = logger_of("celery_asynctask.recorder")


class Part(NamedTuple):
    """The part of a batch that comes from one segment."""

    description: Mapping[str, Any]
    """Describes the process: `journal.frame.describe`, with ``journal``, the id of its directory."""
    segment: int
    """Number of the segment."""
    chunk: Chunk
    has_news: bool = True
    """Whether there is something to store: events, or how many the process dropped before it began this segment."""


class Drain:
    """Moves events from one journal directory into one store, and records between the transactions which processes
    live. Its caller holds the directory's election."""

    def __init__(self, directory: Directory, settings: Settings) -> None:
        self.directory = directory
        self.settings = settings
        self.store = Store(settings)
        metrics.observe_journal(directory)
        self._watch = Watch(directory, self.store)
        self._prepared = False
        self._positions: dict[str, Position] = {}
        self._descriptions: dict[str, dict[str, Any]] = {}
        self._last = ""
        self.behind = False
        """Whether the last batch left events that were there."""

    @property
    def look_at(self) -> float:
        """When the next `look` is due, by the monotonic clock."""
        return self._watch.look_at

    def close(self) -> None:
        """Give the database connection back and forget what may become stale; draining may go on."""
        self._watch.forget()
        self._positions.clear()
        self._descriptions.clear()
        self.store.close()

    def work(self) -> None:
        """Store everything that is in the journal now. Raises what `batch` and `look` raise."""
        self.behind = True
        while self.behind:
            self.batch()
            self.look()

    def look(self) -> None:
        """Record which processes live, if that is due. Raises `sqlalchemy.exc.SQLAlchemyError`, `OSError`."""
        self._watch.look()

    def release(self, source: str) -> None:
        """Record that the messages that a process has received and not started are not with it any more. Raises
        `sqlalchemy.exc.SQLAlchemyError`."""
        self._watch.release(source)

    def batch(self) -> int:
        """Store one batch. Returns its number of events and damaged lines, 0 if there was nothing new.

        Raises `sqlalchemy.exc.SQLAlchemyError`, `StoreError`, `ImportError` (no driver), `OSError`; the next call takes
        again what was not stored then.
        """
        if not self._prepared:
            prepare(self.store)
            self._prepared = True
            if strangers := self.directory.strangers():
                logger.warning(
                    "celery-asynctask leaves out %s in the journal directory %s: they are no regular files of this "
                    "user. Find out who made them, and remove them.",
                    listed([repr(name) for name in strangers]),
                    self.directory.path,
                )
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
            self._positions |= store_batch(self.store, parts, self._positions, self._quarantine, self.look)
        for segment in done:
            segment.path.unlink(missing_ok=True)
            if newest[segment.source] == segment.number:
                self._positions.pop(segment.source, None)
                self._descriptions.pop(segment.source, None)
        return self.settings.batch_size - room

    def _quarantine(self, source: str, entry: bytes) -> bool:
        return self.directory.quarantine(source, entry, max_quarantine(self.settings.journal_max_bytes))

    def _in_turn(self) -> list[Segment]:
        """All segments, those of each process in their order, beginning after the process that was read last: it may
        always have more than a batch takes."""
        return sorted(self.directory.segments(), key=lambda segment: segment.source <= self._last)

    def _take(self, segment: Segment, room: int) -> tuple[Part, bool]:
        """What a batch takes from the segment, and whether its process is gone, so that nothing will follow."""
        source = segment.source
        if source not in self._positions:
            self._positions[source] = self.store.position(source)
        description = self._descriptions.get(source)
        if description is None or description["segment"] != segment.number:
            description = {**describe(segment), "segment": segment.number, "journal": self.directory.id}
            self._descriptions[source] = description
        stored = self._positions[source]
        ended = not is_being_written(segment.path)  # before reading, so that nothing written later is missed
        start = stored.position if segment.number == stored.segment else 0
        chunk = NOTHING if segment.number < stored.segment else read(segment, start, room, ended)
        return Part(description, segment.number, chunk, chunk.end > start), ended


def prepare(store: Store) -> None:
    """Make the store ready, and log what it lacks. Raises like `Store.prepare`."""
    store.prepare()
    if narrow := store.narrow_charset():
        logger.warning("celery-asynctask: %s %s", narrow.problem, narrow.remedy)


Quarantine = Callable[[str, bytes], bool]
"""Keeps an entry that cannot be stored. Called with the source, and the event or damaged line. Returns False if there
is no room for it."""


def store_batch(
    store: Store,
    parts: Sequence[Part],
    positions: Mapping[str, Position],
    quarantine: Quarantine,
    meanwhile: Callable[[], None],
) -> dict[str, Position]:
    """Store the events of the parts and advance the positions of their processes, all in one transaction. Returns the
    new positions.

    Poison is found by halving the batch, and put aside before the commit: it may be put aside twice, but is never
    missing. As this may take long, ``meanwhile`` is called between the halves. Raises what `Store.write`,
    ``quarantine`` and ``meanwhile`` raise; the positions have not moved then.
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
    refused: list[tuple[str, bytes]] = []
    left = Counter(poison)
    for part in parts:
        source = part.description["source"]
        bad = []
        if left.total():
            for event in part.chunk.events:
                if left[event]:
                    left[event] -= 1
                    bad.append(event)
        refused += [(source, entry) for entry in (*bad, *part.chunk.damaged)]
        moved[source] = _moved(part, moved.get(source, Position()), len(bad))
        updates[source] = SourceUpdate(part.description, moved[source])

    def put_aside() -> None:
        full = sum(not quarantine(source, entry) for source, entry in refused)
        if refused:
            logger.error(
                "celery-asynctask cannot store %d events or damaged lines, and has put them into quarantine: files of "
                "the journal directory, or the log where there is none. Run `celery -A APP asynctask doctor` to see "
                "them.%s Processes: %s.",
                len(refused),
                f" Of these, {full:,} are counted and not kept: quarantine is full." if full else "",
                ", ".join(sorted({source for source, _ in refused})),
            )

    return moved, store.write(events, updates.values(), before_commit=put_aside)


def _moved(part: Part, before: Position, bad: int) -> Position:
    """The position of the process when the part is stored, with ``bad`` of its events put aside."""
    chunk = part.chunk
    dropped = before.dropped if part.description["dropped"] is None else part.description["dropped"]
    if unsigned := before.dropped.get(UNSIGNED, 0) + sum(map(is_unsigned, chunk.events)):
        dropped = {**dropped, UNSIGNED: unsigned}
    if given_up := before.dropped.get(GIVEN_UP, 0):  # which the process does not know of
        dropped = {**dropped, GIVEN_UP: given_up}
    after = Position(
        part.segment,
        chunk.end,
        max((before.last_number, *chunk.numbers)) + chunk.tail,
        before.stored + len(chunk.events) - bad,
        before.quarantined + bad,
        dropped,
    )
    # The numbers around damaged lines tell how many events were in them; after the last event, there are only the lines
    # to count. Numbers that are missing beyond that are lost: somebody has removed a segment.
    after = after._replace(quarantined=after.quarantined + chunk.tail)
    inside = max(0, min(after.missing - max(0, before.missing), chunk.hidden))
    return after._replace(quarantined=after.quarantined + inside)


def _find_poison(store: Store, events: Sequence[bytes], meanwhile: Callable[[], None]) -> tuple[list[bytes], int]:
    """Store ``events`` in ever smaller parts. Returns those that are refused alone, and the number of rows that the
    others made."""
    meanwhile()
    try:
        return [], store.write(events)
    except Exception as exc:
        if is_outage(exc):
            raise
        if len(events) == 1:
            return _store_plainer(store, events[0], exc, meanwhile)
        middle = len(events) // 2
        halves = [_find_poison(store, half, meanwhile) for half in (events[:middle], events[middle:])]
        return [event for bad, _ in halves for event in bad], sum(rows for _, rows in halves)


def _store_plainer(
    store: Store, event: bytes, refusal: Exception, meanwhile: Callable[[], None]
) -> tuple[list[bytes], int]:
    """Store the first form of a refused event that the database takes. Returns like `_find_poison`. Raises what
    `Store.write` raises if the database takes nothing at all."""
    for form in plainer(event):
        meanwhile()
        try:
            rows = store.write([form.event])
        except Exception as exc:
            if is_outage(exc):
                raise
            continue
        _log(
            refusal,
            "celery-asynctask has stored an event of task %s with %s, because the database refuses it as it is: %s.",
            form.task_id,
            form.changed,
            reason(refusal),
        )
        return [], rows
    meanwhile()
    store.write([])  # raises if it is the database that refuses, whatever it gets
    _log(
        refusal,
        "celery-asynctask cannot store an event, which goes into quarantine: %s. The event: %.200s",
        reason(refusal),
        event.decode("ascii", "replace"),
    )
    return [event], 0


_logged: Counter[type] = Counter()
MAX_LOGGED = 20
"""Most events that a process logs for errors of one class."""


def _log(exc: Exception, message: str, *members: object) -> None:
    kind = type(getattr(exc, "orig", None) or exc)
    _logged[kind] += 1
    if _logged[kind] == MAX_LOGGED:
        message += " This process logs no more events that are refused with such an error."
    if _logged[kind] <= MAX_LOGGED:
        logger.error(message, *members)
