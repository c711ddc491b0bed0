"""Forks: objects start over in a forked child, and no fork happens in the middle of an import or of locking a file."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class _Forked(Protocol):
    def after_fork_in_child(self) -> None:
        """Start over in the child: give up what belongs to the parent (descriptors, locks, threads)."""


_resettable: weakref.WeakSet[_Forked] = weakref.WeakSet()


def reset_in_children(target: _Forked) -> None:
    """Call ``target.after_fork_in_child`` in every child that this process forks, for as long as ``target`` lives."""
    _resettable.add(target)


def _after_fork_in_child() -> None:
    for target in list(_resettable):
        target.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)


FORK_SECONDS = 5.0
"""How long a fork waits for an import or a lock in another thread: many times what either takes."""


class _Undivided:
    """A context manager: code in its block is over, or has not begun, when another thread forks."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._forking = _Forking()
        os.register_at_fork(before=self._wait, after_in_parent=self._go_on, after_in_child=self._renew)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            yield

    def _wait(self) -> None:
        self._forking.holds = self._lock.acquire(timeout=FORK_SECONDS)

    def _go_on(self) -> None:
        if self._forking.holds:
            self._lock.release()

    def _renew(self) -> None:
        self._lock = threading.RLock()  # the thread that held the old one is not in the child


class _Forking(threading.local):
    """Whether the thread that forks holds the lock."""

    holds = False


importing = _Undivided()
"""Around imports in a thread. A child would have the modules half made, with locks that nobody releases: at a fork,
CPython takes care of its import lock, but not of the locks of the modules."""
locking = _Undivided()
"""Around locking a file, until it is closed again or its descriptor is kept where `reset_in_children` finds it: a lock
is held for as long as any child has a copy. Never around what takes long, for tasks wait here."""
