"""Drains the memory of this process, where there is no usable journal directory."""

from __future__ import annotations

import time

from celery_asynctask.core.logs import logger_of
from celery_asynctask.journal import Journal
from celery_asynctask.journal.frame import Chunk, scan
from celery_asynctask.recorder.drain import Part, prepare, store_batch
from celery_asynctask.recorder.liveness import LOOK_SECONDS, release
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store

logger = logger_of("celery_asynctask.recorder")


class MemoryDrain:
    """Moves the events that wait in the memory of one process into the store."""

    def __init__(self, journal: Journal, settings: Settings) -> None:
        self._journal = journal
        self._store = Store(settings)
        self._stored = False
        self.look_at = 0.0

    def work(self) -> None:
        """Store everything that waits now. Raises what `store_batch` and `look` raise; the events wait on then."""
        self._store_all()
        self.look()

    def look(self) -> None:
        """Record that this process lives, if that is due. Raises `sqlalchemy.exc.SQLAlchemyError`."""
        if time.monotonic() < self.look_at:
            return
        if self._stored:
            self._store.note_alive({self._journal.source: None})
        self.look_at = time.monotonic() + LOOK_SECONDS

    def release(self, source: str) -> None:
        """As `Drain.release`."""
        if self._stored:
            release(self._store, source)

    def _store_all(self) -> None:
        lines = self._journal.take()
        if not lines:
            return
        try:
            if not self._stored:
                prepare(self._store)
            frames = scan(b"".join(lines), len(lines))
            description = {**self._journal.describe(), "journal": ""}
            position = self._store.position(self._journal.source)
            chunk = Chunk(frames.numbers, frames.data, [], 0, 0, position.position, at_end=True)
            part = Part(description, position.segment, chunk)
            store_batch(self._store, [part], {self._journal.source: position}, _log_entry, self.look)
            self._stored = True
        except BaseException:
            self._journal.give_back(lines)
            raise

    def close(self) -> None:
        """Give the database connection back; `work` may be called again."""
        self.look_at = 0.0
        self._store.close()


def _log_entry(source: str, entry: bytes) -> bool:
    """Put an event that cannot be stored into the log: without a directory, there is no other place."""
    logger.error(
        "celery-asynctask cannot store an event of process %s, and there is no journal directory to keep it in: %s",
        source,
        entry.decode("utf-8", "replace"),
    )
    return True
