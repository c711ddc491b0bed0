"""Alembic's entry point to our migrations.

Point ``script_location`` at ``celery_asynctask:migrations``. The database is ``sqlalchemy.url`` of the ini file, or
``-x url=...`` on the command line, which wins. A program may pass a connection of its own instead, in
``config.attributes["connection"]``.
"""

from __future__ import annotations

from typing import Any

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, NullPool, create_engine, make_url

from celery_asynctask.store.models import Base
from celery_asynctask.store.sqlite import make_private
from celery_asynctask.store.tables import VERSION_TABLE


def ours(name: str | None, kind: str, _parents: Any) -> bool:
    """Leave other tables out of comparisons: the database may be shared."""
    return kind != "table" or name in Base.metadata.tables


def url() -> str:
    """The URL of the database, by the command line or the ini file. Raises `CommandError`."""
    database_url = context.get_x_argument(as_dictionary=True).get("url") or context.config.get_main_option(
        "sqlalchemy.url"
    )
    if not database_url:
        raise CommandError(
            "No database to migrate: set sqlalchemy.url in the [alembic] section of the ini file, or give "
            "-x url=postgresql+psycopg://user@host/name on the command line, before the command."
        )
    return database_url


def migrate(**target: Any) -> None:
    """Run the migrations against ``target``, a connection or a URL."""
    context.configure(
        target_metadata=Base.metadata, version_table=VERSION_TABLE, include_name=ours, compare_type=True, **target
    )
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    """Run the migrations offline, in the connection of a program, or in one of our own."""
    connection: Connection | None = context.config.attributes.get("connection")
    if context.is_offline_mode():
        # One transaction for SQLite, too: its tables are made anew.
        is_sqlite = make_url(url()).get_backend_name() == "sqlite"
        migrate(url=url(), literal_binds=True, transactional_ddl=is_sqlite or None)
    elif connection is not None:
        migrate(connection=connection)
    else:
        engine = create_engine(url(), poolclass=NullPool)
        if engine.dialect.name == "sqlite":
            make_private(engine)
        with engine.connect() as own:
            if own.dialect.name == "sqlite":  # whose driver begins a transaction only when it changes rows
                own.exec_driver_sql("BEGIN IMMEDIATE")
            migrate(connection=own)
            own.commit()


main()
