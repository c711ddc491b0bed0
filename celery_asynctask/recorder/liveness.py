"""Which processes live, which attempts those that are gone were running, and which messages they held.

A process that records holds a lock on its newest segment; the kernel releases it when the process is gone. The recorder
of its journal directory sees that, and writes every few seconds to the database which processes live. So an attempt is
never lost because of its age, however long it takes. It is lost if its process is gone. A recorder sees that

* in its own directory: no segment of the process has a lock, and all are stored. It waits `LOST_SECONDS` more, as a
  worker's main process may still say how its child ended;
* in other directories: the process's ``last_seen_at`` in the database has not changed for `accounting.SILENT`, by the
  recorder's own clock. The node is gone, or cut off from the database. If it comes back, its attempts are running
  again.

A message that a process had received and not started is released with it: the broker delivers it again, to any worker.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, cast

from celery_asynctask.core.accounting import SILENT, plural
from celery_asynctask.core.event import Event, Kind, encode
from celery_asynctask.core.keys import AttemptKey, MessageKey
from celery_asynctask.core.logs import logger_of
from celery_asynctask.core.time import now
from celery_asynctask.journal import Directory, Segment
from celery_asynctask.journal.files import is_being_written
from celery_asynctask.recorder.batch import store_unnumbered
from celery_asynctask.store import HeldTask, Open, OpenAttempt, Store

logger = logger_of("celery_asynctask.recorder")

LOOK_SECONDS: Final = 10.0
"""Between two looks."""
LOST_SECONDS: Final = 30.0
"""Between seeing a process gone and recording its attempts as lost; Celery itself takes ten to see that a child is."""
_SILENT_SECONDS: Final = SILENT.total_seconds()


class Watch:
    """Looks after the processes of one journal directory, for its recorder."""

    def __init__(self, directory: Directory, store: Store) -> None:
        self.directory = directory
        self.store = store
        self.look_at = 0.0
        """When the next look is due, by the monotonic clock."""
        self._seen: dict[str, tuple[dt.datetime, float]] = {}
        """The last_seen_at of each process of other directories, and since when it is the same, by our clock."""

    def forget(self) -> None:
        """Start over: while the database is away, no recorder can write that a process lives."""
        self._seen.clear()
        self.look_at = 0.0

    def look(
        self,
        segments: Sequence[Segment],
        numbered: Callable[[str], int | None],
        living: Collection[str] = (),
        *,
        drains_old: bool = True,
    ) -> None:
        """Record which processes live and which attempts are lost. Raises `sqlalchemy.exc.SQLAlchemyError`,
        `StoreError`, `OSError`.

        ``segments`` are those that are not stored to their end, or that are still written to; ``numbered`` says how
        many events a process has accepted; ``living`` are processes that have no segment, and live; without
        ``drains_old``, the processes of earlier versions are left to their own recorder.
        """
        with contextlib.suppress(OSError):  # a directory that cannot be changed
            self.directory.sweep()
        there = {segment.source for segment in segments}.union(living)
        alive = {segment.source for segment in segments if _is_alive(segment)}.union(living)
        counts = {source: numbered(source) for source in alive}
        self._record(self.store.note_alive(counts), Kind.FOUND, Kind.RECEIVED, "its process lives")
        gone = dt.timedelta(seconds=LOST_SECONDS)
        for journal in (*self.directory.ids, self.directory.old_id)[: 2 + drains_old]:
            left = self.store.note_ended(journal, there, gone)
            self._record(left, Kind.LOST, Kind.RELEASED, "its process is gone")
        if drains_old:
            self.store.settle_earlier(self.directory.old_id, there)
        if silent := self._silent():
            evidence = f"its node has been silent for {_SILENT_SECONDS:.0f} s"
            self._record(self.store.note_silent(silent), Kind.LOST, Kind.RELEASED, evidence)
        self.store.forget_unrecorded()
        self.look_at = time.monotonic() + LOOK_SECONDS

    def release(self, source: str) -> None:
        """`release`, with this watch's store."""
        release(self.store, source)

    def _silent(self) -> list[str]:
        """The sources of other directories that have been silent for too long."""
        last_seen = self.store.others(self.directory.id)
        at = time.monotonic()
        self._seen = {
            source: known if (known := self._seen.get(source)) is not None and known[0] == seen else (seen, at)
            for source, seen in last_seen.items()
        }
        return [source for source, (_, since) in self._seen.items() if at - since >= _SILENT_SECONDS]

    def _record(self, left: Open, of_attempt: Kind, of_message: Kind, evidence: str) -> None:
        attempts = [event for one in left.attempts if (event := _event(of_attempt, one, evidence)) is not None]
        messages = _held_events(of_message, left.held)
        if attempts or messages:
            store_unnumbered(self.store, [encode(event) for event in (*attempts, *messages)])
        if attempts:
            state = "lost" if of_attempt is Kind.LOST else "running again"
            _log(attempts, "attempt", state, evidence)
        if messages:
            state = "waiting for a worker again" if of_message is Kind.RELEASED else "received again"
            _log(messages, "message", state, evidence)


def _is_alive(segment: Segment) -> bool:
    """Whether a process writes to a segment; not known of one that cannot be read."""
    try:
        return is_being_written(segment.path)
    except OSError:
        return False


def release(store: Store, source: str) -> None:
    """Record that the messages that a process has received and not started wait for another worker, because it ends.
    Raises `sqlalchemy.exc.SQLAlchemyError`."""
    if events := _held_events(Kind.RELEASED, store.held(source)):
        store_unnumbered(store, [encode(event) for event in events])


def _held_events(kind: Kind, held: Iterable[HeldTask]) -> list[Event]:
    return [event for one in held if (event := _held_event(kind, one)) is not None]


def _log(events: Sequence[Event], noun: str, state: str, evidence: str) -> None:
    logger.warning(
        "celery-asynctask records %d %s as %s%s because %s. Tasks: %s.",
        len(events),
        plural(len(events), noun),
        state,
        "," if len(events) == 1 else ", each",
        evidence,
        ", ".join(event["id"] for event in events[:10]) + (", ..." if len(events) > 10 else ""),
    )


def _identity(task_id: str, customer_key: str, key: AttemptKey | MessageKey) -> Event:
    """The keys of an event that say which row, execution and message it is about."""
    event = cast("Event", {"id": task_id, "nesting": key.nesting, "retries": key.retries})
    if customer_key:
        event["customer_key"] = customer_key
    if key.created:
        event["created"] = key.created
    return event


def _held_event(kind: Kind, held: HeldTask) -> Event | None:
    """The event that a message is released, or still held. None: the task was imported, with a key that no event can
    have."""
    key = MessageKey.parse(held.order_key)
    if key is None:
        return None
    return {
        **_identity(held.celery_task_id, held.customer_key, key),
        "kind": kind.value,
        "at": key.at + 1,  # right after what it undoes: whatever another process has done since then counts
        "name": held.name,
        "holder": held.holder,
    }


def _event(kind: Kind, attempt: OpenAttempt, evidence: str) -> Event | None:
    """The event that an attempt is lost, or found alive. None: the attempt was imported, with a key that no event can
    have."""
    key = AttemptKey.parse(attempt.run_key)
    if key is None:
        return None
    event: Event = {
        **_identity(attempt.celery_task_id, attempt.customer_key, key),
        "run": key.token,
        "kind": kind.value,
        "at": now(),
        "name": attempt.name,
        "redelivered": key.redelivered,
        "ran": True,
        "inferred": True,
    }
    if kind is Kind.LOST:
        event["error_type"] = "WorkerLostError"
        event["error_message"] = (
            f"This attempt never reported its end, and {evidence}: {attempt.role} {attempt.pid} on {attempt.host}, "
            f"last seen {attempt.last_seen_at:%Y-%m-%d %H:%M:%S} UTC. If its message was not acknowledged, the broker "
            "delivers it again."
        )
    return event
