"""Creates the tables on first use, exactly once, however many processes on however many nodes start together."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine, Table, insert, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError

from celery_asynctask.core.time import now
from celery_asynctask.errors import NoTablesError, StoreError
from celery_asynctask.store.tables import (
    CHANGE_SLOTS,
    SCHEMA_VERSION,
    VERSION_TABLE,
    async_task_change,
    async_task_identity,
    async_task_revision,
    async_task_version,
    metadata,
)

_LOCK = 4_871_239_157_263_401_113
"""PostgreSQL advisory lock that guards the creation: an arbitrary number that nobody else is likely to use."""
_LOCK_SECONDS = 30


def create_tables(engine: Engine, identity: str | None = None) -> bool:
    """Create our tables and store the schema version, unless both are there. Returns whether this call did it.
    ``identity``: that of the database; None: a new one. Tables of another version are left as they are, see
    `schema_problem`.

    Raises `sqlalchemy.exc.SQLAlchemyError`, and `StoreError` if the lock cannot be had.
    """
    with engine.connect() as connection:
        if _complete(connection):
            return False
    with engine.connect() as connection, exclusive(connection):
        if _complete(connection):
            return False
        metadata.create_all(connection)
        for table, rows in _first_rows(identity or secrets.token_hex(16)):
            if connection.execute(select(table)).first() is None:
                connection.execute(insert(table), rows)
        connection.commit()
        return True


def _first_rows(identity: str) -> list[tuple[Table, list[dict[str, Any]]]]:
    """The rows that tables begin with, the version last."""
    return [
        # Not 0: if the tables are created again under a running server, it must not meet a number it knows.
        (async_task_revision, [{"id": 1, "revision": now()}]),
        (async_task_change, [{"slot": slot, "changes": 0} for slot in range(1, CHANGE_SLOTS + 1)]),
        (async_task_identity, [{"identity": identity}]),
        (async_task_version, [{"version_num": SCHEMA_VERSION}]),
    ]


def _complete(connection: Connection) -> bool:
    """Whether the tables and their version are there, or a version of another release. After a kill, MySQL keeps the
    tables created so far."""
    names = set(inspect(connection).get_table_names())
    version = connection.scalar(select(async_task_version.c.version_num)) if VERSION_TABLE in names else None
    return version is not None and (version != SCHEMA_VERSION or names.issuperset(metadata.tables))


def schema_version(connection: Connection) -> str | None:
    """The schema version of the tables in a database; None: no tables. Raises `sqlalchemy.exc.SQLAlchemyError`."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.scalar(select(async_task_version.c.version_num))


NO_TABLES: Final = (
    "has no tables of celery-asynctask: start a worker, whose recorder creates them with the first task it stores "
    "unless asynctask_create_tables is False, or run `celery -A APP asynctask upgrade`, which needs "
    "celery-asynctask[migrations]."
)


def schema_problem(connection: Connection) -> str:
    """Why this release cannot work with the tables in a database, and what to do, as the end of a sentence that begins
    with the database; empty: it can."""
    version = schema_version(connection)
    if version is None:
        return NO_TABLES
    if version > SCHEMA_VERSION:
        return (
            f"has tables of version {version}, and this release of celery-asynctask knows them up to "
            f"{SCHEMA_VERSION}: install a newer release here."
        )
    if version < SCHEMA_VERSION:
        return (
            f"has tables of version {version}, and this release needs {SCHEMA_VERSION}: run "
            "`celery -A APP asynctask upgrade`."
        )
    return ""


def check_schema(connection: Connection, shown_url: str) -> None:
    """Raise `StoreError` unless the tables are there and have the version that this release needs: for a recorder."""
    problem = schema_problem(connection)
    if problem == NO_TABLES:
        raise NoTablesError(
            f"The database {shown_url} has no tables of celery-asynctask.",
            "Run `celery -A APP asynctask upgrade`, or set asynctask_create_tables to True.",
        )
    if problem:
        raise StoreError(f"The database {shown_url} {problem}")


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
