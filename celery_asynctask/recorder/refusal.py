"""Refusals: a batch that a working database does not take, for its size, its time, or one of its events.

Nothing is known of the reason, so it is searched for by smaller batches. One of several processes is tried again
process by process, and those that can be stored go on as before. The batches of a process with a refused one are
halved, from the same position, until they pass or one event is left; each that passes is stored for good, so the search
makes headway. If all could be stored in smaller batches, it was their size: batches stay as small for a while.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Final

SMALL_SECONDS: Final = 300.0
"""How long batches stay small once a larger one was refused for its size."""
ALONE_SECONDS: Final = 60.0
"""How long a process is stored apart from the others after its last refused event."""

_ENOUGH: Final = 2**20


class Search:
    """The search for what the database refuses among the next events of one process."""

    def __init__(self, events: int) -> None:
        self.room = events
        """How many events the next batch may take."""
        self.worked = 0
        """Most events of a batch that was stored, if a larger one of this process was refused."""
        self.has_found = False
        self._left = events
        """How many events the search is about."""
        self._together = 0
        """How many of the next ones were refused together."""
        self._was_refused = False
        self._until = 0.0

    def refused(self, events: int) -> None:
        """A batch of the next ``events`` was refused."""
        self._was_refused = True
        self._left = max(self._left, events)
        self._together = events
        self.room = max(1, events // 2)

    def stored(self, events: int, poison: int) -> None:
        """A batch of the next ``events`` was stored, without its ``poison``."""
        self._left -= events
        self._together = max(0, self._together - events)
        if poison:
            self.has_found = True
            self._together = 0
            self._until = time.monotonic() + ALONE_SECONDS
        elif self._was_refused:
            self.worked = max(self.worked, events)
        self.room = max(1, self._together // 2) if self._together else min(_ENOUGH, self.room * 2)

    def has_nothing(self) -> None:
        """The process has nothing more to store."""
        self._left = 0

    @property
    def is_over(self) -> bool:
        return self._left <= 0 and time.monotonic() >= self._until


class Refusals:
    """How large batches may be, and which processes are stored alone."""

    def __init__(self) -> None:
        self._searches: dict[str, Search] = {}
        self._most = 0
        self._most_until = 0.0
        self._refused_together = 0
        """Events of a refused batch of several processes, while its reason is searched for."""

    def __iter__(self) -> Iterator[str]:
        """The processes that are stored alone."""
        return iter(list(self._searches))

    def __contains__(self, source: str) -> bool:
        return source in self._searches

    def room(self, most: int, source: str | None = None) -> int:
        """How many events a batch may take, of several processes or of one that is stored alone."""
        if time.monotonic() < self._most_until:
            most = min(most, self._most)
        return most if source is None else min(most, self._searches[source].room)

    def refused(self, events: Mapping[str, int]) -> None:
        """A batch was refused that had so many events of each of its processes."""
        if len(events) > 1:
            self._refused_together = sum(events.values())
            self._searches |= {source: Search(count) for source, count in events.items()}
        else:
            for source, count in events.items():
                self._searches.setdefault(source, Search(count)).refused(count)

    def stored(self, source: str, events: int, poison: int) -> None:
        """A batch of a process was stored, or it had nothing to store."""
        search = self._searches.get(source)
        if search is None:
            return
        if events:
            search.stored(events, poison)
        else:
            search.has_nothing()
        if search.has_found:
            self._refused_together = 0
        if not search.is_over:
            return
        del self._searches[source]
        if not search.has_found and search.worked:
            self._keep_small(search.worked)
        if not self._searches and self._refused_together:
            self._keep_small(self._refused_together // 2)

    def _keep_small(self, events: int) -> None:
        self._most = max(1, events)
        self._most_until = time.monotonic() + SMALL_SECONDS
        self._refused_together = 0
