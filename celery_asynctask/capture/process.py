"""What this process is to Celery."""

from __future__ import annotations

import os

from billiard import process as billiard_process

_worker_pid = 0


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
