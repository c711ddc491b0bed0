"""What a recorder does each time: drain its directory and watch over its processes, or store from memory."""

from __future__ import annotations

import logging
import time
from typing import Protocol

from celery_asynctask.journal import Directory, Journal, frame
from celery_asynctask.journal.reader import Chunk
from celery_asynctask.recorder.batch import Part, store_batch
from celery_asynctask.recorder.drain import Drain
from celery_asynctask.recorder.liveness import LOOK_SECONDS, Watch
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store

logger = logging.getLogger("celery_asynctask.recorder")


class Work(Protocol):
    """One kind of it."""

    def work(self) -> None:
        """Do what there is to do. Raises what the database and the disk raise; nothing is lost then."""

    def look(self) -> None:
        """Only note who lives, if it is time to. Raises as `work`."""

    @property
    def look_at(self) -> float:
        """When it is time to, by the monotonic clock."""

    def close(self) -> None:
        """Give the database connection back; work may go on."""


class DirectoryWork:
    """The work of the recorder that a journal directory has elected."""

    def __init__(self, directory: Directory, settings: Settings) -> None:
        self._drain = Drain(directory, settings)
        self._watch = Watch(directory, self._drain.store)
        self._drain.meanwhile = self._watch.look

    def work(self) -> None:
        self._drain.behind = True
        while self._drain.behind:
            self._drain.batch()
            self._watch.look()

    def look(self) -> None:
        self._watch.look()

    @property
    def look_at(self) -> float:
        return self._watch.look_at

    def close(self) -> None:
        self._watch.forget()
        self._drain.close()


class MemoryWork:
    """The work where there is no usable directory: what this process alone keeps in memory."""

    def __init__(self, journal: Journal, settings: Settings) -> None:
        self._journal = journal
        self._store = Store(settings)
        self._stored = False
        self.look_at = 0.0

    def work(self) -> None:
        self._store_all()
        self.look()

    def look(self) -> None:
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
            found = frame.scan(b"".join(lines), len(lines))
            about = {**self._journal.describe(), "journal": ""}
            position = self._store.position(self._journal.source)
            chunk = Chunk(found.numbers, found.data, [], 0, 0, position.position, whole=True)
            part = Part(about, position.segment, chunk)
            store_batch(self._store, [part], {self._journal.source: position}, _say)
            self._stored = True
        except BaseException:
            self._journal.give_back(lines)
            raise

    def close(self) -> None:
        self.look_at = 0.0
        self._store.close()


def _say(source: str, entry: bytes) -> None:
    """There is no place to keep what cannot be stored but the log."""
    logger.error("celery-asynctask cannot store or keep an event of %s: %s", source, entry.decode("utf-8", "replace"))
