"""Which processes live, and what those that are gone were running.

A process that records holds a lock on its newest segment; the kernel lets go of it when the process is gone. The
recorder of its journal directory sees that, and notes every few seconds in the database who lives. So age alone never
tells that a run is lost, however long it takes. Two looks do:

* of the recorder's own directory: nobody holds the source's segments and they are all stored; and again
  `LOST_SECONDS` later, for a worker's main process may still tell of its child;
* of other directories: what was noted of the source is the same as `accounting.SILENT` before, by this process's own
  clock. Its node is gone, or cut off from the database. If it comes back, what it was running is found again.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Iterable
from typing import Final

from celery_asynctask.core.accounting import SILENT
from celery_asynctask.core.event import Event, Kind, encode
from celery_asynctask.core.keys import AttemptKey
from celery_asynctask.core.time import now
from celery_asynctask.journal import Directory
from celery_asynctask.journal.directory import is_being_written
from celery_asynctask.store import OpenAttempt, Store

logger = logging.getLogger("celery_asynctask.recorder")

LOOK_SECONDS: Final = 10.0
"""Between two looks."""
LOST_SECONDS: Final = 30.0
"""From finding a process gone to calling its runs lost; Celery itself takes ten to see that a child is."""
_SILENT_SECONDS: Final = SILENT.total_seconds()


class Watch:
    """The looks of one recorder."""

    def __init__(self, directory: Directory, store: Store) -> None:
        self.directory = directory
        self.store = store
        self.look_at = 0.0
        """When it is time to, by the monotonic clock."""
        self._heard: dict[str, tuple[dt.datetime, float]] = {}
        """Of the sources of other directories: what was noted last, and since when by our clock it is the same."""

    def forget(self) -> None:
        """Start over: the database was away, so nobody could note anything."""
        self._heard.clear()
        self.look_at = 0.0

    def look(self) -> None:
        """Look if it is time to. Raises `sqlalchemy.exc.SQLAlchemyError`, `OSError`."""
        if time.monotonic() < self.look_at:
            return
        self.directory.sweep()
        found = self.directory.segments()
        there = {segment.source for segment in found}
        alive = {segment.source for segment in found if is_being_written(segment.path)}
        self._tell(Kind.FOUND, self.store.note_alive(alive), "")
        gone = dt.timedelta(seconds=LOST_SECONDS)
        self._tell(Kind.LOST, self.store.note_ended(self.directory.id, there, gone), "its process is gone")
        silent = self._silent()
        if silent:
            evidence = f"its node has not been heard of for {_SILENT_SECONDS:.0f} s"
            self._tell(Kind.LOST, self.store.note_silent(silent), evidence)
        self.look_at = time.monotonic() + LOOK_SECONDS

    def _silent(self) -> list[str]:
        """Sources of other directories of which nothing was noted for a while."""
        noted = self.store.others(self.directory.id)
        at = time.monotonic()
        self._heard = {
            source: known if (known := self._heard.get(source)) is not None and known[0] == seen else (seen, at)
            for source, seen in noted.items()
        }
        return [source for source, (_, since) in self._heard.items() if at - since >= _SILENT_SECONDS]

    def _tell(self, kind: Kind, attempts: Iterable[OpenAttempt], evidence: str) -> None:
        events = (_event(kind, attempt, evidence) for attempt in attempts)
        told = [event for event in events if event is not None]
        if told:
            self.store.write([encode(event) for event in told])
            logger.warning(
                "celery-asynctask: %d runs are %s: %s.",
                len(told),
                kind.value,
                ", ".join(event["id"] for event in told[:10]) + (", ..." if len(told) > 10 else ""),
            )


def _event(kind: Kind, attempt: OpenAttempt, evidence: str) -> Event | None:
    """What is told of an attempt; its run key tells the rest. None: an imported attempt may have a key that no event
    has, so nothing can be told of it."""
    key = AttemptKey.parse(attempt.run_key)
    if key is None:
        return None
    event: Event = {
        "id": attempt.celery_task_id,
        "run": key.token,
        "kind": kind.value,
        "at": now(),
        "name": attempt.name,
        "nesting": key.nesting,
        "retries": key.retries,
        "redelivered": key.redelivered,
        "ran": True,
        "inferred": True,
    }
    if kind is Kind.LOST:
        event["error_type"] = "WorkerLostError"
        event["error_message"] = (
            f"Nobody has said how this run ended, and {evidence}: {attempt.role} {attempt.pid} on {attempt.host}, last "
            f"seen {attempt.last_seen_at:%Y-%m-%d %H:%M:%S} UTC. If its message was not acknowledged, the broker "
            "delivers it again."
        )
    return event
