"""What one server process remembers for some seconds; used by many threads."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import Final, Generic, TypeVar

K = TypeVar("K")
T = TypeVar("T")

SENT_SECONDS: Final = 120.0
"""How long a task counts as just sent again. A recorder looks for what it is to store every minute at least; after that
the record itself says so."""
MAX_RECENT: Final = 10_000
"""Tasks that are remembered: the latest."""


class Latest(OrderedDict[K, T]):
    """What was set last, of so many keys at most."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self._lock = Lock()

    def __setitem__(self, key: K, value: T) -> None:
        with self._lock:
            super().__setitem__(key, value)
            self.move_to_end(key)
            if len(self) > self.limit:
                self.popitem(last=False)


class RecentReruns:
    """Tasks that were just sent again, by their Celery ids: what the record does not say yet."""

    def __init__(self) -> None:
        self._at: Latest[str, float] = Latest(MAX_RECENT)
        self._lock = Lock()

    def __contains__(self, task_id: str) -> bool:
        at = self._at.get(task_id)
        return at is not None and time.monotonic() - at < SENT_SECONDS

    def add(self, task_id: str) -> bool:
        """Note that the task is being sent; whether it was not noted before."""
        with self._lock:
            if task_id in self:
                return False
            self._at[task_id] = time.monotonic()
            return True

    def discard(self, task_id: str) -> None:
        """It was not sent after all."""
        with self._lock:
            self._at.pop(task_id, None)


class SingleFlightCache(Generic[T]):
    """A value that takes long to make: one thread makes it, and others that ask meanwhile get the one before, or where
    there is none, what comes of that."""

    def __init__(self) -> None:
        self._made: Future[T] | None = None
        self._until = 0.0
        self._lock = Lock()

    def get(self, make: Callable[[], T], seconds: float) -> T:
        """What ``make`` has returned not longer than so many seconds ago; somewhat longer while it is made anew. What
        it raises is raised by its caller and all that wait for it, and by no later call."""
        mine: Future[T] = Future()
        with self._lock:
            made = self._made or mine
            is_mine = made is mine or time.monotonic() >= self._until
            if is_mine:
                self._made, self._until = made, math.inf  # nobody else makes it meanwhile
        if not is_mine:
            return made.result()
        try:
            value = make()
        except BaseException as exc:
            self._made = None
            mine.set_exception(exc)
            raise
        mine.set_result(value)
        with self._lock:
            self._made, self._until = mine, time.monotonic() + seconds
        return value
