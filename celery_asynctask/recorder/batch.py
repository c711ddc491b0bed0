"""A batch: events of several processes, stored in one transaction together with the account of each.

An event of which the database refuses a value is stored without that value; one that it still refuses (poison) is put
aside. Whether an error is a refusal, or the database is away, no list of errors can tell: drivers have too many. So
after any error the store writes a task of its own and deletes it again. What a database that does this refused is the
batch; if it fails as well, the database is away, and all events are good.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from celery_asynctask.core.accounting import UNSIGNED, dropped_of
from celery_asynctask.core.event import is_unsigned
from celery_asynctask.core.keys import MAX_TIME
from celery_asynctask.core.limits import MAX_COUNT, MAX_NAME
from celery_asynctask.core.logs import logger_of
from celery_asynctask.core.plainer import Form, Kind, plainer, storable
from celery_asynctask.core.text import reason
from celery_asynctask.errors import AsyncTaskError
from celery_asynctask.journal import metrics
from celery_asynctask.journal.frame import Chunk
from celery_asynctask.store import Moved, Position, SourceUpdate, Store, is_busy, is_full

logger = logger_of("celery_asynctask.recorder")

_ROLE: Final = 16
"""Most characters of a role."""
_NOT_REFUSED: Final = (Moved, AsyncTaskError, OSError, ImportError, MemoryError)
"""Errors that say themselves that no event is the reason."""


class Part(NamedTuple):
    """The part of a batch that comes from one segment."""

    description: Mapping[str, Any]
    """Describes the process: `journal.frame.describe`, with ``journal``, the id of its directory."""
    segment: int
    """Number of the segment."""
    chunk: Chunk
    has_news: bool = True
    """Whether there is something to store: events, or how many the process dropped before it began this segment."""
    numbered: int | None = None
    """How many events the process has accepted, at least; None: it is of an earlier version, whose recorder settles
    nothing, so the ledger must be able to tell it from others (`core.accounting.is_unheard`)."""
    settled: bool = False
    """Whether the process is gone, and this is all that will ever be known of it."""


def nothing_at(position: Position) -> Chunk:
    """No events, of a process that is stored so far."""
    return Chunk([], [], [], 0, 0, position.position, at_end=True)


class RefusedError(Exception):
    """A working database does not take a batch of several events. Nothing of it is stored."""


class Stored(NamedTuple):
    """What became of a batch."""

    positions: dict[str, Position]
    """The new positions of its processes."""
    poison: int
    """How many of its events were refused as they are."""


Quarantine = Callable[[str, bytes], bool]
"""Keeps an entry that cannot be stored. Called with the source, and the event or damaged line. Returns False if there
is no room for it."""


def store_batch(
    store: Store, parts: Sequence[Part], positions: Mapping[str, Position], quarantine: Quarantine
) -> Stored:
    """Store the events of the parts and advance the positions of their processes, all in one transaction.

    Events that no database of this kind has room for are put aside at once. Raises `RefusedError` if the others are
    refused together; one that is alone is put aside if it is refused twice, and in all plainer forms. Poison is put
    aside before the commit: it may be put aside twice, but is never missing. Raises what `Store.write` and
    ``quarantine`` raise as well; the positions have not moved then.
    """
    writing = _Writing(store, parts, positions, quarantine)
    events = [event for part in parts for event in part.chunk.events]
    began = time.perf_counter()
    poison: Counter[bytes] = Counter()
    changed = 0
    try:
        moved, rows = writing.write(events, poison)
    except Exception as exc:  # noqa: BLE001 - see the module's docstring
        raise_unless_refused(exc)
        sifted = _sift(store, events)
        if sifted.is_changed:
            try:
                moved, rows = writing.write(sifted.events, sifted.poison)
            except Exception as again:  # noqa: BLE001
                raise_unless_refused(again)
                moved, rows, poison, changed = _store_rest(store, writing, events, again)
            else:
                sifted.log(exc)
                poison, changed = sifted.poison, len(sifted.forms)
        else:
            moved, rows, poison, changed = _store_rest(store, writing, events, exc)
    metrics.batch(
        accepted=sum(len(part.chunk) for part in parts),
        quarantined=poison.total() + sum(len(part.chunk.damaged) for part in parts),
        rows=rows,
        seconds=time.perf_counter() - began,
    )
    return Stored(moved, poison.total() + changed)


def store_accounts(
    store: Store, parts: Sequence[Part], positions: Mapping[str, Position], starts: Sequence[bytes]
) -> dict[str, Position]:
    """Store starts of runs together with parts that have no events, in one transaction. Returns the new positions of
    their processes. Raises like `Store.write`, unless a start is refused: then the others are stored one by one before
    the parts."""
    writing = _Writing(store, parts, positions, lambda *_: False)
    try:
        moved, _ = writing.write(starts, Counter())
    except Exception as exc:
        raise_unless_refused(exc)
        if not starts:
            raise
        store_unnumbered(store, starts)
        moved, _ = writing.write([], Counter())
    return moved


def store_unnumbered(store: Store, events: Sequence[bytes]) -> None:
    """Store events that no process has numbered, such as starts of runs that go on. One that the database refuses
    twice, and in all plainer forms, is logged. Raises what `Store.write` raises if the database is away."""
    try:
        store.write(events)
    except Exception as exc:  # noqa: BLE001
        raise_unless_refused(exc)
        ensure_it_works(store, exc)
    else:
        return
    for event in events:
        try:
            store.write([event])
        except Exception as exc:  # noqa: BLE001
            raise_unless_refused(exc, is_single=True)
            form, _ = _try_forms(store, event, exc, lambda form: store.write([form]))
            if form is None:
                _log_poison(exc, event, "is left out")


def raise_unless_refused(exc: Exception, *, is_single: bool = False) -> None:
    """Raise the error of a write again if it says itself that the events are good. A database that is full may still
    take smaller batches, but no single event is the reason."""
    if isinstance(exc, _NOT_REFUSED) or is_busy(exc) or (is_single and is_full(exc)):
        raise exc


def ensure_it_works(store: Store, exc: Exception) -> None:
    """Raise the error of a write again if the database takes nothing else either."""
    try:
        store.probe()
    except Exception:  # noqa: BLE001 - the first error is the one to tell
        raise exc from None


class _Writing:
    """One batch, and what it takes to write it."""

    def __init__(
        self, store: Store, parts: Sequence[Part], positions: Mapping[str, Position], quarantine: Quarantine
    ) -> None:
        self._store = store
        self._parts = parts
        self._before = {part.description["source"]: positions[part.description["source"]] for part in parts}
        self._quarantine = quarantine

    def write(self, events: Sequence[bytes], poison: Counter[bytes]) -> tuple[dict[str, Position], int]:
        """Write the events and the positions behind all of the batch, of which ``poison`` is put aside. Returns the
        positions, and the number of rows."""
        moved = dict(self._before)
        updates: dict[str, SourceUpdate] = {}
        refused: list[tuple[str, bytes]] = []
        left = Counter(poison)
        for part in self._parts:
            source = part.description["source"]
            bad = []
            if left.total():
                for event in part.chunk.events:
                    if left[event]:
                        left[event] -= 1
                        bad.append(event)
            refused += [(source, entry) for entry in (*bad, *part.chunk.damaged)]
            moved[source] = _moved(part, moved[source], len(bad))
            numbered = None if part.numbered is None else max(part.numbered, moved[source].last_number)
            updates[source] = SourceUpdate(_sound(part.description), moved[source], numbered, part.settled)

        def put_aside() -> None:
            full = sum(not self._quarantine(source, entry) for source, entry in refused)
            if refused:
                logger.error(
                    "celery-asynctask cannot store %d events or damaged lines, and has put them into quarantine: files "
                    "of the journal directory, or the log where there is none. Run `celery -A APP asynctask doctor` to "
                    "see them.%s Processes: %s.",
                    len(refused),
                    f" Of these, {full:,} are counted and not kept: quarantine is full." if full else "",
                    ", ".join(sorted({source for source, _ in refused})),
                )

        return moved, self._store.write(events, updates.values(), before_commit=put_aside, expected=self._before)


def _sound(description: Mapping[str, Any]) -> dict[str, Any]:
    """A description that the ledger has room for, whatever its segment or page says."""
    host, pid, role, at = (description.get(key) for key in ("host", "pid", "role", "at"))
    return {
        **description,
        "host": str(host)[:MAX_NAME],
        "pid": pid if type(pid) is int and 0 <= pid <= MAX_COUNT else 0,
        "role": str(role)[:_ROLE],
        "at": at if type(at) is int and 0 <= at <= MAX_TIME else 0,
    }


def _moved(part: Part, before: Position, bad: int) -> Position:
    """The position of the process when the part is stored, with ``bad`` of its events put aside."""
    chunk = part.chunk
    losses = dropped_of(before.dropped)
    dropped = losses if part.description["dropped"] is None else part.description["dropped"]
    kept = {key: count for key, count in before.dropped.items() if key not in losses}
    if unsigned := sum(map(is_unsigned, chunk.events)):
        kept[UNSIGNED] = kept.get(UNSIGNED, 0) + unsigned
    after = Position(
        part.segment,
        chunk.end,
        max((before.last_number, *chunk.numbers)) + chunk.tail,
        before.stored + len(chunk.events) - bad,
        before.quarantined + bad,
        {**dropped, **kept},
    )
    # The numbers around damaged lines tell how many events were in them; after the last event, there are only the lines
    # to count. Numbers that are missing beyond that are lost: somebody has removed a segment.
    after = after._replace(quarantined=after.quarantined + chunk.tail)
    inside = max(0, min(after.missing - max(0, before.missing), chunk.hidden))
    after = after._replace(quarantined=after.quarantined + inside)
    # What a process has numbered beyond its last event was in its memory when it was killed, or on a disk that is gone.
    return after._replace(last_number=max(after.last_number, part.numbered or 0)) if part.settled else after


class _Sifted(NamedTuple):
    """The events of a refused batch as far as this kind of database has room for them."""

    events: list[bytes]
    poison: Counter[bytes]
    forms: list[Form]
    """Those that were changed."""

    @property
    def is_changed(self) -> bool:
        return bool(self.poison or self.forms)

    def log(self, refusal: Exception) -> None:
        for form in self.forms:
            _log_form(refusal, form)
        for event in self.poison.elements():
            _log_poison(refusal, event, "goes into quarantine")


def _sift(store: Store, events: Sequence[bytes]) -> _Sifted:
    kind = _KINDS.get(store.engine.dialect.name, _KINDS["mysql"])
    sifted = _Sifted([], Counter(), [])
    for event in events:
        form = storable(event, kind)
        if form is None:
            sifted.poison[event] += 1
            continue
        sifted.events.append(form.event)
        if form.event is not event:
            sifted.forms.append(form)
    return sifted


_KINDS: Final = {
    "postgresql": Kind(has_widths=True, has_nul=False),
    "mysql": Kind(has_widths=True, has_nul=True),
    "sqlite": Kind(has_widths=False, has_nul=True),
}


def _store_rest(
    store: Store, writing: _Writing, events: Sequence[bytes], refusal: Exception
) -> tuple[dict[str, Position], int, Counter[bytes], int]:
    """Store a refused batch if it has one event only, in whatever form. Returns the positions, the number of rows, what
    was put aside, and how many events were changed. Raises `RefusedError` if it has more."""
    ensure_it_works(store, refusal)
    if len(events) > 1:
        raise RefusedError from refusal
    if not events:
        raise refusal  # of the account itself
    [event] = events
    try:
        return *writing.write(events, Counter()), Counter(), 0  # once more: the moment may have been the reason
    except Exception as exc:  # noqa: BLE001
        raise_unless_refused(exc, is_single=True)
        form, written = _try_forms(store, event, exc, lambda form: writing.write([form], Counter()))
        if form is not None:
            return *written, Counter(), 1
        _log_poison(exc, event, "goes into quarantine")
        poison = Counter([event])
        return *writing.write([], poison), poison, 0


def _try_forms(
    store: Store, event: bytes, refusal: Exception, write: Callable[[bytes], Any]
) -> tuple[Form | None, Any]:
    """Store the first form of a refused event that the database takes. Returns it, and what ``write`` returned; None:
    the database refuses all. Raises what ``write`` raises if the database is away."""
    ensure_it_works(store, refusal)
    for form in plainer(event):
        try:
            written = write(form.event)
        except Exception as exc:  # noqa: BLE001
            raise_unless_refused(exc, is_single=True)
            ensure_it_works(store, exc)
        else:
            _log_form(refusal, form)
            return form, written
    return None, None


def _log_form(refusal: Exception, form: Form) -> None:
    _log(
        refusal,
        "celery-asynctask has stored an event of task %s with %s, because the database refuses it as it is: %s.",
        form.task_id,
        form.changed,
        reason(refusal),
    )


def _log_poison(refusal: Exception, event: bytes, consequence: str) -> None:
    _log(
        refusal,
        "celery-asynctask cannot store an event, which %s: %s. The event: %.200s",
        consequence,
        reason(refusal),
        event.decode("ascii", "replace"),
    )


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
