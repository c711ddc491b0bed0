"""Creating the tables on first use, once, however many processes of however many nodes start together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, insert, inspect, select, text

from celery_asynctask.tables import SCHEMA_VERSION, async_task_revision, async_task_version, metadata

_LOCK = 4_871_239_157_263_401_113
"""PostgreSQL advisory lock that guards the creation; any number that nobody else uses."""
_LOCK_NAME = "celery_asynctask.schema"
_LOCK_SECONDS = 30


def create_tables(engine: Engine) -> bool:
    """Create our tables and note the schema version, unless they are there; whether this call did it.

    Raises `sqlalchemy.exc.SQLAlchemyError`.
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
                connection.execute(insert(async_task_revision), [{"id": 1, "revision": time.time_ns() // 1000}])
            connection.execute(insert(async_task_version), [{"version_num": SCHEMA_VERSION}])
        connection.commit()
        return True


def _complete(connection: Connection) -> bool:
    """Whether the tables are there and their version is noted; MySQL keeps what a killed process had begun."""
    tables = set(inspect(connection).get_table_names())
    return tables.issuperset(metadata.tables) and connection.execute(select(async_task_version)).first() is not None


@contextmanager
def exclusive(connection: Connection) -> Iterator[None]:
    """Keep others who make or change tables out until it is committed; CREATE TABLE IF NOT EXISTS alone still races."""
    match connection.dialect.name:
        case "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            yield
        case "mysql" | "mariadb":
            connection.execute(text("SELECT GET_LOCK(:name, :seconds)"), {"name": _LOCK_NAME, "seconds": _LOCK_SECONDS})
            try:
                yield
            finally:
                connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": _LOCK_NAME})
        case _:
            # Python's sqlite3 opens no transaction before DDL; this takes the write lock at once.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield
