"""How much one caller may ask of a server process: the rate of actions, and a share of the threads and waiting places,
so that no caller keeps others from being answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from math import ceil
from threading import Lock
from typing import Final, NamedTuple

from anyio import Semaphore

from celery_asynctask.web.memory import Latest
from celery_asynctask.web.problem import ProblemError

_MAX_KEPT: Final = 10_000
"""Callers whose rates are remembered, those who acted last."""


class Rate(NamedTuple):
    """How often a caller may do something."""

    what: str
    """In the plural."""
    per_minute: int
    burst: int
    """How often at once, after a while without any."""


RERUNS: Final = Rate("reruns", 60, 30)
FILES: Final = Rate("files of tasks", 10, 10)
PURGES: Final = Rate("purges", 30, 30)
SIGN_INS: Final = Rate("sign-ins", 60, 60)
"""With one token, from one address. Each has an entry in the audit."""


class Rates:
    """The rates of all callers; used by many threads. What is kept of a rate is when its burst will be whole again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._whole_at: Latest[Hashable, float] = Latest(_MAX_KEPT)
        self._lock = Lock()

    def take(self, rate: Rate, caller: Hashable) -> None:
        """Count one. Raises `ProblemError`, and counts nothing, if the caller must wait."""
        each = 60 / rate.per_minute
        key = (rate, caller)
        with self._lock:
            now = self._clock()
            whole_at = max(self._whole_at.get(key, now), now) + each
            wait = whole_at - now - rate.burst * each
            if wait <= 0:
                self._whole_at[key] = whole_at
                return
        seconds = ceil(wait)
        detail = f"At most {rate.per_minute} {rate.what} a minute. Try again in {seconds} s."
        raise ProblemError("too-many-requests", 429, detail, headers={"Retry-After": str(seconds)})


class Shares:
    """The share of each caller in the threads of a server; used by one event loop. A caller has at most ``threads`` of
    them at a time, and ``waiting`` requests behind these."""

    def __init__(self, threads: int, waiting: int) -> None:
        self._threads = threads
        self._waiting = waiting
        self._of: dict[Hashable, _Share] = {}

    @contextmanager
    def of(self, caller: Hashable) -> Iterator[Semaphore]:
        """What a request must hold while it has a thread. Raises `ProblemError` if too many of its caller's wait."""
        share = self._of.get(caller) or _Share(self._threads)
        if share.requests >= self._threads + self._waiting:
            detail = f"{self._waiting} of your requests wait for the database already. Send fewer requests at a time."
            raise ProblemError("too-many-requests", 429, detail, headers={"Retry-After": "1"})
        share.requests += 1
        self._of[caller] = share
        try:
            yield share.turn
        finally:
            share.requests -= 1
            if not share.requests:
                del self._of[caller]


class _Share:
    """The requests of one caller."""

    def __init__(self, threads: int) -> None:
        self.requests = 0
        self.turn = Semaphore(threads)
