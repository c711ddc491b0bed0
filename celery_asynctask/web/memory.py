"""Short-lived memory of one server process; used by many threads."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Final, Generic, TypeVar

from celery_asynctask.core.fold import Identity

K = TypeVar("K")
T = TypeVar("T")

SENT_SECONDS: Final = 120.0
"""How long a task counts as just rerun. A recorder drains every minute at least: after that the record has the
rerun."""
REFUSALS: Final = 5
"""Refused actions of a caller in a minute that have an entry each in the audit."""
_MINUTE: Final = 60.0
MAX_RECENT: Final = 10_000
"""Reruns that are remembered, the latest ones."""


class Latest(OrderedDict[K, T]):
    """A mapping of the ``limit`` keys that were set last."""

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


class Refusals:
    """Counts what was refused, so that a flood of it does not fill the audit."""

    def __init__(self) -> None:
        self._seen: Latest[Hashable, tuple[float, int]] = Latest(MAX_RECENT)
        self._lock = Lock()

    def count(self, key: Hashable) -> int | None:
        """The refusals of this kind within a minute, with this one; None: this one is not to be audited. The first
        `REFUSALS` are, then each time that they have doubled."""
        at = time.monotonic()
        with self._lock:
            began, count = self._seen.get(key, (at, 0))
            if at - began >= _MINUTE:
                began, count = at, 0
            count += 1
            self._seen[key] = (began, count)
        doubled = count // REFUSALS
        return count if count <= REFUSALS or (count % REFUSALS == 0 and doubled & (doubled - 1) == 0) else None


class RecentReruns:
    """Tasks that were just rerun, by id and customer: the record does not have their reruns yet."""

    def __init__(self) -> None:
        self._at: Latest[Identity, float] = Latest(MAX_RECENT)
        self._lock = Lock()

    def __contains__(self, task: Identity) -> bool:
        at = self._at.get(task)
        return at is not None and time.monotonic() - at < SENT_SECONDS

    def add(self, task: Identity) -> bool:
        """Note that the task is being rerun; False: it was noted before."""
        with self._lock:
            if task in self:
                return False
            self._at[task] = time.monotonic()
            return True

    def discard(self, task: Identity) -> None:
        """Forget a rerun that was not sent after all."""
        with self._lock:
            self._at.pop(task, None)


class SingleFlightCache(Generic[T]):
    """A value that takes long to make. One thread makes it; meanwhile others get the previous value, or where there is
    none, wait for it."""

    def __init__(self) -> None:
        self._made: Future[T] | None = None
        self._until = 0.0
        self._lock = Lock()

    def get(self, make: Callable[[], T], seconds: float) -> T:
        """The value that ``make`` returned at most ``seconds`` ago; an older one while it is made anew. What ``make``
        raises is raised in its caller and in all that wait for it, not in later calls."""
        mine: Future[T] = Future()
        with self._lock:
            made = self._made or mine
            is_mine = made is mine or time.monotonic() >= self._until
            if is_mine:
                self._made, self._until = made, math.inf  # no other thread makes it meanwhile
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
