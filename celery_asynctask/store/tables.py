"""The tables in SQLAlchemy Core, which is all a recorder needs: the mapped classes would cost every worker 6 MB more.

The columns of tasks and attempts are made from `core.columns`, which documents them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import TypeDecorator, TypeEngine

from celery_asynctask.core import columns
from celery_asynctask.core.status import TERMINAL, AsyncTaskStatus

_MIGRATIONS: Final = Path(__file__).parents[1] / "migrations" / "versions"
SCHEMA_VERSION: Final = max(path.stem for path in _MIGRATIONS.glob("[0-9]*.py")).partition("_")[0]
"""Number of the newest migration. A test proves that the migrations create these tables."""
VERSION_TABLE = "async_task_version"
"""Alembic's version table for our migrations, separate from the one that a project may have of its own."""

_MYSQL: Final[Mapping[str, Any]] = {
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mysql_engine": "InnoDB",
}


class UTCDateTime(TypeDecorator[dt.datetime]):
    """An aware UTC time, also on databases whose times are naive (SQLite, MySQL)."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(sa.DateTime(timezone=True))

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        if value is None or dialect.name == "postgresql":
            return value
        return value.astimezone(dt.timezone.utc).replace(tzinfo=None)

    def process_result_value(self, value: dt.datetime | None, _dialect: Dialect) -> dt.datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=dt.timezone.utc) if value.tzinfo is None else value.astimezone(dt.timezone.utc)


class _TextJson(sqlite.JSON):
    """JSON in a column of SQLite's type TEXT. In a column of type JSON, SQLite converts a lone number to a number of
    its own, and rounds one of more than 64 bits."""


@compiles(_TextJson, "sqlite")
def _text_json(*_: Any, **__: Any) -> str:
    return "TEXT"


BigId = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite autoincrements only columns of type INTEGER
JsonValue = (
    sa.JSON(none_as_null=True)
    .with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
    .with_variant(_TextJson(none_as_null=True), "sqlite")
)
LongText = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
Key = sa.String(64, collation="C").with_variant(sa.String(64), "sqlite", "mysql", "mariadb")
"""A fixed-width key of digits and lower-case letters, compared byte by byte."""
TaskId = sa.String(255, collation="C").with_variant(sa.String(255), "sqlite", "mysql", "mariadb")
"""A task id, compared byte by byte, so that an index can find it by its beginning."""
ShortId = sa.String(64, collation="C").with_variant(sa.String(64), "sqlite", "mysql", "mariadb")
"""The key of a customer or creator, compared byte by byte."""
Status = sa.Enum(AsyncTaskStatus, native_enum=False, length=16, create_constraint=False)

_TYPES: Final[Mapping[columns.Type, Any]] = {
    columns.Type.NUMBER: BigId,
    columns.Type.TEXT: sa.Text,
    columns.Type.LONG_TEXT: LongText,
    columns.Type.TASK_ID: TaskId,
    columns.Type.SHORT_ID: ShortId,
    columns.Type.KEY: Key,
    columns.Type.INTEGER: sa.Integer,
    columns.Type.LONG: sa.BigInteger,
    columns.Type.BOOLEAN: sa.Boolean,
    columns.Type.TIME: UTCDateTime,
    columns.Type.STATUS: Status,
    columns.Type.JSON: JsonValue,
}


def _column(column: columns.Column) -> sa.Column[Any]:
    kind = sa.String(column.limit) if column.type is columns.Type.STRING else _TYPES[column.type]
    if column.type is columns.Type.NUMBER:
        return sa.Column(column.name, kind, primary_key=True, autoincrement=True, doc=column.doc)
    return sa.Column(column.name, kind, nullable=column.nullable, doc=column.doc)


metadata = sa.MetaData()

_TERMINAL_SQL = ", ".join(f"'{status.value}'" for status in sorted(TERMINAL))


def _partial_index(column: str, *others: str) -> sa.Index:
    """An index of the rows in which ``column`` is not null; others cost nothing, except on MySQL and MariaDB."""
    is_set = sa.text(f"{column} IS NOT NULL")
    return sa.Index(f"ix_async_task_{column}", column, *others, postgresql_where=is_set, sqlite_where=is_set)


async_task = sa.Table(
    "async_task",
    metadata,
    *map(_column, columns.TASK),
    sa.UniqueConstraint("celery_task_id", "customer_key", name="uq_async_task_identity"),
    sa.CheckConstraint(f"(completed_at IS NOT NULL) = (status IN ({_TERMINAL_SQL}))", name="ck_async_task_completed"),
    sa.Index("ix_async_task_created_at", "created_at"),  # newest first
    sa.Index("ix_async_task_root_task_id", "root_task_id"),  # a whole workflow
    _partial_index("parent_task_id"),  # the children of a task
    _partial_index("trace_id"),  # from a trace to its tasks
    sa.Index("ix_async_task_status", "status", "created_at"),  # newest failures, waiting tasks
    sa.Index("ix_async_task_name", "name", "created_at"),  # newest of a name, its statistics
    sa.Index(  # newest of a customer
        "ix_async_task_customer_key",
        "customer_key",
        "created_at",
        postgresql_where=sa.text("customer_key <> ''"),
        sqlite_where=sa.text("customer_key <> ''"),
    ),
    _partial_index("created_by_key", "created_at"),  # newest of a creator
    _partial_index("error_type", "created_at"),  # newest of an error
    _partial_index("holder"),  # what a process had received when it ended
    **_MYSQL,
)

async_task_attempt = sa.Table(
    "async_task_attempt",
    metadata,
    *map(_column, columns.ATTEMPT),
    sa.UniqueConstraint("celery_task_id", "customer_key", "run_key", name="uq_async_task_attempt_run"),
    sa.Index(  # what a process ran when it ended
        "ix_async_task_attempt_open",
        "source",
        postgresql_where=sa.text("ended_at IS NULL"),
        sqlite_where=sa.text("ended_at IS NULL"),
    ),
    **_MYSQL,
)

async_task_source = sa.Table(
    "async_task_source",
    metadata,
    sa.Column("source", sa.String(64), primary_key=True),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("started_at", UTCDateTime, nullable=False),
    sa.Column("journal", sa.String(32), nullable=False),
    sa.Column("last_seen_at", UTCDateTime, nullable=False),
    sa.Column("ended_at", UTCDateTime),
    sa.Column("segment", sa.Integer, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("last_number", sa.BigInteger, nullable=False),
    sa.Column("stored", sa.BigInteger, nullable=False),
    sa.Column("quarantined", sa.BigInteger, nullable=False),
    sa.Column("dropped", JsonValue),
    sa.Column("numbered", sa.BigInteger),
    sa.Column("settled_at", UTCDateTime),
    sa.Column("given_up_at", UTCDateTime),
    **_MYSQL,
)

async_task_revision = sa.Table(
    "async_task_revision",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),  # 1: there is one row
    sa.Column("revision", sa.BigInteger, nullable=False),
    **_MYSQL,
)
"""A counter of changes, so that a reader learns with one query that there is nothing new: each transaction that may
have changed rows of the other tables adds one. It begins with the time when the tables were created, in microseconds
since the epoch."""

CHANGE_SLOTS: Final = 64

async_task_change = sa.Table(
    "async_task_change",
    metadata,
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),  # from 1 to `CHANGE_SLOTS`
    sa.Column("changes", sa.BigInteger, nullable=False),
    **_MYSQL,
)
"""The counter of changes since version 0004: each transaction adds one to any row that no other holds, so that none
waits. The number of changes is the sum of these rows and of the one in ``async_task_revision``, to which recorders of
earlier versions add."""

async_task_identity = sa.Table(
    "async_task_identity",
    metadata,
    sa.Column("identity", sa.String(32), primary_key=True),
    **_MYSQL,
)
"""Random names of this database: the one that it was created with, and those of databases that it has taken the place
of. They survive a failover, an upgrade and a restore."""

async_task_audit = sa.Table(
    "async_task_audit",
    metadata,
    sa.Column("id", BigId, primary_key=True, autoincrement=True),
    sa.Column("at", UTCDateTime, nullable=False),
    sa.Column("actor", sa.String(255), nullable=False),
    sa.Column("origin", sa.String(255), nullable=False),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("target", sa.Text),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("detail", sa.Text),
    sa.Column("operation", sa.String(16)),
    sa.Index("ix_async_task_audit_at", "at"),
    **_MYSQL,
)
"""Who did what, from where, and how it ended. Rows are inserted, and deleted once they are old; none is changed."""

async_task_session = sa.Table(
    "async_task_session",
    metadata,
    sa.Column("session", ShortId, primary_key=True),
    sa.Column("expires_at", UTCDateTime, nullable=False),
    **_MYSQL,
)
"""Sessions of the console that somebody signed out of before they expired."""

async_task_token = sa.Table(
    "async_task_token",
    metadata,
    sa.Column("token", ShortId, primary_key=True),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("last_used_at", UTCDateTime, nullable=False),
    **_MYSQL,
)
"""When each token was used last, by the beginning of its hash."""

async_task_version = sa.Table(
    VERSION_TABLE,
    metadata,
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
)
"""Alembic's version table for our migrations, exactly as Alembic itself would create it. A recorder that creates the
tables fills it, too."""
