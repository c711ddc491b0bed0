"""The tables as SQLAlchemy Core has them, all that a recorder needs: mapped, they would take 6 MB more of every worker.
What the columns of tasks and attempts mean stands in `core.columns`, of which they are made.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Enum,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import TypeDecorator, TypeEngine

from celery_asynctask.core import columns
from celery_asynctask.core.status import TERMINAL, AsyncTaskStatus

_MIGRATIONS: Final = Path(__file__).parents[1] / "migrations" / "versions"
SCHEMA_VERSION: Final = max(path.stem for path in _MIGRATIONS.glob("[0-9]*.py")).partition("_")[0]
"""The newest migration; a test proves that it makes these tables."""
VERSION_TABLE = "async_task_version"
"""Alembic's version table for our migrations, apart from one that your own project may have."""

_MYSQL: Final[Mapping[str, Any]] = {
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mysql_engine": "InnoDB",
}


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

_TYPES: Final[Mapping[columns.Type, Any]] = {
    columns.Type.NUMBER: BigId,
    columns.Type.TEXT: Text,
    columns.Type.LONG_TEXT: LongText,
    columns.Type.TASK_ID: TaskId,
    columns.Type.KEY: Key,
    columns.Type.INTEGER: Integer,
    columns.Type.LONG: BigInteger,
    columns.Type.BOOLEAN: Boolean,
    columns.Type.TIME: UTCDateTime,
    columns.Type.STATUS: Status,
    columns.Type.JSON: JsonValue,
}


def _column(one: columns.Column) -> Column[Any]:
    kind = String(one.limit) if one.type is columns.Type.STRING else _TYPES[one.type]
    if one.type is columns.Type.NUMBER:
        return Column(one.name, kind, primary_key=True, autoincrement=True, doc=one.doc)
    return Column(one.name, kind, nullable=one.nullable, doc=one.doc)


metadata = MetaData()

_TERMINAL_SQL = ", ".join(f"'{status.value}'" for status in sorted(TERMINAL))


def _index_of_some(column: str, *more: str) -> Index:
    """For the rows that have the column: it costs nothing where it is null, but on MySQL."""
    is_there = text(f"{column} IS NOT NULL")
    return Index(f"ix_async_task_{column}", column, *more, postgresql_where=is_there, sqlite_where=is_there)


async_task = Table(
    "async_task",
    metadata,
    *map(_column, columns.TASK),
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
    **_MYSQL,
)

async_task_attempt = Table(
    "async_task_attempt",
    metadata,
    *map(_column, columns.ATTEMPT),
    UniqueConstraint("celery_task_id", "run_key", name="uq_async_task_attempt_run"),
    Index(  # what a process that is gone was running
        "ix_async_task_attempt_open",
        "source",
        postgresql_where=text("ended_at IS NULL"),
        sqlite_where=text("ended_at IS NULL"),
    ),
    **_MYSQL,
)

async_task_source = Table(
    "async_task_source",
    metadata,
    Column("source", String(64), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("role", String(16), nullable=False),
    Column("started_at", UTCDateTime, nullable=False),
    Column("journal", String(32), nullable=False),
    Column("last_seen_at", UTCDateTime, nullable=False),
    Column("ended_at", UTCDateTime),
    Column("segment", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("last_number", BigInteger, nullable=False),
    Column("stored", BigInteger, nullable=False),
    Column("quarantined", BigInteger, nullable=False),
    Column("dropped", JsonValue),
    **_MYSQL,
)

async_task_revision = Table(
    "async_task_revision",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
    **_MYSQL,
)

async_task_version = Table(
    VERSION_TABLE,
    metadata,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
)
"""To the letter what Alembic itself would create."""
