"""The tables: `AsyncTask`, its attempts, and the sources that wrote them. SQLAlchemy 2 declarative models.

Import them for your own queries; nothing but `store` writes to them. Every time is aware and UTC, with microseconds.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Enum,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Text,
    UniqueConstraint,
    func,
    select,
    text,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, column_property, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

from celery_asynctask.lifecycle import TERMINAL, AsyncTaskStatus

SCHEMA_VERSION = "0001"
"""The migration that the models stand at; a test proves it equal to the newest in `migrations`."""
VERSION_TABLE = "async_task_version"
"""Alembic's version table for our migrations, apart from one that your own project may have."""

_MYSQL = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin", "mysql_engine": "InnoDB"}


class UTCDateTime(TypeDecorator[dt.datetime]):
    """An aware UTC time, also on databases whose times are naive (SQLite, MySQL)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        if value is None or dialect.name == "postgresql":
            return value
        return value.astimezone(dt.timezone.utc).replace(tzinfo=None)

    def process_result_value(self, value: dt.datetime | None, _dialect: Dialect) -> dt.datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=dt.timezone.utc) if value.tzinfo is None else value.astimezone(dt.timezone.utc)


class _TextJson(sqlite.JSON):
    """JSON in a column that SQLite calls TEXT. In one called JSON it takes a lone number for a number of its own, and
    rounds what has more than 64 bits."""


@compiles(_TextJson, "sqlite")
def _text_json(*_: Any, **__: Any) -> str:
    return "TEXT"


BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only what is called INTEGER
JsonValue = (
    JSON(none_as_null=True)
    .with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
    .with_variant(_TextJson(none_as_null=True), "sqlite")
)
LongText = Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
Key = String(64, collation="C").with_variant(String(64), "sqlite").with_variant(String(64), "mysql", "mariadb")
"""A fixed-width key of digits and lower-case letters, compared byte by byte."""
TaskId = String(255, collation="C").with_variant(String(255), "sqlite").with_variant(String(255), "mysql", "mariadb")
"""A task id, compared byte by byte, so that an index finds one by its beginning."""
Status = Enum(AsyncTaskStatus, native_enum=False, length=16, create_constraint=False)


class Base(DeclarativeBase):
    """Declarative base of our tables; ``Base.metadata`` is what a project's own Alembic can compare against."""

    metadata = MetaData()


_TERMINAL_SQL = ", ".join(f"'{status.value}'" for status in sorted(TERMINAL))


def _index_of_some(column: str, *more: str) -> Index:
    """For the rows that have the column: it costs nothing where it is null, but on MySQL."""
    is_there = text(f"{column} IS NOT NULL")
    return Index(f"ix_async_task_{column}", column, *more, postgresql_where=is_there, sqlite_where=is_there)


class AsyncTask(Base):
    """One Celery execution: everything that happened under one task id."""

    __tablename__ = "async_task"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    """Our own number, in the order of recording."""
    created_by_name: Mapped[str | None] = mapped_column(String(255))
    """Name of who asked for the task, as it was then; null: not given."""
    name: Mapped[str] = mapped_column(String(255))
    """Name of the task that was asked for (a replacement's own name is on its attempts)."""
    created_at: Mapped[dt.datetime] = mapped_column(UTCDateTime)
    """When it was first asked for; where the producer is not recorded, when a worker first saw it."""
    status: Mapped[AsyncTaskStatus] = mapped_column(Status)
    """Where it stands; see `AsyncTaskStatus`."""
    error_message: Mapped[str | None] = mapped_column(Text)
    """Text of the exception of the latest run, at most 4,000 characters; null: no error."""
    error_type: Mapped[str | None] = mapped_column(String(255))
    """Exception class name; null: no error."""
    retries: Mapped[int] = mapped_column(Integer)
    """Number of retry attempts: Celery's count on the latest message, 0 for a first run."""
    completed_at: Mapped[dt.datetime | None] = mapped_column(UTCDateTime)
    """When it reached its terminal status; null exactly while the status is not terminal."""
    started_at: Mapped[dt.datetime | None] = mapped_column(UTCDateTime)
    """When task execution started: the first run's; null: the body never ran."""
    celery_task_id: Mapped[str] = mapped_column(TaskId)
    """Celery task UUID from ``self.request.id``."""
    root_task_id: Mapped[str | None] = mapped_column(TaskId)
    """Root task ID in the workflow chain, its own for a root; null: not known (message protocol 1, a chord's body
    before it is sent)."""
    parent_task_id: Mapped[str | None] = mapped_column(TaskId)
    """Parent task ID if chained or sent from a task, never its own; null: none, or not known yet."""
    trace_id: Mapped[str | None] = mapped_column(String(32))
    """APM distributed trace ID, 32 hex digits: the latest run's, before that the producer's; null: no trace."""
    span_id: Mapped[str | None] = mapped_column(String(16))
    """APM span ID, 16 hex digits: the span in which the latest run's body ran; null: not run yet, or no span."""
    task_args: Mapped[Any] = mapped_column(JsonValue, nullable=True)
    """Task positional arguments; null: left out or not known."""
    task_kwargs: Mapped[Any] = mapped_column(JsonValue, nullable=True)
    """Task keyword arguments; null: left out or not known."""
    result: Mapped[Any] = mapped_column(JsonValue, nullable=True)
    """Task execution result; null: None was returned, left out, or no success."""
    content: Mapped[Any] = mapped_column(JsonValue, nullable=True)
    """Free content: given with the task, then what the running task makes of it; null: none."""
    customer: Mapped[int | None] = mapped_column(BigInteger)
    """For which customer; null: not given."""
    created_by: Mapped[int | None] = mapped_column(BigInteger)
    """Who asked for it; null: not given."""
    origin_key: Mapped[str] = mapped_column(Key)
    """Of the fold: which event the asked-for columns come from; a smaller one replaces them."""
    order_key: Mapped[str] = mapped_column(Key)
    """Of the fold: which event the status, error, result and retries come from; a larger one replaces them."""
    trace_key: Mapped[str] = mapped_column(Key)
    """Of the fold: which event the trace and span come from; empty: none."""
    content_key: Mapped[str] = mapped_column(Key)
    """Of the fold: which event the content comes from; empty: none."""

    __table_args__ = (
        UniqueConstraint("celery_task_id", name="uq_async_task_celery_task_id"),
        CheckConstraint(f"(completed_at IS NOT NULL) = (status IN ({_TERMINAL_SQL}))", name="ck_async_task_completed"),
        Index("ix_async_task_created_at", "created_at"),  # newest first
        Index("ix_async_task_root_task_id", "root_task_id"),  # a whole workflow
        _index_of_some("parent_task_id"),  # what a task started
        _index_of_some("trace_id"),  # from a trace to its tasks
        Index("ix_async_task_status", "status", "created_at"),  # newest failures, what waits
        Index("ix_async_task_name", "name", "created_at"),  # newest of a name, its statistics
        _index_of_some("customer", "created_at"),  # newest of a customer
        _index_of_some("created_by", "created_at"),  # newest of who asked
        _index_of_some("error_type", "created_at"),  # newest of an error
        _MYSQL,
    )

    def __repr__(self) -> str:
        return f"<AsyncTask {self.celery_task_id} {self.name} {self.status}>"


class AsyncTaskAttempt(Base):
    """One run of a task's body: the first, a retry, a redelivery or a replacement."""

    __tablename__ = "async_task_attempt"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    """Our own number."""
    celery_task_id: Mapped[str] = mapped_column(TaskId)
    """The task; not a foreign key, for an attempt may be stored before its task."""
    run_key: Mapped[str] = mapped_column(Key)
    """Names the run inside its task and sorts the runs."""
    name: Mapped[str] = mapped_column(String(255))
    """Name of the task that ran."""
    retries: Mapped[int] = mapped_column(Integer)
    """Celery's 0-based retry count of its message."""
    redelivered: Mapped[bool] = mapped_column()
    """Whether the broker had delivered the message before."""
    published_at: Mapped[dt.datetime | None] = mapped_column(UTCDateTime)
    """When this run's message was sent; null: the producer is not recorded."""
    received_at: Mapped[dt.datetime | None] = mapped_column(UTCDateTime)
    """When the worker took the message from the broker; null: run eagerly."""
    eta: Mapped[dt.datetime | None] = mapped_column(UTCDateTime)
    """Not to be run before; null: at once."""
    started_at: Mapped[dt.datetime | None] = mapped_column(UTCDateTime)
    """When the body started; null: its process was gone before it could say."""
    ended_at: Mapped[dt.datetime | None] = mapped_column(UTCDateTime)
    """When the run ended; null: it runs, or nobody saw its end."""
    outcome: Mapped[str | None] = mapped_column(String(16))
    """How it ended: succeeded, failed, retried, ignored, replaced, rejected, requeued, revoked, terminated, lost;
    null as for ``ended_at``."""
    error_type: Mapped[str | None] = mapped_column(String(255))
    """Exception class name; null: no error."""
    error_message: Mapped[str | None] = mapped_column(Text)
    """Text of the exception, at most 4,000 characters; null: no error."""
    traceback: Mapped[str | None] = mapped_column(LongText)
    """Python traceback, its last 20,000 characters; null: no error, or none known."""
    worker: Mapped[str | None] = mapped_column(String(255))
    """Node name of the worker; null: not known."""
    pid: Mapped[int | None] = mapped_column(Integer)
    """Process that ran the body; null: not known."""
    source: Mapped[str | None] = mapped_column(String(64))
    """The journal's name for that process, the key of its `AsyncTaskSource`; null: not known."""
    queue: Mapped[str | None] = mapped_column(String(255))
    """Routing key the message came with; null: run eagerly."""
    trace_id: Mapped[str | None] = mapped_column(String(32))
    """Trace ID of the run; null: no trace."""
    span_id: Mapped[str | None] = mapped_column(String(16))
    """Span ID of the run; null: no span."""
    end_key: Mapped[str] = mapped_column(Key)
    """Of the fold: which event says how it ended; empty: none yet."""

    if TYPE_CHECKING:
        attempt: Mapped[int]
        """1-based ordinal of the run inside its task. No column: counted when read, for a number stored once would be
        wrong as soon as an earlier run is stored later."""

    __table_args__ = (
        UniqueConstraint("celery_task_id", "run_key", name="uq_async_task_attempt_run"),
        Index(  # what a process that is gone was running
            "ix_async_task_attempt_open",
            "source",
            postgresql_where=text("ended_at IS NULL"),
            sqlite_where=text("ended_at IS NULL"),
        ),
        _MYSQL,
    )

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

    __tablename__ = "async_task_source"

    source: Mapped[str] = mapped_column(String(64), primary_key=True)
    """Start time, pid and a random part."""
    host: Mapped[str] = mapped_column(String(255))
    """Host name."""
    pid: Mapped[int] = mapped_column(Integer)
    """Process id on that host."""
    role: Mapped[str] = mapped_column(String(16))
    """What the process was: producer, worker or child."""
    started_at: Mapped[dt.datetime] = mapped_column(UTCDateTime)
    """When it wrote its first event."""
    journal: Mapped[str] = mapped_column(String(32))
    """Which journal directory it writes to: the directory's own id."""
    last_seen_at: Mapped[dt.datetime] = mapped_column(UTCDateTime)
    """When it was last seen alive, or its events were stored, by the recorder's clock."""
    ended_at: Mapped[dt.datetime | None] = mapped_column(UTCDateTime)
    """When it was found gone with nothing left to store, by the recorder's clock; null: it lives, or nobody knows."""
    segment: Mapped[int] = mapped_column(Integer)
    """Number of the segment that is stored up to ``position``; earlier ones are stored whole."""
    position: Mapped[int] = mapped_column(BigInteger)
    """High-water mark: bytes of that segment that are stored. A replay below it is a no-op."""
    last_number: Mapped[int] = mapped_column(BigInteger)
    """Number of the last event seen, counted from 1: as many as are stored and quarantined, or some are missing. With
    those that were dropped, which have no number: how many the process accepted."""
    stored: Mapped[int] = mapped_column(BigInteger)
    """Events that are in the tables."""
    quarantined: Mapped[int] = mapped_column(BigInteger)
    """Events or damaged frames put aside in the journal directory because they cannot be stored."""
    dropped: Mapped[Any] = mapped_column(JsonValue, nullable=True)
    """Events the process could not write to its journal, counted by reason; null: none."""

    __table_args__ = (_MYSQL,)


class AsyncTaskRevision(Base):
    """How often the store was changed, so that who has seen it all learns by one read that there is nothing new."""

    __tablename__ = "async_task_revision"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    """1: there is one row."""
    revision: Mapped[int] = mapped_column(BigInteger)
    """One more for each transaction that may have changed rows of the other tables. Begins at the time when the tables
    were made, in microseconds since 1970."""

    __table_args__ = (_MYSQL,)


class AsyncTaskVersion(Base):
    """Alembic's version table for our migrations; written with the tables where the recorder creates them."""

    __tablename__ = VERSION_TABLE

    version_num: Mapped[str] = mapped_column(String(32))
    """Newest migration applied."""

    # To the letter what Alembic itself would create.
    __table_args__ = (PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),)


__all__ = ["AsyncTask", "AsyncTaskAttempt", "AsyncTaskRevision", "AsyncTaskSource", "AsyncTaskVersion", "Base"]
