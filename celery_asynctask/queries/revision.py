"""How often the store was changed."""

from __future__ import annotations

from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from celery_asynctask.store.models import AsyncTaskRevision


def revision(session: Session | Connection) -> int | None:
    """A number that is greater after every transaction that changed rows; what was read in the same session is of that
    state. None: somebody emptied the table, and nobody counts."""
    found: int | None = session.scalar(select(AsyncTaskRevision.revision).where(AsyncTaskRevision.id == 1))
    return found
