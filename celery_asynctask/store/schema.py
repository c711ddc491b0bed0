"""Creates the tables on first use, exactly once, however many processes on however many nodes start together."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Table, insert, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError

from celery_asynctask.core.time import now
from celery_asynctask.errors import StoreError
from celery_asynctask.store.tables import (
    CHANGE_SLOTS,
    SCHEMA_VERSION,
    async_task_change,
    async_task_identity,
    async_task_revision,
    async_task_version,
    metadata,
)

_LOCK = 4_871_239_157_263_401_113
"""PostgreSQL advisory lock that guards the creation: an arbitrary number that nobody else is likely to use."""
_LOCK_SECONDS = 30


def create_tables(engine: Engine) -> bool:
    """Create our tables and store the schema version, unless both are there. Returns whether this call did it.

    Raises `sqlalchemy.exc.SQLAlchemyError`, and `StoreError` if the lock cannot be had.
    """
    with engine.connect() as connection:
        if _complete(connection):
            return False
    with engine.connect() as connection, exclusive(connection):
        if _complete(connection):
            return False
        metadata.create_all(connection)
        if connection.execute(select(async_task_version)).first() is None:
            for table, rows in _first_rows():
                if connection.execute(select(table)).first() is None:
                    connection.execute(insert(table), rows)
        connection.commit()
        return True


def _first_rows() -> list[tuple[Table, list[dict[str, Any]]]]:
    """The rows that tables begin with, the version last."""
    return [
        # Not 0: if the tables are created again under a running server, it must not meet a number it knows.
        (async_task_revision, [{"id": 1, "revision": now()}]),
        (async_task_change, [{"slot": slot, "changes": 0} for slot in range(1, CHANGE_SLOTS + 1)]),
        (async_task_identity, [{"identity": secrets.token_hex(16)}]),
        (async_task_version, [{"version_num": SCHEMA_VERSION}]),
    ]


def _complete(connection: Connection) -> bool:
    """Whether the tables and their version are there. After a kill, MySQL keeps the tables created so far."""
    tables = set(inspect(connection).get_table_names())
    return tables.issuperset(metadata.tables) and connection.execute(select(async_task_version)).first() is not None


@contextmanager
def exclusive(connection: Connection) -> Iterator[None]:
    """Hold a lock against others who create or change tables, until the commit; CREATE TABLE IF NOT EXISTS alone races.

    PostgreSQL waits as long as it takes. After a wait, SQLite raises `sqlalchemy.exc.OperationalError`, MySQL and
    MariaDB raise `StoreError`.
    """
    match connection.dialect.name:
        case "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            yield
        case "mysql" | "mariadb":
            _lock(connection)
            try:
                yield
            finally:
                _release(connection)
        case _:
            # Python's sqlite3 begins no transaction before DDL; this takes the write lock at once.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield


def _name(connection: Connection) -> str:
    """Name of the lock, at most 64 characters. All databases of a server share these names."""
    return f"celery_asynctask.{connection.engine.url.database}"[:64]


def _lock(connection: Connection) -> None:
    statement = text("SELECT GET_LOCK(:name, :seconds)")
    answer = connection.scalar(statement, {"name": _name(connection), "seconds": _LOCK_SECONDS})
    if answer == 1:
        return
    shown = connection.engine.url.render_as_string(hide_password=True)
    if answer == 0:
        raise StoreError(
            f"The tables of {shown} were left unchanged: another process is creating or changing them, and did not "
            f"finish within {_LOCK_SECONDS} s. Try again; SELECT IS_USED_LOCK('{_name(connection)}') names the "
            "connection that holds the lock."
        )
    raise StoreError(
        f"The tables of {shown} were left unchanged: the database did not grant the lock {_name(connection)} and gave "
        "no reason. Look into the database's error log, and try again."
    )


def _release(connection: Connection) -> None:
    """Release the lock without hiding an error that is under way. If that fails, close the connection, which releases
    the lock."""
    try:
        released = connection.scalar(text("SELECT RELEASE_LOCK(:name)"), {"name": _name(connection)})
    except SQLAlchemyError:
        released = None
    if released != 1:
        connection.invalidate()
