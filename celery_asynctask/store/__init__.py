"""The tables, and what a recorder writes into them; `operations` alone changes them as well."""

from __future__ import annotations

from celery_asynctask.store.liveness import OpenAttempt
from celery_asynctask.store.store import Position, SourceUpdate, Store, is_outage

__all__ = ["OpenAttempt", "Position", "SourceUpdate", "Store", "is_outage"]
