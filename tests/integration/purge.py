"""Tasks that have ended, a purge of them, and the rows that it leaves."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import func, select, update

from celery_asynctask.operations import retention
from celery_asynctask.operations.purge import Purge
from celery_asynctask.operations.session import Writer
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt
from tests.histories import HISTORIES, START, about, lines, variant

OVER = dt.datetime.fromtimestamp(START / 1e6, dt.timezone.utc)
"""The approximate time at which every history ends."""
NOW = OVER + dt.timedelta(days=365)
DAY = dt.timedelta(days=1)


def record(store: Store, history: str, *ids: str, over: dt.datetime | None = None, **columns: Any) -> None:
    """Store the history of these tasks, with ``over`` as the time of their end and with these values of columns."""
    whose = {name: columns.pop(name) for name in ("customer", "customer_key") if name in columns}
    whose = {name: key for name, key in whose.items() if key is not None}
    store.write(lines(variant(event, **whose) for one in ids for event in about(HISTORIES[history](), one)))
    if over is not None:
        columns |= {"completed_at": over}
    if columns:
        with store.engine.begin() as connection:
            connection.execute(update(AsyncTask).where(AsyncTask.celery_task_id.in_(ids)).values(columns))


def left(store: Store) -> set[str]:
    with store.engine.connect() as connection:
        return set(connection.scalars(select(AsyncTask.celery_task_id)))


def count(store: Store, model: Any) -> int:
    with store.engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(model)) or 0


def without_task(store: Store) -> set[str]:
    with store.engine.connect() as connection:
        return set(connection.scalars(select(AsyncTaskAttempt.celery_task_id))) - left(store)


def without_attempts(store: Store) -> set[str]:
    with store.engine.connect() as connection:
        return left(store) - set(connection.scalars(select(AsyncTaskAttempt.celery_task_id)))


def nothing(_count: int) -> None:
    """A callback for progress that does nothing."""


def work(writer: Writer, rules: dict[str, str | None], **options: Any) -> Purge:
    return Purge(writer, retention.configured(rules, NOW), NOW, **options)
