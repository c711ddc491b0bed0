"""The first tables: tasks, their attempts, and the sources that wrote them.

Written out in full, and never changed: later changes of the models are made by later migrations.
"""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql").with_variant(sa.Text(), "sqlite")
_LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
_KEY = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
_TASK_ID = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
_MYSQL: dict[str, Any] = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin", "mysql_engine": "InnoDB"}


def upgrade() -> None:
    _create_task()
    _create_attempt()
    _create_source()
    _create_revision()


def downgrade() -> None:
    op.drop_table("async_task_revision")
    op.drop_table("async_task_source")
    op.drop_table("async_task_attempt")
    op.drop_table("async_task")


def _create_task() -> None:
    op.create_table(
        "async_task",
        sa.Column("id", _BIG_ID, primary_key=True, autoincrement=True),
        sa.Column("created_by_name", sa.String(255)),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("error_message", sa.Text()),
        sa.Column("error_type", sa.String(255)),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.Column("completed_at", _TIME),
        sa.Column("started_at", _TIME),
        sa.Column("celery_task_id", _TASK_ID, nullable=False),
        sa.Column("root_task_id", _TASK_ID),
        sa.Column("parent_task_id", _TASK_ID),
        sa.Column("trace_id", sa.String(32)),
        sa.Column("span_id", sa.String(16)),
        sa.Column("task_args", _JSON),
        sa.Column("task_kwargs", _JSON),
        sa.Column("result", _JSON),
        sa.Column("content", _JSON),
        sa.Column("customer", sa.BigInteger()),
        sa.Column("created_by", sa.BigInteger()),
        sa.Column("origin_key", _KEY, nullable=False),
        sa.Column("order_key", _KEY, nullable=False),
        sa.Column("trace_key", _KEY, nullable=False),
        sa.Column("content_key", _KEY, nullable=False),
        sa.UniqueConstraint("celery_task_id", name="uq_async_task_celery_task_id"),
        sa.CheckConstraint(
            "(completed_at IS NOT NULL) = (status IN ('FAILURE', 'IGNORED', 'LOST', 'REJECTED', 'REVOKED', 'SUCCESS'))",
            name="ck_async_task_completed",
        ),
        **_MYSQL,
    )
    op.create_index("ix_async_task_created_at", "async_task", ["created_at"])
    op.create_index("ix_async_task_root_task_id", "async_task", ["root_task_id"])
    op.create_index("ix_async_task_status", "async_task", ["status", "created_at"])
    op.create_index("ix_async_task_name", "async_task", ["name", "created_at"])
    _create_index_of_some("parent_task_id")
    _create_index_of_some("trace_id")
    _create_index_of_some("customer", "created_at")
    _create_index_of_some("created_by", "created_at")
    _create_index_of_some("error_type", "created_at")


def _create_index_of_some(column: str, *others: str) -> None:
    is_set = sa.text(f"{column} IS NOT NULL")
    op.create_index(
        f"ix_async_task_{column}", "async_task", [column, *others], postgresql_where=is_set, sqlite_where=is_set
    )


def _create_attempt() -> None:
    op.create_table(
        "async_task_attempt",
        sa.Column("id", _BIG_ID, primary_key=True, autoincrement=True),
        sa.Column("celery_task_id", _TASK_ID, nullable=False),
        sa.Column("run_key", _KEY, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.Column("redelivered", sa.Boolean(), nullable=False),
        sa.Column("published_at", _TIME),
        sa.Column("received_at", _TIME),
        sa.Column("eta", _TIME),
        sa.Column("started_at", _TIME),
        sa.Column("ended_at", _TIME),
        sa.Column("outcome", sa.String(16)),
        sa.Column("error_type", sa.String(255)),
        sa.Column("error_message", sa.Text()),
        sa.Column("traceback", _LONG_TEXT),
        sa.Column("worker", sa.String(255)),
        sa.Column("pid", sa.Integer()),
        sa.Column("source", sa.String(64)),
        sa.Column("queue", sa.String(255)),
        sa.Column("trace_id", sa.String(32)),
        sa.Column("span_id", sa.String(16)),
        sa.Column("end_key", _KEY, nullable=False),
        sa.UniqueConstraint("celery_task_id", "run_key", name="uq_async_task_attempt_run"),
        **_MYSQL,
    )
    is_open = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_async_task_attempt_open", "async_task_attempt", ["source"], postgresql_where=is_open, sqlite_where=is_open
    )


def _create_source() -> None:
    op.create_table(
        "async_task_source",
        sa.Column("source", sa.String(64), primary_key=True),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("journal", sa.String(32), nullable=False),
        sa.Column("last_seen_at", _TIME, nullable=False),
        sa.Column("ended_at", _TIME),
        sa.Column("segment", sa.Integer(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("last_number", sa.BigInteger(), nullable=False),
        sa.Column("stored", sa.BigInteger(), nullable=False),
        sa.Column("quarantined", sa.BigInteger(), nullable=False),
        sa.Column("dropped", _JSON),
        **_MYSQL,
    )


def _create_revision() -> None:
    table = op.create_table(
        "async_task_revision",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        **_MYSQL,
    )
    op.bulk_insert(table, [{"id": 1, "revision": time.time_ns() // 1000}])
