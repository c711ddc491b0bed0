"""The tables, and everything a recorder writes to them. Besides the recorder, only `operations` changes them."""

from __future__ import annotations

from celery_asynctask.store.connection import is_busy, is_full
from celery_asynctask.store.ledger import Moved, Position, SourceUpdate
from celery_asynctask.store.liveness import HeldTask, Open, OpenAttempt
from celery_asynctask.store.store import Store

__all__ = [
    "HeldTask",
    "Moved",
    "Open",
    "OpenAttempt",
    "Position",
    "SourceUpdate",
    "Store",
    "is_busy",
    "is_full",
]
