"""The only writer of the tables."""

from __future__ import annotations

from celery_asynctask.store.liveness import OpenAttempt
from celery_asynctask.store.store import Position, SourceUpdate, Store, is_outage

__all__ = ["OpenAttempt", "Position", "SourceUpdate", "Store", "is_outage"]
