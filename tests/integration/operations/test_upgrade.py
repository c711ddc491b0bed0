"""`celery asynctask upgrade` and `schema`: both create the tables of the models."""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, make_url, text

from celery_asynctask.errors import StoreError
from celery_asynctask.operations import migrate
from celery_asynctask.operations.migrate import Upgraded, statements, upgrade
from celery_asynctask.operations.session import Writer
from celery_asynctask.settings import Settings
from celery_asynctask.store import schema
from celery_asynctask.store.connection import _write_ahead
from celery_asynctask.store.tables import SCHEMA_VERSION, VERSION_TABLE
from tests import services
from tests.integration.commands import Project
from tests.integration.schema import schema_of
from tests.integration.store.test_migrations import another, models, record_nothing, tables_in, version_of
from tests.processes import at_once

__all__ = ["another", "models"]

pytestmark = pytest.mark.every_database


def upgraded(url: str) -> Upgraded:
    writer = Writer(Settings(url=url))
    try:
        return upgrade(writer)
    finally:
        writer.close()


def execute(url: str, *sql: str) -> None:
    engine = create_engine(url)
    with engine.connect() as connection:
        for statement in sql:
            connection.exec_driver_sql(statement)
        connection.commit()
    engine.dispose()


def test_the_command(database: str, models: str, tmp_path: Path) -> None:
    project = Project(tmp_path, asynctask_url=database)
    empty = project.run("list")
    if make_url(database).get_backend_name() == "sqlite":
        assert "There is no database file" in empty.err
    else:
        assert "has no tables of celery-asynctask" in empty.err
    assert empty.code == 3
    done = project.run("upgrade")
    assert (done.code, done.err) == (0, "")
    assert done.lines[0] == "0001: The first tables: tasks, their attempts, and the sources that wrote them."
    assert done.lines[-1].endswith(f"are at version {SCHEMA_VERSION} now.")
    assert schema_of(database) == schema_of(models)
    assert version_of(database) == SCHEMA_VERSION
    again = project.run("upgrade", "--json")
    assert again.code == 0
    [told] = again.values
    assert (told["from"], told["to"], told["applied"]) == (SCHEMA_VERSION, SCHEMA_VERSION, [])
    assert project.run("list").code == 0


def test_what_the_recorder_made_is_at_the_version(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alembic is not even imported."""
    record_nothing(database)
    before = schema_of(database)
    monkeypatch.delattr(migrate, "_migrate")
    assert upgraded(database) == Upgraded(SCHEMA_VERSION, SCHEMA_VERSION, [], completed=False)
    assert schema_of(database) == before


def test_a_newer_schema_is_refused(database: str, tmp_path: Path) -> None:
    record_nothing(database)
    execute(database, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    before = schema_of(database)
    done = Project(tmp_path, asynctask_url=database).run("upgrade")
    assert done.code == 3
    assert re.search(r"has tables of version 9999, and this release .* install a newer release here\.", done.err)
    assert (schema_of(database), version_of(database)) == (before, "9999")


def test_an_unknown_older_schema(database: str) -> None:
    record_nothing(database)
    execute(database, f"UPDATE {VERSION_TABLE} SET version_num = '0000'")
    with pytest.raises(StoreError, match="cannot be upgraded from version 0000"):
        upgraded(database)


def test_tables_that_were_begun_are_completed(database: str, models: str) -> None:
    """A process was killed while it created them, on a database that keeps each one."""
    record_nothing(database)
    execute(database, "DROP TABLE async_task_source", f"DELETE FROM {VERSION_TABLE}")
    assert upgraded(database) == Upgraded(None, SCHEMA_VERSION, [], completed=True)
    assert schema_of(database) == schema_of(models)
    assert version_of(database) == SCHEMA_VERSION


def test_the_work_of_another_is_not_reported_as_ours(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between our check and our lock."""
    exclusive = schema.exclusive

    @contextmanager
    def late(connection: Connection) -> Iterator[None]:
        monkeypatch.setattr(migrate, "exclusive", exclusive)
        upgraded(database)
        with exclusive(connection):
            yield

    monkeypatch.setattr(migrate, "exclusive", late)
    assert upgraded(database) == Upgraded(SCHEMA_VERSION, SCHEMA_VERSION, [], completed=False)


def test_several_at_once(database: str, models: str) -> None:
    """And a recorder that creates the tables meanwhile."""

    def make(number: int) -> str:
        if number:
            return upgraded(database).after
        record_nothing(database)
        return SCHEMA_VERSION

    assert set(at_once(4, make)) == {SCHEMA_VERSION}
    assert schema_of(database) == schema_of(models)
    assert version_of(database) == SCHEMA_VERSION


def test_a_file_that_many_use_for_the_first_time(tmp_path: Path) -> None:
    """SQLite refuses at once while another process changes the file's journal mode: that failed about once in 150
    rounds."""

    def make(number: int) -> None:
        for one in range(20):
            record_nothing(f"sqlite:///{tmp_path / str(one)}.db")

    at_once(8, make)


def test_a_file_whose_mode_another_process_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = iter(["database is locked", "database is locked", "disk I/O error"])

    class Refusing:
        def execute(self, statement: str) -> None:
            if (refusal := next(refusals, None)) is not None:
                raise sqlite3.OperationalError(refusal)

    with pytest.raises(sqlite3.OperationalError, match="disk"):
        _write_ahead(Refusing(), None)
    _write_ahead(Refusing(), None)
    monkeypatch.setattr("celery_asynctask.store.connection._SQLITE_BUSY_SECONDS", 0)
    refusals = iter(["database is locked"] * 9)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        _write_ahead(Refusing(), None)


@pytest.mark.databases("sqlite", "postgresql")
def test_it_is_done_as_a_whole_or_not_at_all(
    database_kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(connection: Connection, before: str | None) -> Any:
        real(connection, before)
        connection.execute(text("SELECT nothing FROM nowhere"))

    real = migrate._migrate
    with services.new_database(database_kind, tmp_path) as url:
        monkeypatch.setattr(migrate, "_migrate", fails)
        with pytest.raises(StoreError, match="cannot be written"):
            upgraded(url)
        assert tables_in(url) == set()


def test_without_alembic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project(tmp_path, asynctask_url=f"sqlite:///{tmp_path}/rows.db")
    monkeypatch.setitem(sys.modules, "alembic", None)
    done = project.run("upgrade")
    assert done.code == 1
    assert done.err.startswith(
        "Error: Migrations need Alembic, which is not installed: pip install 'celery-asynctask[migrations]'."
    )
    record_nothing(f"sqlite:///{tmp_path}/rows.db")
    assert project.run("upgrade").code == 0, "there is nothing to migrate"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sqlite:////nonexistent/rows.db", "cannot be written: unable to open database file"),
        ("postgresql+psycopg://nobody@127.0.0.1:1/x", "cannot be written: "),
    ],
)
def test_without_a_database(tmp_path: Path, url: str, told: str) -> None:
    done = Project(tmp_path, asynctask_url=url).run("upgrade")
    assert done.code == 3
    assert told in done.err


def test_with_a_driver_that_does_not_exist(tmp_path: Path) -> None:
    done = Project(tmp_path, asynctask_url="postgresql+nosuch://host/x").run("upgrade")
    assert done.code == 2
    assert "SQLAlchemy knows no driver 'nosuch' for postgresql." in done.err


# -- schema --------------------------------------------------------------------------


def test_the_sql_makes_the_same_tables(database: str, models: str) -> None:
    sql = statements(database)
    assert tables_in(database) == set()
    execute(database, *sql)
    assert schema_of(database) == schema_of(models)
    assert version_of(database) == SCHEMA_VERSION


@pytest.mark.databases("sqlite", "postgresql")
def test_the_sql_runs_inside_of_a_transaction(database: str) -> None:
    """As Django's RunSQL and Alembic's op.execute run it: they roll back if a later step fails."""
    engine = create_engine(database)
    for end, there in (("ROLLBACK", False), ("COMMIT", True)):
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("BEGIN")
            for statement in statements(database):
                connection.exec_driver_sql(statement)
            connection.exec_driver_sql(end)
        assert bool(tables_in(database)) is there
    engine.dispose()


def test_the_output(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the app's own kind of database, even without the database, and without Alembic."""
    monkeypatch.setitem(sys.modules, "alembic", None)
    nowhere = make_url(database).set(host=None, database="/nonexistent/x").render_as_string()
    done = Project(tmp_path, asynctask_url=nowhere).run("schema")
    assert (done.code, done.err) == (0, "")
    assert done.out == "".join(f"{statement};\n\n" for statement in statements(database))


def test_a_script_that_a_shell_runs(tmp_path: Path) -> None:
    import sqlite3

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    done = Project(tmp_path, asynctask_url="sqlite:///x.db").run("schema")
    connection = sqlite3.connect(tmp_path / "a" / "rows.db")
    connection.executescript(done.out)
    connection.close()
    record_nothing(f"sqlite:///{tmp_path}/b/rows.db")
    assert schema_of(f"sqlite:///{tmp_path}/a/rows.db") == schema_of(f"sqlite:///{tmp_path}/b/rows.db")


def test_another_kind_of_database(tmp_path: Path) -> None:
    project = Project(tmp_path, asynctask_url="sqlite:///x.db")
    assert "JSONB" in project.run("schema", group=("--url", "postgresql://")).out
    done = project.run("schema", group=("--url", "mysql+nosuch://"))
    assert done.code == 2
    assert done.err.startswith("Error: This is not a usable database URL; it must be an SQLAlchemy URL of SQLite, ")
    assert done.err.endswith(
        "Write mysql+pymysql:// in place of mysql+nosuch://: SQLAlchemy knows no driver 'nosuch' for mysql.\n"
    )
