"""The recorder's thread: waits to be elected for a journal directory, then drains it until told to stop.

Any process of the node may run one; the election sees to it that one works. Nothing heavy is imported before the
thread runs, so a process that only publishes does not wait for SQLAlchemy.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from typing import TYPE_CHECKING

from celery_asynctask.errors import JournalError
from celery_asynctask.journal import Directory
from celery_asynctask.process import reset_in_children
from celery_asynctask.settings import Settings

if TYPE_CHECKING:
    from celery_asynctask.drain import Drain

logger = logging.getLogger("celery_asynctask.recorder")

MAX_BACKOFF = 30.0
"""Most seconds between two tries while the database is away."""

_inherited: list[object] = []
"""What a forked child got from its parent's recorder: collecting it would close the parent's connections."""


class Recorder:
    """Drains the journal directory of ``settings`` into their store, in a daemon thread between `start` and `stop`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._reset()
        reset_in_children(self)

    def _reset(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._elected: int | None = None
        self._drain: Drain | None = None
        self._in_trouble = False

    def after_fork_in_child(self) -> None:
        _inherited.append((self._drain, self._thread))
        elected = self._elected
        self._reset()
        if elected is not None:
            os.close(elected)

    def start(self) -> None:
        """Start the thread, unless it runs already."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="celery-asynctask-recorder", daemon=True)
            self._thread.start()

    def stop(self, timeout: float) -> None:
        """Drain what is there, give up the election and end the thread; wait at most ``timeout`` seconds."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            thread.join(timeout)

    def _run(self) -> None:
        wait = self.settings.flush_interval
        try:
            while True:
                stopping = self._stop.is_set()
                try:
                    self._work()
                    wait = self.settings.flush_interval
                except Exception as exc:  # noqa: BLE001 - the thread must not end; the cause is logged
                    self._report(exc)
                    wait = min(MAX_BACKOFF, wait * 2) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
                    if self._drain is not None:
                        self._drain.close()
                if stopping:
                    return
                self._stop.wait(wait)
        finally:
            if self._drain is not None:
                self._drain.close()
            if self._elected is not None:
                os.close(self._elected)
                self._elected = None

    def _work(self) -> None:
        if self._elected is None:
            directory = Directory(self.settings.directory, self.settings.store_id)
            self._elected = directory.elect()
            if self._elected is None:
                return
            from celery_asynctask.drain import Drain

            self._drain = Drain(directory, self.settings)
        assert self._drain is not None
        self._drain.all()
        if self._in_trouble:
            self._in_trouble = False
            logger.warning("celery-asynctask stores again in %s.", self.settings.shown_url)

    def _report(self, exc: Exception) -> None:
        """Log the cause once until it is over; with its traceback where it is no failure of the environment."""
        if self._in_trouble:
            return
        self._in_trouble = True
        cause = getattr(exc, "orig", None)
        expected = cause is not None or isinstance(exc, (OSError, ImportError, JournalError))
        logger.error(
            "celery-asynctask cannot store in %s: %s. Tasks run as ever; what they do is kept in %s and stored as "
            "soon as this works.",
            self.settings.shown_url,
            str(cause or exc).strip().rstrip("."),
            self.settings.directory,
            exc_info=None if expected else exc,
        )
