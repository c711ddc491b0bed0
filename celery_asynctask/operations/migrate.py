"""Upgrading the tables to the version of this release by our migrations, and the SQL of the tables as text."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final, NamedTuple

from sqlalchemy import Connection, create_mock_engine, insert, inspect, literal_column
from sqlalchemy.schema import CreateIndex, CreateTable

from celery_asynctask.errors import AsyncTaskError, StoreError
from celery_asynctask.operations.session import Writer
from celery_asynctask.store.remedies import usable
from celery_asynctask.store.schema import create_tables, exclusive, schema_problem, schema_version
from celery_asynctask.store.tables import SCHEMA_VERSION, async_task_version, metadata

_OURS: Final = frozenset(metadata.tables) - {async_task_version.name}


class Upgraded(NamedTuple):
    """What an upgrade did."""

    before: str | None
    """The version before; None: there was none."""
    after: str
    applied: list[tuple[str, str]]
    """The version and title of each migration that was run."""
    completed: bool
    """Whether it completed tables without a version, which a creation that was interrupted had left."""


def upgrade(writer: Writer) -> Upgraded:
    """Run the missing migrations. Raises `StoreError`, also for tables of a newer release, and `AsyncTaskError` without
    Alembic."""
    with writer.connection() as connection:
        before = schema_version(connection)
        problem = schema_problem(connection)
        begun = set(inspect(connection).get_table_names()) & _OURS
    if before is not None and before > SCHEMA_VERSION:
        raise StoreError(f"The database {writer.settings.shown_url} {problem}")
    if before == SCHEMA_VERSION:
        return Upgraded(before, SCHEMA_VERSION, [], completed=False)
    if before is None and begun:
        with writer.guarded():
            create_tables(writer.engine)
        return Upgraded(None, SCHEMA_VERSION, [], completed=True)
    with writer.connection() as connection, exclusive(connection):
        before = schema_version(connection)  # another process may have come first
        applied = [] if before == SCHEMA_VERSION else _migrate(connection, before)
        connection.commit()
    return Upgraded(before, SCHEMA_VERSION, applied, completed=False)


def _migrate(connection: Connection, before: str | None) -> list[tuple[str, str]]:
    if find_spec("alembic") is None:
        raise AsyncTaskError(
            "Migrations need Alembic, which is not installed: pip install 'celery-asynctask[migrations]'. "
            "`celery -A APP asynctask schema` prints the SQL of the tables without it."
        )
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.script.revision import RevisionError
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "celery_asynctask:migrations")
    config.attributes["connection"] = connection
    try:
        steps = list(ScriptDirectory.from_config(config).iterate_revisions("head", before or "base"))
        command.upgrade(config, "head")
    except (CommandError, RevisionError) as exc:
        raise StoreError(f"The tables cannot be upgraded from version {before or 'none'}: {exc}.") from exc
    return [(step.revision, step.doc) for step in reversed(steps)]


def statements(url: str) -> list[str]:
    """The SQL that creates the tables and notes their version, for the kind of database that a URL names, without a
    transaction around it: a migration of the user's has its own. Connects to none. Raises `StoreError` for a URL that
    SQLAlchemy cannot use."""
    with usable(url):
        dialect = create_mock_engine(url, lambda *_, **__: None).dialect
    version = insert(async_task_version).values(version_num=literal_column(f"'{SCHEMA_VERSION}'")).inline()
    creations: list[CreateTable | CreateIndex] = []
    for table in metadata.sorted_tables:
        creations.append(CreateTable(table))
        creations += map(CreateIndex, sorted(table.indexes, key=lambda index: str(index.name)))
    return [_text(str(statement.compile(dialect=dialect))) for statement in (*creations, version)]


def _text(sql: str) -> str:
    return "\n".join(line.rstrip().expandtabs(4) for line in sql.strip().splitlines())
