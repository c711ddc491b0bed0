"""The tables, and everything a recorder writes to them. Besides the recorder, only `operations` changes them."""

from __future__ import annotations

from celery_asynctask.store.liveness import HeldTask, Open, OpenAttempt
from celery_asynctask.store.store import Position, SourceUpdate, Store, is_outage

__all__ = ["HeldTask", "Open", "OpenAttempt", "Position", "SourceUpdate", "Store", "is_outage"]
