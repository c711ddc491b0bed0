"""Tables for the audit, for sessions that have ended, and for when tokens were used last."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_KEY = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
_MYSQL: dict[str, Any] = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin", "mysql_engine": "InnoDB"}


def upgrade() -> None:
    op.create_table(
        "async_task_audit",
        sa.Column("id", _BIG_ID, primary_key=True, autoincrement=True),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.Column("origin", sa.String(255), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("target", sa.Text()),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("detail", sa.Text()),
        sa.Column("operation", sa.String(16)),
        **_MYSQL,
    )
    op.create_index("ix_async_task_audit_at", "async_task_audit", ["at"])
    op.create_table(
        "async_task_session",
        sa.Column("session", _KEY, primary_key=True),
        sa.Column("expires_at", _TIME, nullable=False),
        **_MYSQL,
    )
    op.create_table(
        "async_task_token",
        sa.Column("token", _KEY, primary_key=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("last_used_at", _TIME, nullable=False),
        **_MYSQL,
    )


def downgrade() -> None:
    op.drop_table("async_task_token")
    op.drop_table("async_task_session")
    op.drop_table("async_task_audit")
