"""What this process is, and starting over in a forked child."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
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


_imports = threading.RLock()
IMPORT_SECONDS = 5.0
"""How long a fork waits for imports to end: many times what they take."""


@contextmanager
def importing() -> Iterator[None]:
    """Import modules in a thread, with no fork meanwhile: the child would have them half made, with locks that nobody
    releases (CPython looks after its import lock at a fork, not after those of the modules)."""
    with _imports:
        yield


class _Forking(threading.local):
    """Whether the thread that forks holds `_imports`."""

    holds = False


_forking = _Forking()


def _before_fork() -> None:
    _forking.holds = _imports.acquire(timeout=IMPORT_SECONDS)


def _after_fork_in_parent() -> None:
    if _forking.holds:
        _imports.release()


def _renew_in_child() -> None:
    global _imports  # noqa: PLW0603 - whoever held it is not here
    _imports = threading.RLock()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_renew_in_child)


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
