"""Drains the memory of this process, where there is no usable journal directory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from celery_asynctask.core.logs import logger_of
from celery_asynctask.journal import Journal
from celery_asynctask.journal.frame import Chunk, scan
from celery_asynctask.recorder.batch import Part, RefusedError, nothing_at, store_accounts, store_batch
from celery_asynctask.recorder.drain import BATCH_BYTES, prepare
from celery_asynctask.recorder.liveness import LOOK_SECONDS, release
from celery_asynctask.recorder.refusal import Refusals
from celery_asynctask.settings import Settings
from celery_asynctask.store import Moved, Store

logger = logger_of("celery_asynctask.recorder")


class MemoryDrain:
    """Moves the events that wait in the memory of one process into the store."""

    def __init__(self, journal: Journal, settings: Settings) -> None:
        self.store = Store(settings)
        self._journal = journal
        self._settings = settings
        self._stored = False
        self._refusals = Refusals()
        self.look_at = 0.0

    def work(self, *, at_once: bool = True) -> None:  # noqa: ARG002 - no starts wait anywhere
        """Store everything that waits now. Raises what `store_batch` and `look` raise; the events wait on then."""
        while self._batch():
            self.look()
        self.look()
        self.store.let_go()

    def look(self) -> None:
        """Record that this process lives, if that is due. Raises `sqlalchemy.exc.SQLAlchemyError`, `StoreError`."""
        if time.monotonic() < self.look_at:
            return
        if self._stored:
            self.store.note_alive({self._journal.source: self._journal.numbered})
            self.store.note_change()
        self.look_at = time.monotonic() + LOOK_SECONDS

    def release(self, source: str) -> None:
        """As `Drain.release`."""
        if self._stored:
            release(self.store, source)

    def finish(self) -> None:
        """Store the last word of this process: how much it has accepted and dropped. Raises like `Store.write`."""
        journal = self._journal
        if not (journal.numbered or journal.dropped):
            return
        self._prepare()
        source = journal.source
        positions = self.store.stored([source])
        position = positions[source]
        part = Part(
            self._description(), position.segment, nothing_at(position), numbered=journal.numbered, settled=True
        )
        store_accounts(self.store, [part], positions, [])

    def _prepare(self) -> None:
        if not self._stored:
            prepare(self.store)

    def _description(self) -> dict[str, Any]:
        return {**self._journal.describe(), "journal": ""}

    def _batch(self) -> bool:
        """Store some of what waits. Returns whether more does."""
        lines = self._journal.take()
        if not lines:
            return False
        source = self._journal.source
        most = self._settings.batch_size
        room = self._refusals.room(most, source if source in self._refusals else None)
        batch = list(self._fitting(lines, room))
        try:
            self._prepare()
            frames = scan(b"".join(batch), len(batch))
            positions = self.store.stored([source])
            position = positions[source]
            chunk = Chunk(frames.numbers, frames.data, [], 0, 0, position.position, at_end=True)
            part = Part(self._description(), position.segment, chunk, numbered=self._journal.numbered)
            try:
                stored = store_batch(self.store, [part], positions, _log_entry)
            except (RefusedError, Moved) as exc:
                if isinstance(exc, RefusedError):
                    self._refusals.refused({source: len(batch)})
                self._journal.give_back(lines)
                return True
        except BaseException:
            self._journal.give_back(lines)
            raise
        self._refusals.stored(source, len(batch), stored.poison)
        self._journal.give_back(lines[len(batch) :])
        self._stored = True
        return len(batch) < len(lines)

    @staticmethod
    def _fitting(lines: Sequence[bytes], room: int) -> Iterator[bytes]:
        size = 0
        for line in lines[:room]:
            yield line
            size += len(line)
            if size >= BATCH_BYTES:
                return

    def close(self) -> None:
        """Give the database connection back; `work` may be called again."""
        self.look_at = 0.0
        self.store.close()


def _log_entry(source: str, entry: bytes) -> bool:
    """Put an event that cannot be stored into the log: without a directory, there is no other place."""
    logger.error(
        "celery-asynctask cannot store an event of process %s, and there is no journal directory to keep it in: %s",
        source,
        entry.decode("utf-8", "replace"),
    )
    return True
