"""From the journal into the store.

Every process that records, but the children of a prefork pool, runs a recorder's thread. All of a node that share a
journal directory elect one by a lock on a file in it: that one drains the directory, and tells which processes are
gone. When it ends, the kernel gives the lock to another.
"""

from __future__ import annotations

from celery_asynctask.recorder.recorder import Recorder

__all__ = ["Recorder"]
