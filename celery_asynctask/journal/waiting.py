"""The frames that wait in the memory of a process while it cannot write to its journal."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

KEPT_EVENTS = 10_000
"""Most events that wait."""
KEPT_BYTES = 16 * 1024 * 1024
"""Most bytes of these events; the last one may exceed it."""


class Waiting:
    """Frames in the order of their numbers. Not safe for threads."""

    def __init__(self) -> None:
        self.frames: deque[bytes] = deque()
        """To be read alone, by who asks for each event whether any waits."""
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.frames)

    def add(self, line: bytes) -> bool:
        """Let a frame wait. Returns False if there is no room for it."""
        if len(self.frames) >= KEPT_EVENTS or self._bytes >= KEPT_BYTES:
            return False
        self.frames.append(line)
        self._bytes += len(line)
        return True

    def first(self) -> bytes:
        """Take the first frame."""
        line = self.frames.popleft()
        self._bytes -= len(line)
        return line

    def give_back(self, lines: Iterable[bytes]) -> None:
        """Put frames that were taken before all others again."""
        for line in reversed(list(lines)):
            self.frames.appendleft(line)
            self._bytes += len(line)

    def take(self) -> list[bytes]:
        """Take all frames."""
        taken = list(self.frames)
        self.frames.clear()
        self._bytes = 0
        return taken
