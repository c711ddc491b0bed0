"""What a recorder drains where there is no usable journal directory: what this process alone keeps in memory."""

from __future__ import annotations

import logging
import time

from celery_asynctask.journal import Journal
from celery_asynctask.journal.frame import Chunk, scan
from celery_asynctask.recorder.drain import Part, store_batch
from celery_asynctask.recorder.liveness import LOOK_SECONDS
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store

logger = logging.getLogger("celery_asynctask.recorder")


class MemoryDrain:
    """Moves the events that wait in the memory of one process into the store."""

    def __init__(self, journal: Journal, settings: Settings) -> None:
        self._journal = journal
        self._store = Store(settings)
        self._stored = False
        self.look_at = 0.0

    def work(self) -> None:
        """Store everything that waits now. Raises what the database raises; nothing is lost then."""
        self._store_all()
        self.look()

    def look(self) -> None:
        """Note that this process lives, if it is time to; also while it is looked for what cannot be stored. Raises
        `sqlalchemy.exc.SQLAlchemyError`."""
        if time.monotonic() < self.look_at:
            return
        if self._stored:
            self._store.note_alive([self._journal.source])
        self.look_at = time.monotonic() + LOOK_SECONDS

    def _store_all(self) -> None:
        lines = self._journal.take()
        if not lines:
            return
        try:
            if not self._stored:
                self._store.prepare()
            found = scan(b"".join(lines), len(lines))
            about = {**self._journal.describe(), "journal": ""}
            position = self._store.position(self._journal.source)
            chunk = Chunk(found.numbers, found.data, [], 0, 0, position.position, at_end=True)
            part = Part(about, position.segment, chunk)
            store_batch(self._store, [part], {self._journal.source: position}, _say, self.look)
            self._stored = True
        except BaseException:
            self._journal.give_back(lines)
            raise

    def close(self) -> None:
        """Give the database connection back; work may go on."""
        self.look_at = 0.0
        self._store.close()


def _say(source: str, entry: bytes) -> None:
    """There is no place to keep what cannot be stored but the log."""
    logger.error("celery-asynctask cannot store or keep an event of %s: %s", source, entry.decode("utf-8", "replace"))
