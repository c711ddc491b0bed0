"""The ledger's last word on each process, many rows to count changes in, and the identity of the database."""

from __future__ import annotations

import secrets
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_MYSQL: dict[str, Any] = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin", "mysql_engine": "InnoDB"}
_SLOTS = 64
_SILENT_SECONDS = 90


def upgrade() -> None:
    for column in (
        sa.Column("numbered", sa.BigInteger()),
        sa.Column("settled_at", _TIME),
        sa.Column("given_up_at", _TIME),
    ):
        op.add_column("async_task_source", column)
    # Found gone while its own recorder still saw it: that one had stored all.
    ended, seen = "ended_at", "last_seen_at"
    before = {
        "postgresql": f"{ended} - {seen} < interval '{_SILENT_SECONDS} seconds'",
        "sqlite": f"(julianday({ended}) - julianday({seen})) * 86400 < {_SILENT_SECONDS}",
    }.get(op.get_context().dialect.name, f"TIMESTAMPDIFF(SECOND, {seen}, {ended}) < {_SILENT_SECONDS}")
    op.execute(f"UPDATE async_task_source SET settled_at = {ended} WHERE {ended} IS NOT NULL AND {before}")
    changes = op.create_table(
        "async_task_change",
        sa.Column("slot", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("changes", sa.BigInteger(), nullable=False),
        **_MYSQL,
    )
    op.bulk_insert(changes, [{"slot": slot, "changes": 0} for slot in range(1, _SLOTS + 1)])
    identities = op.create_table(
        "async_task_identity",
        sa.Column("identity", sa.String(32), primary_key=True),
        **_MYSQL,
    )
    op.bulk_insert(identities, [{"identity": secrets.token_hex(16)}])


def downgrade() -> None:
    op.drop_table("async_task_identity")
    op.drop_table("async_task_change")
    for name in ("given_up_at", "settled_at", "numbered"):
        op.drop_column("async_task_source", name)
