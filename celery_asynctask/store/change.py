"""The counter of changes, by which a reader learns with one short query that there is nothing new.

Each transaction that may have changed rows adds one, to any of many rows that no other transaction holds: a writer that
is frozen before its commit keeps no other from its own. `async_task_revision` is the one row to which recorders of
earlier versions add, and their readers look at nothing else.
"""

from __future__ import annotations

from random import SystemRandom
from typing import Final

from sqlalchemy import Connection, TextClause, func, select, text, update

from celery_asynctask.store.tables import CHANGE_SLOTS, async_task_change, async_task_revision

_FREE_SLOT: Final = (
    "SELECT slot FROM async_task_change WHERE slot >= :first ORDER BY slot LIMIT 1 FOR UPDATE SKIP LOCKED",
    "SELECT slot FROM async_task_change WHERE slot < :first ORDER BY slot LIMIT 1 FOR UPDATE SKIP LOCKED",
)
_IN_POSTGRESQL: Final = text(
    "UPDATE async_task_change SET changes = changes + 1 WHERE slot = (SELECT slot FROM async_task_change"
    " ORDER BY slot < :first, slot LIMIT 1 FOR UPDATE SKIP LOCKED)"
)
_SKIPS_LOCKED_SINCE: Final = {True: (10, 6), False: (8, 0, 1)}
"""Version of the server by whether it is MariaDB."""
_OLD_ROW: Final = update(async_task_revision).values(revision=async_task_revision.c.revision + 1)

COUNT: Final = (
    select(async_task_revision.c.revision)
    .where(async_task_revision.c.id == 1)
    .add_columns(select(func.coalesce(func.sum(async_task_change.c.changes), 0)).scalar_subquery())
)
"""A row of two numbers, whose sum is the number of changes. No row: somebody emptied the table, there is no count."""


def advance(connection: Connection) -> None:
    """Count a change. This must be the last statement of a transaction: if all rows are taken, it waits for one, while
    the transaction holds all that it has locked."""
    # Not the generator of the process: a task that seeds it draws the same numbers whatever the recorder does.
    first = SystemRandom().randint(1, CHANGE_SLOTS)
    match connection.dialect.name:
        case "postgresql":
            if connection.execute(_IN_POSTGRESQL, {"first": first}).rowcount:
                return
        case "mysql" | "mariadb" if _skips_locked(connection):
            first = next((slot for slot in (_free(connection, sql, first) for sql in _QUERIES) if slot), first)
    slot = update(async_task_change).where(async_task_change.c.slot == first)
    if not connection.execute(slot.values(changes=async_task_change.c.changes + 1)).rowcount:
        connection.execute(_OLD_ROW)  # somebody emptied the table


_QUERIES: Final = tuple(map(text, _FREE_SLOT))


def _free(connection: Connection, query: TextClause, first: int) -> int | None:
    slot: int | None = connection.scalar(query, {"first": first})
    return slot


def _skips_locked(connection: Connection) -> bool:
    dialect = connection.dialect
    version = getattr(dialect, "server_version_info", None) or ()
    return version >= _SKIPS_LOCKED_SINCE[bool(getattr(dialect, "is_mariadb", False))]


def tell_earlier_readers(connection: Connection) -> None:
    """Count a change for readers of earlier versions, unless another transaction is just doing so."""
    dialect = connection.dialect.name
    if dialect == "postgresql" or (dialect in ("mysql", "mariadb") and _skips_locked(connection)):
        free = select(async_task_revision.c.id).where(async_task_revision.c.id == 1)
        if connection.scalar(free.with_for_update(skip_locked=True)) is None:
            return
    connection.execute(_OLD_ROW)
