"""Customers and creators as keys, and one row for each customer and newest execution of an id.

Keys of stored rows get the execution that no header has named, which every later one outranks.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SHORT_ID = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
_CREATED = "0" * 14
_EXECUTION = f"{_CREATED}0"
_INVERSE = f"{'f' * 14}1"


def upgrade() -> None:
    with op.batch_alter_table("async_task") as task:
        task.add_column(sa.Column("customer_key", _SHORT_ID, nullable=False, server_default=""))
        task.add_column(sa.Column("created_by_key", _SHORT_ID))
        task.add_column(sa.Column("holder", sa.String(64)))
    with op.batch_alter_table("async_task_attempt") as attempt:
        attempt.add_column(sa.Column("customer_key", _SHORT_ID, nullable=False, server_default=""))
    _fill()
    with op.batch_alter_table("async_task") as task:
        task.alter_column("customer_key", server_default=None, existing_type=_SHORT_ID, existing_nullable=False)
        task.drop_constraint("uq_async_task_celery_task_id", type_="unique")
        task.create_unique_constraint("uq_async_task_identity", ["celery_task_id", "customer_key"])
    with op.batch_alter_table("async_task_attempt") as attempt:
        attempt.alter_column("customer_key", server_default=None, existing_type=_SHORT_ID, existing_nullable=False)
        attempt.drop_constraint("uq_async_task_attempt_run", type_="unique")
        attempt.create_unique_constraint("uq_async_task_attempt_run", ["celery_task_id", "customer_key", "run_key"])
    op.drop_index("ix_async_task_customer", "async_task")
    op.drop_index("ix_async_task_created_by", "async_task")
    _create_index("customer_key", "customer_key <> ''", "created_at")
    _create_index("created_by_key", "created_by_key IS NOT NULL", "created_at")
    _create_index("holder", "holder IS NOT NULL")


def _create_index(column: str, where: str, *others: str) -> None:
    some = sa.text(where)
    op.create_index(
        f"ix_async_task_{column}", "async_task", [column, *others], postgresql_where=some, sqlite_where=some
    )


def _fill() -> None:
    is_mysql = op.get_bind().dialect.name in ("mysql", "mariadb")
    text = sa.CHAR(64) if is_mysql else sa.String(64)
    task = sa.table(
        "async_task",
        *(
            sa.column(name)
            for name in (
                "celery_task_id", "customer", "customer_key", "created_by", "created_by_key", "origin_key", "order_key",
                "trace_key", "content_key",
            )
        ),
    )  # fmt: skip
    attempt = sa.table(
        "async_task_attempt", *(sa.column(name) for name in ("celery_task_id", "customer_key", "run_key"))
    )
    c = task.c
    origin = sa.literal(_INVERSE).concat(sa.func.substr(c.origin_key, 1, 7))
    op.execute(
        task.update().values(
            customer_key=sa.func.coalesce(sa.cast(c.customer, text), ""),
            created_by_key=sa.cast(c.created_by, text),
            # The producer told what was requested, as far as it is known.
            origin_key=origin.concat("1").concat(sa.func.substr(c.origin_key, 8)),
            order_key=sa.literal(_EXECUTION).concat(c.order_key),
            trace_key=sa.literal(_EXECUTION).concat(c.trace_key),
            content_key=sa.literal(_EXECUTION).concat(c.content_key),
        )
    )
    of_task = sa.select(c.customer_key).where(c.celery_task_id == attempt.c.celery_task_id).scalar_subquery()
    op.execute(
        attempt.update().values(
            customer_key=sa.func.coalesce(of_task, ""), run_key=sa.literal(_CREATED).concat(attempt.c.run_key)
        )
    )


def downgrade() -> None:
    raise NotImplementedError("Version 0002 cannot be undone: several rows may have one id. Restore a backup instead.")
