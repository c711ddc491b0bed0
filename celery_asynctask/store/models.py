"""The tables, mapped: `AsyncTask`, its attempts, and the sources that wrote them. SQLAlchemy 2 declarative models.

Import them for your own queries; nothing but `store` writes to their `tables`. Every time is aware and UTC, with
microseconds.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, column_property

from celery_asynctask.core.fold import AsyncTaskStatus
from celery_asynctask.store import tables


class Base(DeclarativeBase):
    """Declarative base of our tables; ``Base.metadata`` is what a project's own Alembic can compare against."""

    metadata = tables.metadata


class AsyncTask(Base):
    """One Celery execution: everything that happened under one task id."""

    __table__ = tables.async_task
    __tablename__ = __table__.name

    id: Mapped[int]
    """Our own number, in the order of recording."""
    created_by_name: Mapped[str | None]
    """Name of who asked for the task, as it was then; null: not given."""
    name: Mapped[str]
    """Name of the task that was asked for (a replacement's own name is on its attempts)."""
    created_at: Mapped[dt.datetime]
    """When it was first asked for; where the producer is not recorded, when a worker first saw it."""
    status: Mapped[AsyncTaskStatus]
    """Where it stands; see `AsyncTaskStatus`."""
    error_message: Mapped[str | None]
    """Text of the exception of the latest run, at most 4,000 characters; null: no error."""
    error_type: Mapped[str | None]
    """Exception class name; null: no error."""
    retries: Mapped[int]
    """Number of retry attempts: Celery's count on the latest message, 0 for a first run."""
    completed_at: Mapped[dt.datetime | None]
    """When it reached its terminal status; null exactly while the status is not terminal."""
    started_at: Mapped[dt.datetime | None]
    """When task execution started: the first run's; null: the body never ran."""
    celery_task_id: Mapped[str]
    """Celery task UUID from ``self.request.id``."""
    root_task_id: Mapped[str | None]
    """Root task ID in the workflow chain, its own for a root; null: not known (message protocol 1, a chord's body
    before it is sent)."""
    parent_task_id: Mapped[str | None]
    """Parent task ID if chained or sent from a task, never its own; null: none, or not known yet."""
    trace_id: Mapped[str | None]
    """APM distributed trace ID, 32 hex digits: the latest run's, before that the producer's; null: no trace."""
    span_id: Mapped[str | None]
    """APM span ID, 16 hex digits: the span in which the latest run's body ran; null: not run yet, or no span."""
    task_args: Mapped[Any]
    """Task positional arguments; null: left out or not known."""
    task_kwargs: Mapped[Any]
    """Task keyword arguments; null: left out or not known."""
    result: Mapped[Any]
    """Task execution result; null: None was returned, left out, or no success."""
    content: Mapped[Any]
    """Free content: given with the task, then what the running task makes of it; null: none."""
    customer: Mapped[int | None]
    """For which customer; null: not given."""
    created_by: Mapped[int | None]
    """Who asked for it; null: not given."""
    origin_key: Mapped[str]
    """Of the fold: which event the asked-for columns come from; a smaller one replaces them."""
    order_key: Mapped[str]
    """Of the fold: which event the status, error, result and retries come from; a larger one replaces them."""
    trace_key: Mapped[str]
    """Of the fold: which event the trace and span come from; empty: none."""
    content_key: Mapped[str]
    """Of the fold: which event the content comes from; empty: none."""

    def __repr__(self) -> str:
        return f"<AsyncTask {self.celery_task_id} {self.name} {self.status}>"


class AsyncTaskAttempt(Base):
    """One run of a task's body: the first, a retry, a redelivery or a replacement."""

    __table__ = tables.async_task_attempt
    __tablename__ = __table__.name

    id: Mapped[int]
    """Our own number."""
    celery_task_id: Mapped[str]
    """The task; not a foreign key, for an attempt may be stored before its task."""
    run_key: Mapped[str]
    """Names the run inside its task and sorts the runs."""
    name: Mapped[str]
    """Name of the task that ran."""
    retries: Mapped[int]
    """Celery's 0-based retry count of its message."""
    redelivered: Mapped[bool]
    """Whether the broker had delivered the message before."""
    published_at: Mapped[dt.datetime | None]
    """When this run's message was sent; null: the producer is not recorded."""
    received_at: Mapped[dt.datetime | None]
    """When the worker took the message from the broker; null: run eagerly."""
    eta: Mapped[dt.datetime | None]
    """Not to be run before; null: at once."""
    started_at: Mapped[dt.datetime | None]
    """When the body started; null: its process was gone before it could say."""
    ended_at: Mapped[dt.datetime | None]
    """When the run ended; null: it runs, or nobody saw its end."""
    outcome: Mapped[str | None]
    """How it ended: succeeded, failed, retried, ignored, replaced, rejected, requeued, revoked, terminated, lost;
    null as for ``ended_at``."""
    error_type: Mapped[str | None]
    """Exception class name; null: no error."""
    error_message: Mapped[str | None]
    """Text of the exception, at most 4,000 characters; null: no error."""
    traceback: Mapped[str | None]
    """Python traceback, its last 20,000 characters; null: no error, or none known."""
    worker: Mapped[str | None]
    """Node name of the worker; null: not known."""
    pid: Mapped[int | None]
    """Process that ran the body; null: not known."""
    source: Mapped[str | None]
    """The journal's name for that process, the key of its `AsyncTaskSource`; null: not known."""
    queue: Mapped[str | None]
    """Routing key the message came with; null: run eagerly."""
    trace_id: Mapped[str | None]
    """Trace ID of the run; null: no trace."""
    span_id: Mapped[str | None]
    """Span ID of the run; null: no span."""
    end_key: Mapped[str]
    """Of the fold: which event says how it ended; empty: none yet."""

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


class AsyncTaskRevision(Base):
    """How often the store was changed, so that who has seen it all learns by one read that there is nothing new."""

    __table__ = tables.async_task_revision
    __tablename__ = __table__.name

    id: Mapped[int]
    """1: there is one row."""
    revision: Mapped[int]
    """One more for each transaction that may have changed rows of the other tables. Begins at the time when the tables
    were made, in microseconds since 1970."""


class AsyncTaskVersion(Base):
    """Alembic's version table for our migrations; written with the tables where the recorder creates them."""

    __table__ = tables.async_task_version
    __tablename__ = __table__.name

    version_num: Mapped[str]
    """Newest migration applied."""
