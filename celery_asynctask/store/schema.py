"""Creating the tables on first use, once, however many processes of however many nodes start together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, insert, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError

from celery_asynctask.core.time import now
from celery_asynctask.errors import StoreError
from celery_asynctask.store.tables import SCHEMA_VERSION, async_task_revision, async_task_version, metadata

_LOCK = 4_871_239_157_263_401_113
"""PostgreSQL advisory lock that guards the creation; any number that nobody else uses."""
_LOCK_SECONDS = 30


def create_tables(engine: Engine) -> bool:
    """Create our tables and note the schema version, unless they are there; whether this call did it.

    Raises `sqlalchemy.exc.SQLAlchemyError`; `StoreError` where others keep us from it.
    """
    with engine.connect() as connection:
        if _complete(connection):
            return False
    with engine.connect() as connection, exclusive(connection):
        if _complete(connection):
            return False
        metadata.create_all(connection)
        if connection.execute(select(async_task_version)).first() is None:
            if connection.execute(select(async_task_revision)).first() is None:
                # Not from 0: tables that are made once more under a running server shall not come to a number it knows.
                connection.execute(insert(async_task_revision), [{"id": 1, "revision": now()}])
            connection.execute(insert(async_task_version), [{"version_num": SCHEMA_VERSION}])
        connection.commit()
        return True


def _complete(connection: Connection) -> bool:
    """Whether the tables are there and their version is noted; MySQL keeps what a killed process had begun."""
    tables = set(inspect(connection).get_table_names())
    return tables.issuperset(metadata.tables) and connection.execute(select(async_task_version)).first() is not None


@contextmanager
def exclusive(connection: Connection) -> Iterator[None]:
    """Keep others who make or change tables out until it is committed; CREATE TABLE IF NOT EXISTS alone still races.

    PostgreSQL waits for them; SQLite raises `sqlalchemy.exc.OperationalError`, MySQL and MariaDB `StoreError` where it
    takes long.
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
            # Python's sqlite3 opens no transaction before DDL; this takes the write lock at once.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield


def _name(connection: Connection) -> str:
    """Of the lock, which all databases of a server share; it takes no more than 64 characters."""
    return f"celery_asynctask.{connection.engine.url.database}"[:64]


def _lock(connection: Connection) -> None:
    asked = text("SELECT GET_LOCK(:name, :seconds)")
    got = connection.scalar(asked, {"name": _name(connection), "seconds": _LOCK_SECONDS})
    if got == 1:
        return
    shown = connection.engine.url.render_as_string(hide_password=True)
    if got == 0:
        raise StoreError(
            f"The tables of {shown} are not touched: another process makes or changes them, and has not ended in "
            f"{_LOCK_SECONDS} s. Try again; SELECT IS_USED_LOCK('{_name(connection)}') says which connection it is."
        )
    raise StoreError(
        f"The tables of {shown} are not touched: the database gives no lock ({_name(connection)}), and does not say "
        "why. Look into its error log, and try again."
    )


def _release(connection: Connection) -> None:
    """Let others in, without hiding why we end: a connection of which that fails is closed, and the lock with it."""
    try:
        released = connection.scalar(text("SELECT RELEASE_LOCK(:name)"), {"name": _name(connection)})
    except SQLAlchemyError:
        released = None
    if released != 1:
        connection.invalidate()
