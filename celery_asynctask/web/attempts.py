"""Failed sign-ins: each is answered later than the one before, and the audit has them. Nobody is locked out: valid
credentials are never delayed."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

import anyio

from celery_asynctask.operations.audit import Action, Entry, Outcome
from celery_asynctask.web.memory import Latest
from celery_asynctask.web.origin import share
from celery_asynctask.web.problem import ProblemError

FREE: Final = 5
"""Failures in a row that are not delayed."""
FORGET_SECONDS: Final = 60.0
"""After as long without a failure, counting begins again."""
FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 5.0
MAX_DELAYED: Final = 20
"""Requests that wait at the same time, each with a connection that others could use. Further ones are answered at once,
with 429."""
MAX_COUNTED: Final = 10_000
"""Addresses and names that are counted, the latest ones."""
ENTRY_SECONDS: Final = 60.0
"""For as long, further failures of an address are counted in one entry."""
MAX_ENTRIES: Final = 60
"""Entries within `ENTRY_SECONDS`, of all addresses."""
UNKNOWN: Final = "(unknown)"
"""The actor where no name is known."""

Clock = Callable[[], float]


class Delays:
    """How long an answer to a failure is delayed, by what the failures have in common."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._counts: Latest[str, tuple[int, float]] = Latest(MAX_COUNTED)

    def failed(self, *keys: str) -> float:
        """Count a failure with these keys. Returns seconds."""
        now = self._clock()
        most = 0
        for key in keys:
            count, at = self._counts.get(key, (0, now))
            count = count + 1 if now - at < FORGET_SECONDS else 1
            self._counts[key] = (count, now)
            most = max(most, count)
        return min(FIRST_DELAY * 2 ** min(most - FREE - 1, 10), LONGEST_DELAY) if most > FREE else 0.0


class _Counted(NamedTuple):
    """Failures of an address that no entry has yet."""

    until: float
    """When they get one."""
    number: int
    actor: str
    origin: str
    why: str


class Entries:
    """Entries about failures for the audit: of each address the first one at once, then one a minute with the number of
    those since. What is counted is handed over with the next failure of anybody, or at the end."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._counted: OrderedDict[str, _Counted] = OrderedDict()
        self._others = 0
        """Failures beyond `MAX_ENTRIES` and `MAX_COUNTED`."""
        self._made = 0
        self._since = clock()

    def failed(self, actor: str, origin: str, why: str) -> list[Entry]:
        """Count a failure. Returns the entries that are due."""
        now = self._clock()
        made = self._due(now)
        key = share(origin)
        counted = self._counted.get(key)
        if counted is not None:
            self._counted[key] = counted._replace(number=counted.number + 1)
            return made
        if len(self._counted) >= MAX_COUNTED:
            self._others += self._counted.popitem(last=False)[1].number
        first = _Counted(now + ENTRY_SECONDS, 1, actor, origin, why)
        self._counted[key] = first._replace(number=0)
        return [*made, *self._entry(first)]

    def rest(self) -> list[Entry]:
        """The entries of all that is counted."""
        counted = [one for one in self._counted.values() if one.number]
        self._counted.clear()
        self._others += sum(one.number for one in counted[MAX_ENTRIES:])
        return [*map(_entry, counted[:MAX_ENTRIES]), *self._of_others()]

    def _due(self, now: float) -> list[Entry]:
        made: list[Entry] = []
        if now - self._since >= ENTRY_SECONDS:
            self._since, self._made = now, 0
            made += self._of_others()
        while self._counted:
            key, counted = next(iter(self._counted.items()))
            if counted.until > now:
                break
            del self._counted[key]
            if counted.number:
                made += self._entry(counted)
        return made

    def _entry(self, counted: _Counted) -> list[Entry]:
        if self._made >= MAX_ENTRIES:
            self._others += counted.number
            return []
        self._made += 1
        return [_entry(counted)]

    def _of_others(self) -> list[Entry]:
        number, self._others = self._others, 0
        if not number:
            return []
        return [_entry(_Counted(0, number, UNKNOWN, "(other addresses)", "too many to have an entry each"))]


def _entry(counted: _Counted) -> Entry:
    detail = counted.why if counted.number == 1 else f"{counted.number:,} failed sign-ins: {counted.why}"
    return Entry(Action.SIGN_IN, counted.actor, counted.origin, outcome=Outcome.REFUSED, detail=detail)


class Attempts:
    """Failed sign-ins of one server process."""

    def __init__(self, write: Callable[[Entry], None], clock: Clock = time.monotonic) -> None:
        """``write`` stores an entry of the audit; it must not take long."""
        self._write = write
        self._delays = Delays(clock)
        self._entries = Entries(clock)
        self._delayed = 0

    async def failed(self, origin: str, why: str, name: str | None = None) -> None:
        """Wait after a failure from an address; ``name`` is the token's, where one is known. Raises `ProblemError`
        where too many wait already."""
        for entry in self._entries.failed(name or UNKNOWN, origin, why):
            self._write(entry)
        keys = [f"address {share(origin)}", *([] if name is None else [f"name {name}"])]
        seconds = self._delays.failed(*keys)
        if not seconds:
            return
        if self._delayed >= MAX_DELAYED:
            raise ProblemError(
                "too-many-requests",
                429,
                "Too many sign-ins failed. Check the token, and try again in a few seconds.",
                headers={"Retry-After": str(int(LONGEST_DELAY))},
            )
        self._delayed += 1
        try:
            await anyio.sleep(seconds)
        finally:
            self._delayed -= 1

    def close(self) -> None:
        """Hand over what was counted."""
        for entry in self._entries.rest():
            self._write(entry)
