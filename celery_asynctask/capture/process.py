"""What this process is to Celery."""

from __future__ import annotations

import os

from celery_asynctask.capture.celery_private import is_pool_child

__all__ = ["become_worker", "is_pool_child", "role"]

_worker_pid = 0


def become_worker() -> None:
    """Note that this process is a worker's main process."""
    global _worker_pid  # noqa: PLW0603 - a process is one thing
    _worker_pid = os.getpid()


def role() -> str:
    """child (of a prefork pool), worker (main process) or producer (anything else)."""
    if is_pool_child():
        return "child"
    return "worker" if _worker_pid == os.getpid() else "producer"
