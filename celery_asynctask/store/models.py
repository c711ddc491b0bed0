"""SQLAlchemy 2 declarative models of the tables: `AsyncTask`, its attempts, and the processes that wrote the journals.

Import them for your own queries, and only read: the recorder and our commands write to these tables. Every time is an
aware `datetime` in UTC, to the microsecond. A JSON column (``Any``) is a dict, list, str, int, float, bool or None.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, column_property

from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.store import tables


class Base(DeclarativeBase):
    """Declarative base of our tables. A project's own Alembic can compare its database with ``Base.metadata``."""

    metadata = tables.metadata


class AsyncTask(Base):
    """One Celery execution: a row for everything that happened under one task id, however often it was retried. An id
    that a sender uses again is another execution, and the row is that of the newest; each customer has its own row.

    The table is ``async_task``; ``celery_task_id`` and ``customer_key`` are unique together. `core.columns.TASK`
    documents each column, its source and the meaning of null; so does ``AsyncTask.<column>.doc``. The columns
    ``origin_key``, ``order_key``, ``trace_key`` and ``content_key`` belong to the recorder.
    """

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
    customer_key: Mapped[str]
    created_by_key: Mapped[str | None]
    holder: Mapped[str | None]

    def __repr__(self) -> str:
        return f"<AsyncTask {self.celery_task_id} {self.name} {self.status}>"


class AsyncTaskAttempt(Base):
    """One attempt: one run of a task's body, whether the first, a retry, a redelivery or a replacement.

    The table is ``async_task_attempt``; ``celery_task_id``, ``customer_key`` and ``run_key`` are unique together. An
    attempt may be stored before its task, so there is no foreign key. `core.columns.ATTEMPT` documents each column.
    """

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
    customer_key: Mapped[str]

    if TYPE_CHECKING:
        attempt: Mapped[int]
        """Number of the attempt within its task, from 1. It is counted on reading, not stored: a stored number would be
        wrong as soon as an earlier attempt arrives late."""

    def __repr__(self) -> str:
        return f"<AsyncTaskAttempt {self.celery_task_id} {self.run_key} {self.outcome}>"


_earlier = aliased(AsyncTaskAttempt)
AsyncTaskAttempt.attempt = column_property(
    select(func.count())
    .where(
        _earlier.celery_task_id == AsyncTaskAttempt.celery_task_id,
        _earlier.customer_key == AsyncTaskAttempt.customer_key,
        _earlier.run_key <= AsyncTaskAttempt.run_key,
    )
    .scalar_subquery()
)


class AsyncTaskSource(Base):
    """One process that wrote a journal: how far its events are stored, and what happened to all of them.

    The table is ``async_task_source``. ``last_number - stored - quarantined`` events are missing.
    """

    __table__ = tables.async_task_source
    __tablename__ = __table__.name

    source: Mapped[str]
    """The journal's name for the process: its start time, its pid and a random part."""
    host: Mapped[str]
    """Host name."""
    pid: Mapped[int]
    """Process id on that host."""
    role: Mapped[str]
    """Role of the process: producer, worker or child."""
    started_at: Mapped[dt.datetime]
    """When it wrote its first event."""
    journal: Mapped[str]
    """Id of the journal directory that it writes to."""
    last_seen_at: Mapped[dt.datetime]
    """When it was last seen alive or had events stored, by the recorder's clock."""
    ended_at: Mapped[dt.datetime | None]
    """When it was found gone with nothing left to store, by the recorder's clock; null: alive, or not known."""
    segment: Mapped[int]
    """Number of the segment that is stored up to ``position``; earlier segments are stored completely."""
    position: Mapped[int]
    """High-water mark: bytes of that segment that are stored. Replaying what lies below it changes nothing."""
    last_number: Mapped[int]
    """Number of the last event that was read, counted from 1. It equals ``stored + quarantined`` unless events are
    missing. Dropped events have no number; together with them, it is the number of events that the process accepted."""
    stored: Mapped[int]
    """Number of events that are in the tables."""
    quarantined: Mapped[int]
    """Number of events and damaged frames set aside in the journal directory because they cannot be stored."""
    dropped: Mapped[Any]
    """Events that the process could not write to its journal: a dict of counts by reason; null: none."""
    numbered: Mapped[int | None]
    """Number of the last event that it had accepted when it was last seen, from its control page; null: not known."""
    settled_at: Mapped[dt.datetime | None]
    """When the recorder of its own journal directory had found it gone and accounted for all of its events; null: it
    lives, or nobody knows what it did last."""
    given_up_at: Mapped[dt.datetime | None]
    """When a person accepted that nobody will know what it did last (``verify --accept``)."""
