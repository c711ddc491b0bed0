"""The recorder's thread: waits to be elected for a journal directory, then drains it until it is stopped.

Any process of the node may run one; the election makes sure that only one works. Nothing heavy is imported before the
thread runs, so a process that only publishes does not wait for SQLAlchemy.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from random import SystemRandom
from typing import TYPE_CHECKING

from celery_asynctask.core.forking import forks_later, importing, locking, notice_fork, reset_in_children
from celery_asynctask.core.logs import logger_of
from celery_asynctask.core.text import reason
from celery_asynctask.errors import AsyncTaskError, JournalError
from celery_asynctask.journal import Directory, Journal
from celery_asynctask.settings import Settings

if TYPE_CHECKING:
    from celery_asynctask.recorder.drain import Drain
    from celery_asynctask.recorder.memory import MemoryDrain

logger = logger_of("celery_asynctask.recorder")

MAX_BACKOFF = 30.0
"""Most seconds between two tries while the database is away."""

STANDBY_SECONDS = 0.1
"""Between two tries of a dedicated recorder to be elected."""
ELECTION_SECONDS = 10.0
"""Most seconds between two tries of any other recorder: while none is elected, none records which processes live."""

_inherited: list[object] = []
"""Objects of the parent's recorder in a forked child: collecting them would close the parent's connections."""

Wait = Callable[[float], object]
"""Waits for something, for at most so many seconds."""


def _no_wait(_seconds: float) -> None:
    """There is nothing to wait for."""


class _Run:
    """One thread of a recorder, and what it is to do."""

    thread: threading.Thread

    def __init__(self, once: bool) -> None:
        self.once = once
        self.has_begun = False
        """Whether the thread before it has ended, and it works."""
        self.is_stopping = False
        self.flushes: deque[threading.Event] = deque()
        """Each to be set when everything that is in the journal now is drained, or could not be."""
        self.called = threading.Event()
        """Set to call it to work."""
        self.has_ended = False

    def call(self) -> threading.Event:
        """Call it to drain the journal. Returns what is set when it has, or could not, or has ended."""
        drained = threading.Event()
        if self.has_ended:
            drained.set()
        else:
            self.flushes.append(drained)
            self.called.set()
        return drained

    def answer(self, count: int | None = None) -> None:
        """Say to the first ``count`` callers that it has; None: to all."""
        for _ in range(len(self.flushes) if count is None else count):
            self.flushes.popleft().set()


class Recorder:
    """Drains the journal directory of ``settings`` into their store, in a daemon thread between `start` and `stop`.
    Safe for threads; starts over, stopped, in a forked child."""

    def __init__(self, settings: Settings, journal: Journal | None = None, *, dedicated: bool = False) -> None:
        """``journal`` is this process's own: what it keeps in memory is stored where there is no usable directory.

        A ``dedicated`` recorder has a process of its own; the others leave the directory to it while it lives.
        """
        self.settings = settings
        self.journal = journal
        self.dedicated = dedicated
        self.before_work: Callable[[], None] | None = None
        """Called by the thread before each look into the journal; must not raise."""
        self.after_work: Callable[[], None] | None = None
        """Called by the thread when it ends; must not raise."""
        self._reset()
        reset_in_children(self)

    def _reset(self) -> None:
        self._changing = threading.RLock()  # a signal handler may call start or stop inside of either
        self._working = threading.Lock()
        """Held by the thread that works: one that is started while the last has not ended waits for it."""
        self._run: _Run | None = None
        """That of the newest thread."""
        self._claimed: int | None = None
        self._elected: int | None = None
        self._old: dict[str, int] = {}
        """Locks by which recorders of earlier versions leave the directory to this one, by name."""
        self._place = self.settings.directory
        """The directory in which it is elected."""
        self._drain: Drain | MemoryDrain | None = None
        self._in_trouble = False

    def after_fork_in_child(self) -> None:
        _inherited.append((self._drain, self._run))
        held = (self._elected, self._claimed, *self._old.values())
        self._reset()
        for handle in held:
            if handle is not None:
                os.close(handle)

    @property
    def is_running(self) -> bool:
        """Whether the thread lives, even if it was stopped and has not ended in time."""
        return self._run is not None and self._run.thread.is_alive()

    @property
    def is_elected(self) -> bool:
        """Whether this recorder drains the directory."""
        return self._elected is not None

    @property
    def in_trouble(self) -> bool:
        """Whether the last try failed; the log says why."""
        return self._in_trouble

    def start(self, *, once: bool = False) -> None:
        """Start the thread, unless it runs already; ``once``: until it has drained the journal, or failed. None is
        started in a process that is about to fork its workers."""
        notice_fork()
        if forks_later():
            return
        with self._changing:
            last = self._run
            if last is not None and last.thread.is_alive() and not (last.is_stopping and last.has_begun):
                last.is_stopping = False
                return
            run = _Run(once)
            run.thread = threading.Thread(
                target=self._take_turn, args=(run,), name="celery-asynctask-recorder", daemon=True
            )
            run.thread.start()
            self._run = run

    def stop(self, timeout: float) -> None:
        """Drain the journal, give up the election and end the thread; wait at most ``timeout`` seconds for that."""
        self.end()(timeout)

    def end(self) -> Wait:
        """`stop`, without waiting: returns what waits for it. It does not wait for a thread that was started again."""
        notice_fork()
        with self._changing:
            run = self._run
            if run is None:
                return _no_wait
            run.is_stopping = True
            if run.thread is threading.current_thread():
                return _no_wait
            drained = run.call()

        def wait(seconds: float) -> None:
            until = time.monotonic() + seconds
            if drained.wait(seconds) and run.is_stopping:
                run.thread.join(max(0.0, until - time.monotonic()))

        return wait

    def flush(self) -> Wait:
        """Let the thread, if it runs, drain the journal now. Returns what waits until it has, or could not."""
        notice_fork()
        with self._changing:
            run = self._run
            if run is None or run.thread is threading.current_thread():
                return _no_wait
            return run.call().wait

    def _take_turn(self, run: _Run) -> None:
        with self._working:
            with self._changing:
                run.has_begun = True
            self._loop(run)
            if self.after_work is not None:
                self.after_work()
        with self._changing:
            run.has_ended = True
            run.answer()

    def _loop(self, run: _Run) -> None:
        backoff = self.settings.flush_interval
        flush_at = 0.0
        try:
            while True:
                run.called.clear()
                if self.before_work is not None:
                    self.before_work()
                stopping = run.is_stopping
                asked = len(run.flushes)
                flushes = stopping or bool(asked) or time.monotonic() >= flush_at
                try:
                    done = self._work(flushes, at_once=stopping or run.once or bool(asked))
                    if stopping and done and self._drain is not None:
                        self._release()
                        self._drain.finish()
                    backoff = self.settings.flush_interval
                    if not done:
                        flush_at = 0.0
                    elif flushes:
                        flush_at = time.monotonic() + self.settings.flush_interval
                    wait = self._rest(flush_at) if done else self._standby
                except Exception as exc:  # noqa: BLE001 - the thread must not end; the cause is logged
                    with suppress(Exception):  # a filter or handler of the user's may raise
                        self._report(exc)
                    done = True
                    flush_at = 0.0
                    backoff = min(MAX_BACKOFF, backoff * 2) * SystemRandom().uniform(0.8, 1.2)
                    wait = backoff
                    if self._drain is not None:
                        wait = min(backoff, self._drain.store.retry_seconds() or backoff)
                        self._drain.close()
                run.answer(asked)
                if stopping or (run.once and done):
                    return
                run.called.wait(wait)
        finally:
            self._resign()

    @property
    def _standby(self) -> float:
        """Seconds until the next try to be elected."""
        return STANDBY_SECONDS if self.dedicated else min(self.settings.flush_interval, ELECTION_SECONDS)

    def _rest(self, flush_at: float) -> float:
        """Seconds until something is due: to flush, or to record which processes live."""
        assert self._drain is not None
        return max(0.0, min(flush_at, self._drain.look_at) - time.monotonic())

    def _work(self, flushes: bool, *, at_once: bool) -> bool:
        """Drain, or if not ``flushes`` only record which processes live. ``at_once``: somebody waits for it. Returns
        False if another recorder does it."""
        if self.journal is not None:
            self.journal.retry()
        # Without a drain, the last try could not import what it needs.
        if self._elected is not None and (self._drain is None or not self._is_still_elected(self._elected)):
            self._resign()
        is_new = self._elected is None
        if is_new and not self._seek_election():
            return False
        assert self._drain is not None
        self._replace_earlier()
        if not (flushes or is_new):
            self._drain.look()
            return True
        self._drain.work(at_once=at_once)
        if self._in_trouble:
            self._in_trouble = False
            logger.warning("celery-asynctask stores events again in %s.", self.settings.absolute_url)
        return True

    def _replace_earlier(self) -> None:
        """Drain what processes of earlier versions write as well, once their own recorder has ended."""
        from celery_asynctask.recorder.drain import Drain

        if not isinstance(self._drain, Drain) or self._drain.drains_old:
            return
        directory = self._drain.directory
        with locking():
            for name, take in (("elected", directory.elect_old), ("claimed", directory.claim_old)):
                if name not in self._old and (name == "elected" or self.dedicated):
                    handle = take()
                    if handle is not None:
                        self._old[name] = handle
        self._drain.drains_old = "elected" in self._old

    def _release(self) -> None:
        """Record that what this process has received and not started waits for another worker: it ends."""
        assert self._drain is not None
        if self.journal is not None and self.journal.role == "worker":
            self._drain.release(self.journal.source)

    def _is_still_elected(self, handle: int) -> bool:
        """False if the directory was deleted, as another recorder may be elected in a new one; if only its second place
        could be used and it can be used again; and if there is a dedicated recorder now."""
        if not os.fstat(handle).st_nlink or (self._place != self.settings.directory and self._is_first_usable()):
            return False
        return self.dedicated or not Directory.is_claimed(self._place)

    def _seek_election(self) -> bool:
        """Whether there is work for this recorder: to drain the directory or, if that is not usable, the memory of this
        process."""
        try:
            directory = Directory.usable(self.settings.directory, self.settings.store_id)
            with locking():
                if self.dedicated and self._claimed is None:
                    self._claimed = directory.claim()
                if (self._claimed is None) if self.dedicated else Directory.is_claimed(directory.path):
                    return False
                self._elected = directory.elect()
        except (JournalError, OSError):
            if self.journal is None:
                raise
            if self._drain is None:
                with importing():
                    from celery_asynctask.recorder.memory import MemoryDrain

                self._drain = MemoryDrain(self.journal, self.settings)
            return True
        if self._drain is not None:
            self._drain.close()
            self._drain = None
        if self._elected is None:
            return False
        logger.info("celery-asynctask stores events from %s in %s.", directory.path, self.settings.absolute_url)
        with importing():
            from celery_asynctask.recorder.drain import Drain

        self._drain = Drain(directory, self.settings, drains_old=False)
        self._place = directory.path
        return True

    def _is_first_usable(self) -> bool:
        """Whether the directory can be used again, and what is in its second place with it."""
        try:
            Directory(self.settings.directory, self.settings.store_id)
        except (JournalError, OSError):
            return False
        return True

    def _resign(self) -> None:
        if self._drain is not None:
            self._drain.close()
            self._drain = None
        with locking():
            for handle in (self._elected, self._claimed, *self._old.values()):
                if handle is not None:
                    os.close(handle)
            self._elected = self._claimed = None
            self._old.clear()

    def _report(self, exc: Exception) -> None:
        """Log the cause once until it is over, with the traceback if it is not a failure of the environment."""
        if self._in_trouble:
            return
        self._in_trouble = True
        expected = getattr(exc, "orig", None) is not None or isinstance(exc, (OSError, ImportError, AsyncTaskError))
        todo = ""
        if not isinstance(exc, AsyncTaskError):  # ours say it themselves
            with suppress(ImportError), importing():  # of SQLAlchemy, which may be the cause
                from celery_asynctask.store.remedies import remedy

                todo = remedy(exc, self.settings.url)
        logger.error(
            "celery-asynctask cannot store events in %s: %s.%s Tasks are not affected. Their events are kept in %s, "
            "and stored when the cause is gone. Run `celery -A APP asynctask doctor` to find it.",
            self.settings.absolute_url,
            reason(exc),
            f" {todo}" if todo else "",
            "memory" if self._elected is None and self.journal is not None else self._place,
            exc_info=None if expected else exc,
        )
