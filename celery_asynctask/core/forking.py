"""Forks: objects start over in a forked child, and no fork happens in the middle of an import or of locking a file.

`os.fork` tells of itself. What forks past Python, as uWSGI does, tells nobody: `notice_fork` finds out by the id of the
process.
"""

from __future__ import annotations

import os
import sys
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


_pid = os.getpid()
"""The process in which everything has started over, or in which it began."""
_noticing: dict[int, threading.RLock] = {}
"""The lock of each process in which a fork was noticed: a child's parent may hold its own one."""


def notice_fork() -> None:
    """Start over if this is a child that nobody has told of its fork. To be called before anything is used that belongs
    to one process; costs a system call."""
    if (pid := os.getpid()) != _pid:
        with _noticing.setdefault(pid, threading.RLock()):
            if pid != _pid:  # no other thread of this process was faster
                _start_over()


def _start_over() -> None:
    global _pid  # noqa: PLW0603 - as global as the process
    for lock in _undivided:
        lock.renew()
    for target in list(_resettable):
        target.after_fork_in_child()
    _pid = os.getpid()  # at last: until now, other threads wait in `notice_fork`


os.register_at_fork(after_in_child=_start_over)


def forks_later() -> bool:
    """Whether this process is uWSGI's and loads an application, to fork its workers afterwards or become one.

    Nothing may start a thread in it. It forks without waiting for any: a child that was forked while another thread had
    the interpreter's lock, or waited for it, stands still for ever.
    """
    uwsgi = sys.modules.get("uwsgi")  # it puts this module there itself
    try:
        return uwsgi is not None and not uwsgi.worker_id() and not uwsgi.mule_id()
    except AttributeError:  # another module of this name
        return False


FORK_SECONDS = 5.0
"""How long a fork waits for an import or a lock in another thread: many times what either takes."""


class Undivided:
    """A context manager: code in its block is over, or has not begun, when another thread forks. One thread at a time
    is in it. For modules to have: none ever ends."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._forking = _Forking()
        _undivided.append(self)
        os.register_at_fork(before=self._wait, after_in_parent=self._go_on)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        notice_fork()
        with self._lock:
            yield

    def renew(self) -> None:
        """Forget, in a child, who holds it: that thread may not be there."""
        self._lock = threading.RLock()

    def _wait(self) -> None:
        self._forking.holds = self._lock.acquire(timeout=FORK_SECONDS)

    def _go_on(self) -> None:
        if self._forking.holds:
            self._lock.release()


class _Forking(threading.local):
    """Whether the thread that forks holds the lock."""

    holds = False


_undivided: list[Undivided] = []
importing = Undivided()
"""Around imports in a thread. A child would have the modules half made, with locks that nobody releases: at a fork,
CPython takes care of its import lock, but not of the locks of the modules."""
locking = Undivided()
"""Around locking a file, until it is closed again or its descriptor is kept where `reset_in_children` finds it: a lock
is held for as long as any child has a copy. Never around what takes long, for tasks wait here."""
