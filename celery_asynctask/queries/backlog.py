"""How many tasks have not ended, or are lost, by status: from an index, and counted up to `MOST_COUNTED` of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import func, literal, select, union_all
from sqlalchemy.orm import Session

from celery_asynctask.core.status import TERMINAL, AsyncTaskStatus
from celery_asynctask.queries.reader import Reader
from celery_asynctask.store.models import AsyncTask

MOST_COUNTED: Final = 10_000
"""Tasks of one status; where there are so many, there may be more."""
COUNTED: Final = (*(status for status in AsyncTaskStatus if status not in TERMINAL), AsyncTaskStatus.LOST)


def standing(reader: Reader, session: Session, *, most: int = MOST_COUNTED) -> Mapping[AsyncTaskStatus, int]:
    """How many tasks of each status in `COUNTED` there are, ``most`` at most."""
    each = []
    for status in COUNTED:
        one = reader.seen(select(AsyncTask.status)).where(AsyncTask.status == status).limit(most).subquery()
        each.append(select(literal(status.value).label("status"), func.count().label("tasks")).select_from(one))
    found = {row.status: row.tasks for row in session.execute(union_all(*each))}
    return {status: int(found[status.value]) for status in COUNTED}


def is_empty(reader: Reader, session: Session) -> bool:
    """Whether there is no task at all."""
    return session.execute(reader.seen(select(AsyncTask.id)).limit(1)).first() is None
