"""The recorder moves events from the journal into the store.

Every process that records runs a recorder in a thread; a child of a prefork pool only where there is no usable journal
directory, to store what it keeps in memory. The recorders of a node that share a directory elect one of them, by a lock
on a file in it: that one drains the directory, and records which processes are gone. When it ends, another gets the
lock.
"""

from __future__ import annotations

from celery_asynctask.recorder.recorder import Recorder

__all__ = ["Recorder"]
