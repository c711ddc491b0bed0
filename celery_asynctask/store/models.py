"""The tables, mapped: `AsyncTask`, its attempts, and the sources that wrote them. SQLAlchemy 2 declarative models.

Import them for your own queries; nothing but `store` and `operations` writes to their `tables`. Every time is aware and
UTC, with microseconds.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, column_property

from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.store import tables


class Base(DeclarativeBase):
    """Declarative base of our tables; ``Base.metadata`` is what a project's own Alembic can compare against."""

    metadata = tables.metadata


class AsyncTask(Base):
    """One Celery execution: everything that happened under one task id. What each column means: `core.columns.TASK`."""

    __table__ = tables.async_task
    __tablename__ = __table__.name

    id: Mapped[int]
    created_by_name: Mapped[str | None]
    name: Mapped[str]
    created_at: Mapped[dt.datetime]
    status: Mapped[AsyncTaskStatus]
    error_message: Mapped[str | None]
    error_type: Mapped[str | None]
    retries: Mapped[int]
    completed_at: Mapped[dt.datetime | None]
    started_at: Mapped[dt.datetime | None]
    celery_task_id: Mapped[str]
    root_task_id: Mapped[str | None]
    parent_task_id: Mapped[str | None]
    trace_id: Mapped[str | None]
    span_id: Mapped[str | None]
    task_args: Mapped[Any]
    task_kwargs: Mapped[Any]
    result: Mapped[Any]
    content: Mapped[Any]
    customer: Mapped[int | None]
    created_by: Mapped[int | None]
    origin_key: Mapped[str]
    order_key: Mapped[str]
    trace_key: Mapped[str]
    content_key: Mapped[str]

    def __repr__(self) -> str:
        return f"<AsyncTask {self.celery_task_id} {self.name} {self.status}>"


class AsyncTaskAttempt(Base):
    """One run of a task's body: the first, a retry, a redelivery or a replacement. What each column means:
    `core.columns.ATTEMPT`."""

    __table__ = tables.async_task_attempt
    __tablename__ = __table__.name

    id: Mapped[int]
    celery_task_id: Mapped[str]
    run_key: Mapped[str]
    name: Mapped[str]
    retries: Mapped[int]
    redelivered: Mapped[bool]
    published_at: Mapped[dt.datetime | None]
    received_at: Mapped[dt.datetime | None]
    eta: Mapped[dt.datetime | None]
    started_at: Mapped[dt.datetime | None]
    ended_at: Mapped[dt.datetime | None]
    outcome: Mapped[str | None]
    error_type: Mapped[str | None]
    error_message: Mapped[str | None]
    traceback: Mapped[str | None]
    worker: Mapped[str | None]
    pid: Mapped[int | None]
    source: Mapped[str | None]
    queue: Mapped[str | None]
    trace_id: Mapped[str | None]
    span_id: Mapped[str | None]
    end_key: Mapped[str]

    if TYPE_CHECKING:
        attempt: Mapped[int]
        """1-based ordinal of the run inside its task. No column: counted when read, for a number stored once would be
        wrong as soon as an earlier run is stored later."""

    def __repr__(self) -> str:
        return f"<AsyncTaskAttempt {self.celery_task_id} {self.run_key} {self.outcome}>"


_earlier = aliased(AsyncTaskAttempt)
AsyncTaskAttempt.attempt = column_property(
    select(func.count())
    .where(_earlier.celery_task_id == AsyncTaskAttempt.celery_task_id, _earlier.run_key <= AsyncTaskAttempt.run_key)
    .scalar_subquery()
)


class AsyncTaskSource(Base):
    """One process that wrote a journal: how far its events are stored, and what became of them."""

    __table__ = tables.async_task_source
    __tablename__ = __table__.name

    source: Mapped[str]
    """Start time, pid and a random part."""
    host: Mapped[str]
    """Host name."""
    pid: Mapped[int]
    """Process id on that host."""
    role: Mapped[str]
    """What the process was: producer, worker or child."""
    started_at: Mapped[dt.datetime]
    """When it wrote its first event."""
    journal: Mapped[str]
    """Which journal directory it writes to: the directory's own id."""
    last_seen_at: Mapped[dt.datetime]
    """When it was last seen alive, or its events were stored, by the recorder's clock."""
    ended_at: Mapped[dt.datetime | None]
    """When it was found gone with nothing left to store, by the recorder's clock; null: it lives, or nobody knows."""
    segment: Mapped[int]
    """Number of the segment that is stored up to ``position``; earlier ones are stored whole."""
    position: Mapped[int]
    """High-water mark: bytes of that segment that are stored. A replay below it is a no-op."""
    last_number: Mapped[int]
    """Number of the last event seen, counted from 1: as many as are stored and quarantined, or some are missing. With
    those that were dropped, which have no number: how many the process accepted."""
    stored: Mapped[int]
    """Events that are in the tables."""
    quarantined: Mapped[int]
    """Events or damaged frames put aside in the journal directory because they cannot be stored."""
    dropped: Mapped[Any]
    """Events the process could not write to its journal, counted by reason; null: none."""
