"""One batch: events of several sources stored in one transaction with the ledger of each, poison put aside.

``accepted = stored + in the journal + quarantined + dropped`` is kept here: what a source has numbered up to its
``last_number`` is stored or quarantined, and what it has dropped it says in its next segment.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from celery_asynctask.journal import metrics
from celery_asynctask.journal.reader import Chunk
from celery_asynctask.store import Position, SourceUpdate, Store, is_outage

logger = logging.getLogger("celery_asynctask.recorder")


class Part(NamedTuple):
    """What a batch has of one segment."""

    description: Mapping[str, Any]
    """Of the source, as `journal.reader.describe` gives it, with ``journal``, the id of its directory."""
    segment: int
    chunk: Chunk


Quarantine = Callable[[str, bytes], None]
"""Keeps what cannot be stored: the source, and the event or damaged line."""


def store_batch(
    store: Store,
    parts: Sequence[Part],
    positions: Mapping[str, Position],
    quarantine: Quarantine,
    meanwhile: Callable[[], None] | None = None,
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


def _find_poison(
    store: Store, events: Sequence[bytes], meanwhile: Callable[[], None] | None
) -> tuple[list[bytes], int]:
    """Store ``events`` in ever smaller parts; those that alone are refused, and how many rows the others made."""
    if meanwhile is not None:
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
