"""What this process is, and starting over in a forked child."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

from billiard import process as billiard_process


class _Forked(Protocol):
    def after_fork_in_child(self) -> None:
        """Be a new process's: give up what belongs to the parent (descriptors, locks, threads)."""


_resettable: weakref.WeakSet[_Forked] = weakref.WeakSet()
_worker_pid = 0


def reset_in_children(what: _Forked) -> None:
    """Call ``what.after_fork_in_child`` in every child that this process forks, for as long as it lives."""
    _resettable.add(what)


def _after_fork_in_child() -> None:
    for what in list(_resettable):
        what.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)


def is_pool_child() -> bool:
    """Whether this is a child of a Celery worker's prefork pool (or another billiard process)."""
    return billiard_process.current_process()._parent_pid is not None


def become_worker() -> None:
    """Note that this process is a worker's main process."""
    global _worker_pid  # noqa: PLW0603 - a process is one thing
    _worker_pid = os.getpid()


def role() -> str:
    """child (of a prefork pool), worker (main process) or producer (anything else)."""
    if is_pool_child():
        return "child"
    return "worker" if _worker_pid == os.getpid() else "producer"
