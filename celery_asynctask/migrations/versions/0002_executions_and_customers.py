"""Keys of customers and creators, and a row for each customer and the newest execution of an id.

The keys of stored rows get the execution that no header has named (zeros), which every later one outranks. SQLite
cannot change the constraints of a table, so there the tables are made anew. Not by renaming them: that would change the
views of others. The SQL reads no table's definition, so that it can be printed. Only where MySQL keeps each change of a
table, whatever happens to the transaction, is it looked up which were made before an upgrade was interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql").with_variant(sa.Text(), "sqlite")
_KEY = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
_TASK_ID = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")

_MOST = 64
"""Characters of a key: an imported row may have had one that is too long now."""
_CREATED = "0" * 14
_EXECUTION = f"{_CREATED}0"
_INVERSE = f"{'f' * 14}1"
_PRODUCER = "1"
"""How well the origin is informed: a row does not say whether its producer or its worker was."""
_TERMINAL = "('FAILURE', 'IGNORED', 'LOST', 'REJECTED', 'REVOKED', 'SUCCESS')"

_task = sa.table(
    "async_task",
    *map(sa.column, ("id", "celery_task_id", "customer", "created_by", "customer_key", "created_by_key", "status")),
    *map(sa.column, ("created_at", "holder", "origin_key", "order_key", "trace_key", "content_key")),
)
_attempt = sa.table("async_task_attempt", *map(sa.column, ("id", "celery_task_id", "customer_key", "run_key")))


def upgrade() -> None:
    if _is_sqlite():
        _make_anew(_attempt, _attempt_columns(new=True), _attempt_values_upgraded())
        _make_anew(_task, _task_columns(new=True), _task_values_upgraded())
        _create_indexes(new=True)
        return
    _add_column("async_task", sa.Column("customer_key", _KEY, nullable=False, server_default=""))
    _add_column("async_task", sa.Column("created_by_key", _KEY))
    _add_column("async_task", sa.Column("holder", sa.String(64)))
    _add_column("async_task_attempt", sa.Column("customer_key", _KEY, nullable=False, server_default=""))
    is_old = sa.func.length(_attempt.c.run_key) != 41
    op.execute(_attempt.update().values(_attempt_values_upgraded()).where(is_old))
    op.execute(_task.update().values(_task_values_upgraded()).where(sa.func.length(_task.c.order_key) != 58))
    for table in ("async_task", "async_task_attempt"):
        op.alter_column(table, "customer_key", server_default=None, existing_type=_KEY, existing_nullable=False)
    _replace_unique("async_task", "uq_async_task_celery_task_id", "uq_async_task_identity", "customer_key")
    _replace_unique(
        "async_task_attempt", "uq_async_task_attempt_run", "uq_async_task_attempt_run", "customer_key", "run_key"
    )
    for index in ("ix_async_task_customer", "ix_async_task_created_by"):
        if not _looks() or index in _indexes("async_task"):
            op.drop_index(index, "async_task")
    _create_indexes_of_owners(new=True)


def downgrade() -> None:
    """Keep the newest row of an id and its attempts, of whichever customer; earlier releases know one row of an id, and
    neither ids that are texts nor tasks that are not to be recorded."""
    _forget_what_earlier_releases_do_not_know()
    if _is_sqlite():
        _make_anew(_attempt, _attempt_columns(new=False), _attempt_values_downgraded())
        _make_anew(_task, _task_columns(new=False), _task_values_downgraded())
        _create_indexes(new=False)
        return
    op.execute(_attempt.update().values(_attempt_values_downgraded()))
    op.execute(_task.update().values(_task_values_downgraded()))
    for column in ("holder", "created_by_key", "customer_key"):
        op.drop_index(f"ix_async_task_{column}", "async_task")
    _replace_unique("async_task", "uq_async_task_identity", "uq_async_task_celery_task_id")
    _replace_unique("async_task_attempt", "uq_async_task_attempt_run", "uq_async_task_attempt_run", "run_key")
    for column in ("customer_key", "created_by_key", "holder"):
        op.drop_column("async_task", column)
    op.drop_column("async_task_attempt", "customer_key")
    _create_indexes_of_owners(new=False)


def _dialect() -> str:
    return op.get_context().dialect.name


def _is_sqlite() -> bool:
    return _dialect() == "sqlite"


def _is_mysql() -> bool:
    return _dialect() in ("mysql", "mariadb")


# -- values ----------------------------------------------------------------------------


def _text(number: Any) -> sa.ColumnElement[Any]:
    return sa.cast(number, sa.CHAR(_MOST) if _is_mysql() else sa.String(_MOST))


def _behind(prefix: Any, key: Any) -> sa.ColumnElement[Any]:
    return sa.func.substr(sa.literal_column(f"'{prefix}'", sa.String).concat(key), 1, _MOST)


def _task_values_upgraded() -> dict[str, Any]:
    c = _task.c
    source_and_message, time = sa.func.substr(c.origin_key, 1, 7), sa.func.substr(c.origin_key, 8)
    return {
        "customer_key": sa.func.coalesce(_text(c.customer), ""),
        "created_by_key": _text(c.created_by),
        "origin_key": _behind(_INVERSE, source_and_message.concat(_PRODUCER).concat(time)),
        "order_key": _behind(_EXECUTION, c.order_key),
        "trace_key": _behind(_EXECUTION, c.trace_key),
        "content_key": _behind(_EXECUTION, c.content_key),
    }


def _attempt_values_upgraded() -> dict[str, Any]:
    customer = sa.select(_text(_task.c.customer)).where(_task.c.celery_task_id == _attempt.c.celery_task_id)
    return {
        "customer_key": sa.func.coalesce(customer.scalar_subquery(), ""),
        "run_key": _behind(_CREATED, _attempt.c.run_key),
    }


def _task_values_downgraded() -> dict[str, Any]:
    c = _task.c
    begin = len(_EXECUTION) + 1
    origin = sa.func.substr(c.origin_key, begin, 7).concat(sa.func.substr(c.origin_key, begin + 8))
    return {
        "origin_key": origin,
        **{name: sa.func.substr(c[name], begin) for name in ("order_key", "trace_key", "content_key")},
    }


def _attempt_values_downgraded() -> dict[str, Any]:
    return {"run_key": sa.func.substr(_attempt.c.run_key, len(_CREATED) + 1)}


def _forget_what_earlier_releases_do_not_know() -> None:
    op.execute(_task.delete().where(_task.c.status == sa.literal_column("'UNRECORDED'")))
    newer = _task.alias("newer")
    is_newer = sa.or_(
        newer.c.created_at > _task.c.created_at,
        sa.and_(newer.c.created_at == _task.c.created_at, newer.c.id > _task.c.id),
    )
    has_newer = sa.select(_task.c.id).where(
        sa.exists().where(newer.c.celery_task_id == _task.c.celery_task_id, is_newer)
    )
    # MySQL changes no table that the same statement reads, unless it has read all of it before.
    older = sa.select(has_newer.subquery("older").c.id)
    op.execute(_task.delete().where(_task.c.id.in_(older)))
    of_other = sa.exists().where(
        _task.c.celery_task_id == _attempt.c.celery_task_id, _task.c.customer_key != _attempt.c.customer_key
    )
    op.execute(_attempt.delete().where(of_other))
    # Attempts of earlier executions, whose keys would say nothing of that.
    begins = sa.func.substr(_task.c.order_key, 1, len(_CREATED))
    of_earlier = sa.exists().where(
        _task.c.celery_task_id == _attempt.c.celery_task_id,
        sa.func.length(_task.c.order_key) == 58,
        _attempt.c.run_key < begins,
    )
    op.execute(_attempt.delete().where(of_earlier))


# -- tables ----------------------------------------------------------------------------


def _looks() -> bool:
    """Whether it is looked up what was done before."""
    return _is_mysql() and not op.get_context().as_sql


def _indexes(table: str) -> dict[str, list[str]]:
    """The indexes and unique constraints of a table of MySQL, each with its columns."""
    found = sa.inspect(op.get_bind()).get_indexes(table)
    return {str(one["name"]): [str(column) for column in one["column_names"]] for one in found}


def _add_column(table: str, column: sa.Column[Any]) -> None:
    if _looks() and column.name in {one["name"] for one in sa.inspect(op.get_bind()).get_columns(table)}:
        return
    op.add_column(table, column)


def _replace_unique(table: str, old: str, new: str, *columns: str) -> None:
    wanted = ["celery_task_id", *columns]
    there = _indexes(table) if _looks() else {old: []}
    if there.get(old, wanted) != wanted:
        op.drop_constraint(old, table, type_="unique")
    if there.get(new) != wanted:
        op.create_unique_constraint(new, table, wanted)


def _make_anew(table: sa.TableClause, definition: Sequence[Any], changed: Mapping[str, Any]) -> None:
    """Make a table of SQLite with other columns and constraints, and the same rows with changed values."""
    names = [one.name for one in definition if isinstance(one, sa.Column) and one.name != "holder"]
    before = sa.table(f"{table.name}_before", *map(sa.column, names))
    rows = sa.select(*(changed.get(name, sa.literal_column(name)).label(name) for name in names)).select_from(table)
    text = rows.compile(dialect=op.get_context().dialect, compile_kwargs={"literal_binds": True})
    op.execute(f"CREATE TABLE {before.name} AS {text}")
    op.drop_table(table.name)
    op.create_table(table.name, *definition)
    copied = sa.table(table.name, *map(sa.column, names)).insert()
    op.execute(copied.from_select(names, sa.select(*(before.c[name] for name in names))))
    op.drop_table(before.name)


def _task_columns(*, new: bool) -> list[Any]:
    columns = [
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
    ]
    if new:
        columns += [
            sa.Column("customer_key", _KEY, nullable=False),
            sa.Column("created_by_key", _KEY),
            sa.Column("holder", sa.String(64)),
        ]
    return [
        *columns,
        sa.UniqueConstraint("celery_task_id", "customer_key", name="uq_async_task_identity")
        if new
        else sa.UniqueConstraint("celery_task_id", name="uq_async_task_celery_task_id"),
        sa.CheckConstraint(f"(completed_at IS NOT NULL) = (status IN {_TERMINAL})", name="ck_async_task_completed"),
    ]


def _attempt_columns(*, new: bool) -> list[Any]:
    columns = [
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
        sa.Column("traceback", sa.Text()),
        sa.Column("worker", sa.String(255)),
        sa.Column("pid", sa.Integer()),
        sa.Column("source", sa.String(64)),
        sa.Column("queue", sa.String(255)),
        sa.Column("trace_id", sa.String(32)),
        sa.Column("span_id", sa.String(16)),
        sa.Column("end_key", _KEY, nullable=False),
    ]
    if not new:
        return [*columns, sa.UniqueConstraint("celery_task_id", "run_key", name="uq_async_task_attempt_run")]
    return [
        *columns,
        sa.Column("customer_key", _KEY, nullable=False),
        sa.UniqueConstraint("celery_task_id", "customer_key", "run_key", name="uq_async_task_attempt_run"),
    ]


def _create_indexes(*, new: bool) -> None:
    """The indexes of SQLite's tables, which went with them."""
    op.create_index("ix_async_task_created_at", "async_task", ["created_at"])
    op.create_index("ix_async_task_root_task_id", "async_task", ["root_task_id"])
    op.create_index("ix_async_task_status", "async_task", ["status", "created_at"])
    op.create_index("ix_async_task_name", "async_task", ["name", "created_at"])
    _create_index("parent_task_id", "parent_task_id IS NOT NULL")
    _create_index("trace_id", "trace_id IS NOT NULL")
    _create_index("error_type", "error_type IS NOT NULL", "created_at")
    _create_indexes_of_owners(new=new)
    op.create_index(
        "ix_async_task_attempt_open", "async_task_attempt", ["source"], sqlite_where=sa.text("ended_at IS NULL")
    )


def _create_indexes_of_owners(*, new: bool) -> None:
    if new:
        _create_index("customer_key", "customer_key <> ''", "created_at")
        _create_index("created_by_key", "created_by_key IS NOT NULL", "created_at")
        _create_index("holder", "holder IS NOT NULL")
    else:
        _create_index("customer", "customer IS NOT NULL", "created_at")
        _create_index("created_by", "created_by IS NOT NULL", "created_at")


def _create_index(column: str, where: str, *others: str) -> None:
    name, some = f"ix_async_task_{column}", sa.text(where)
    if not _looks() or name not in _indexes("async_task"):
        op.create_index(name, "async_task", [column, *others], postgresql_where=some, sqlite_where=some)
