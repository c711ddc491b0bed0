"""The migrations create exactly the tables of the models, on every database."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, event, inspect, make_url, select, text

import celery_asynctask
from celery_asynctask.core.columns import ATTEMPT, FOLD_KEYS, TASK, Type
from celery_asynctask.core.event import Event, Kind
from celery_asynctask.core.fold import Identity, Partial, fold_all, project
from celery_asynctask.core.keys import (
    EXECUTION_DIGITS,
    AttemptKey,
    created_of,
    happened_at,
    is_changed,
    is_of_a_step,
    is_of_earlier_execution,
    is_planned,
    is_unsent,
)
from celery_asynctask.core.time import time_of
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt, Base
from celery_asynctask.store.tables import SCHEMA_VERSION, VERSION_TABLE, async_task_version
from tests import services
from tests.histories import HISTORIES, ID, Delivery, about, fold, lines
from tests.integration.rows import stored, stored_rows
from tests.integration.schema import schema_of

pytestmark = pytest.mark.every_database


@pytest.fixture
def another(database: str, tmp_path: Path) -> Iterator[str]:
    """An empty database of the same kind as ``database``."""
    with services.new_database(make_url(database).get_backend_name(), tmp_path) as url:
        yield url


@pytest.fixture
def models(another: str) -> str:
    """A database of the same kind as ``database``, with the tables as the recorder makes them."""
    record_nothing(another)
    return another


def record_nothing(url: str) -> None:
    """The work of a recorder when it starts."""
    store = Store(Settings(url=url))
    store.prepare()
    store.close()


def config_for(url: str, output: io.StringIO | None = None) -> Config:
    config = Config(output_buffer=output) if output is not None else Config()
    config.set_main_option("script_location", "celery_asynctask:migrations")
    config.set_main_option("sqlalchemy.url", url)
    return config


def version_of(url: str) -> str | None:
    engine = create_engine(url)
    with engine.connect() as connection:
        version = connection.execute(select(async_task_version.c.version_num)).scalar_one_or_none()
    engine.dispose()
    return version


def differences(url: str) -> list[object]:
    """Alembic's changes from the database to the models."""
    engine = create_engine(url)
    options = {"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
    with engine.connect() as connection:
        changes = compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata)
    engine.dispose()
    return list(changes)


def test_head_is_the_models_version() -> None:
    assert ScriptDirectory.from_config(config_for("")).get_heads() == [SCHEMA_VERSION]


def test_migrations_make_what_the_models_say(database: str, models: str) -> None:
    command.upgrade(config_for(database), "head")
    assert schema_of(database) == schema_of(models)
    assert version_of(database) == version_of(models) == SCHEMA_VERSION
    assert differences(database) == differences(models) == []


def test_differences_would_be_seen(database: str) -> None:
    """The test above can fail."""
    command.upgrade(config_for(database), "head")
    before = schema_of(database)
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE async_task ADD COLUMN more INTEGER"))
    engine.dispose()
    assert schema_of(database) != before
    assert [change[0] for change in differences(database)] == ["remove_column"]  # type: ignore[index]
    with pytest.raises(CommandError):
        command.check(config_for(database))


def test_upgrade_of_what_the_recorder_made_does_nothing(database: str) -> None:
    store = Store(Settings(url=database))
    store.prepare()
    events = HISTORIES["success"]()
    store.write(lines(events))
    before = schema_of(database)
    command.upgrade(config_for(database), "head")
    assert schema_of(database) == before
    assert list(stored(store).values()) == [fold(events)]
    store.close()


def test_the_recorder_leaves_migrated_tables_alone(database: str) -> None:
    command.upgrade(config_for(database), "head")
    before = schema_of(database)
    record_nothing(database)
    assert schema_of(database) == before


def test_down_and_up_again(database: str) -> None:
    command.upgrade(config_for(database), "head")
    before = schema_of(database)
    command.downgrade(config_for(database), "base")
    assert tables_in(database) == {VERSION_TABLE}
    assert version_of(database) is None
    command.upgrade(config_for(database), "head")
    assert schema_of(database) == before


def tables_in(url: str) -> set[str]:
    engine = create_engine(url)
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names


def test_the_migrations_as_sql(database: str, models: str) -> None:
    output = io.StringIO()
    command.upgrade(config_for(database, output), "head", sql=True)
    assert tables_in(database) == set()
    engine = create_engine(database)
    with engine.connect() as connection:
        for statement in output.getvalue().split(";\n"):
            lines = [line for line in statement.splitlines() if line.strip() and not line.startswith("--")]
            if lines and lines not in (["BEGIN"], ["COMMIT"]):
                connection.exec_driver_sql("\n".join(lines))
        connection.commit()
    engine.dispose()
    assert schema_of(database) == schema_of(models)
    assert version_of(database) == SCHEMA_VERSION


def test_on_a_connection_of_the_program_s_own(database: str) -> None:
    engine = create_engine(database)
    with engine.connect() as connection:
        config = config_for("")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        assert not connection.closed
    engine.dispose()
    assert version_of(database) == SCHEMA_VERSION


def test_tables_of_others_are_left_alone(database: str) -> None:
    """The database may belong to the project, with an Alembic of its own."""
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('theirs')"))
        connection.execute(text("CREATE TABLE product (id INTEGER)"))
    command.upgrade(config_for(database), "head")
    command.check(config_for(database))
    command.downgrade(config_for(database), "base")
    assert tables_in(database) == {"alembic_version", "product", VERSION_TABLE}
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "theirs"
    engine.dispose()


def test_the_version_table_is_alembic_s(database: str, another: str) -> None:
    """The version table is one of our models, so that the recorder can write it; a project's own Alembic must accept
    it."""
    engine = create_engine(database)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        context._ensure_version_table()
    engine.dispose()
    theirs = schema_of(database)
    assert theirs
    engine = create_engine(another)
    async_task_version.create(engine)
    engine.dispose()
    assert schema_of(another) == theirs


# -- with rows in them ---------------------------------------------------------------

NEW = {"customer_key", "created_by_key", "holder"}
"""Columns that 0001 did not have."""
OLD = sorted(HISTORIES.keys() - {"unrecorded", "received_and_released", "released", "for_a_customer_with_a_name"})
"""Histories without what 0001 did not know."""


def of_0001(model: Any) -> Table:
    return Table(
        model.__tablename__, MetaData(), *(one._copy() for one in model.__table__.columns if one.name not in NEW)
    )


def as_before(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the fold, or of one of its attempts, as 0001 had it: its keys began with nesting."""
    keys: dict[str, str] = {name: row[name][15:] for name in ("order_key", "trace_key", "content_key") if name in row}
    if "origin_key" in row:
        keys["origin_key"] = f"{row['origin_key'][15:22]}{row['origin_key'][23:]}"
    if "run_key" in row:
        keys["run_key"] = row["run_key"][14:]
    times: dict[str, Any] = {name: time_of(row[name]) for name in row if name in TIMES and row[name] is not None}
    return {name: value for name, value in {**row, **keys, **times}.items() if name not in NEW}


TIMES = {one.name for one in (*TASK, *ATTEMPT) if one.type is Type.TIME}


def filled(url: str) -> dict[Identity, tuple[list[Event], Partial]]:
    """Tables of 0001 with every history that it could hold: the events and the rows of each."""
    command.upgrade(config_for(url), "0001")
    known = {}
    tasks, attempts = of_0001(AsyncTask), of_0001(AsyncTaskAttempt)
    engine = create_engine(url)
    with engine.begin() as connection:
        for name in OLD:
            events = about(HISTORIES[name](), name)
            partials = fold_all(events)
            if len(partials) > 1 or len({created_of(one) for one in events} - {0}) > 1:
                continue  # another customer, or another execution
            [(identity, partial)] = partials.items()
            known[identity] = events, partial
            connection.execute(tasks.insert(), as_before(partial.task))
            for attempt in partial.attempts.values():
                connection.execute(attempts.insert(), as_before(attempt))
    engine.dispose()
    return known


def test_rows_of_0001_read_the_same(database: str) -> None:
    known = filled(database)
    assert len(known) > 30
    assert {customer for _, customer in known} > {""}, "some are of customers"
    command.upgrade(config_for(database), "head")
    store = Store(Settings(url=database))
    found = stored_rows(store)
    store.close()
    assert found.keys() == known.keys()
    for identity, (_, before) in known.items():
        after = found[identity]
        assert without_keys(after.task) == without_keys(before.task)
        for read in (is_planned, is_unsent, happened_at):
            assert read(after.task["order_key"]) == read(before.task["order_key"]), identity
        assert is_of_a_step(after.task["origin_key"]) == is_of_a_step(before.task["origin_key"])
        assert is_changed(after.task["content_key"]) == is_changed(before.task["content_key"])
        for written, column in ((after.task["trace_key"], "trace_id"), (after.task["content_key"], "content")):
            assert (len(written) == EXECUTION_DIGITS) == (after.task[column] is None), "as keys without a value are"
        attempts = [without_keys(one) for _, one in sorted(after.attempts.items())]
        assert attempts == [without_keys(one) for _, one in sorted(before.attempts.items())]
        for key in after.attempts:
            parsed = AttemptKey.parse(key)
            assert parsed is not None
            assert parsed.created == 0
            assert not is_of_earlier_execution(key, after.task["order_key"])


def without_keys(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in FOLD_KEYS}


def test_later_events_fold_onto_rows_of_0001(database: str) -> None:
    """Those that say when the execution was created outrank the row; those that do not join it."""
    known = filled(database)
    command.upgrade(config_for(database), "head")
    store = Store(Settings(url=database))
    for identity, (events, whole) in known.items():
        store.write(lines(events[-1:]))
        last = project(events[-1])
        row = stored_rows(store, identity[0])[identity].task
        newest = whole.task["order_key"] == last.task["order_key"] or created_of(events[-1]) > 0
        assert row["status"] == (last.task["status"] if newest else whole.task["status"]), identity
        store.write(lines(events))
        assert without_keys(stored_rows(store, identity[0])[identity].task) == without_keys(whole.task), identity
    store.close()


@pytest.mark.databases("mysql")
@pytest.mark.parametrize("done", [2, 5, 6, 8, 10, 11, 13, 15])
def test_an_upgrade_that_was_interrupted_goes_on(database: str, models: str, done: int) -> None:
    """MySQL keeps each table that was changed, whatever happens to the transaction."""
    known = filled(database)
    engine = create_engine(database)
    config = config_for("")
    changes = 0

    def interrupt(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal changes
        changes += statement.startswith(("ALTER", "CREATE", "DROP", "UPDATE"))
        if changes > done:
            raise ZeroDivisionError

    event.listen(engine, "before_cursor_execute", interrupt)
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        with pytest.raises(ZeroDivisionError):
            command.upgrade(config, "head")
    engine.dispose()
    command.upgrade(config_for(database), "head")
    rows_counted = re.compile(r" AUTO_INCREMENT=\d+")
    assert {name: rows_counted.sub("", one) for name, one in schema_of(database).items()} == schema_of(models)
    store = Store(Settings(url=database))
    found = stored_rows(store)
    assert found.keys() == known.keys()
    assert {len(one.task["order_key"]) for one in found.values()} == {58}
    assert {len(key) for one in found.values() for key in one.attempts} == {41}
    store.close()


def test_back_to_0001_the_newest_row_of_an_id_stays(database: str) -> None:
    store = Store(Settings(url=database))
    store.prepare()
    run, again = Delivery(2, customer=42), Delivery(2_000_003, created=2_000_000, customer_key="acme")
    first = Delivery(1_000_003, created=1_000_000, customer_key="acme")
    events = [
        run.started(3),
        first.started(1_000_004),
        again.started(2_000_004),
        again.ended(Kind.SUCCEEDED, 2_000_009),
    ]
    store.write(lines([*events, *about(HISTORIES["success"](), "other"), *about(HISTORIES["unrecorded"](), "hidden")]))
    store.close()
    command.downgrade(config_for(database), "0001")
    engine = create_engine(database)
    with engine.connect() as connection:
        tasks = connection.execute(select(of_0001(AsyncTask))).mappings().all()
        attempts = connection.execute(select(of_0001(AsyncTaskAttempt))).mappings().all()
    engine.dispose()
    newest = as_before(fold(events[2:]).task)
    assert {row["celery_task_id"] for row in tasks} == {ID, "other"}
    [row] = [row for row in tasks if row["celery_task_id"] == ID]
    assert {name: value for name, value in row.items() if name in ("order_key", "origin_key", "status", "retries")} == {
        name: newest[name] for name in ("order_key", "origin_key", "status", "retries")
    }
    assert [one["run_key"] for one in attempts if one["celery_task_id"] == ID] == [
        key[14:] for key in fold(events[2:]).attempts
    ]
    assert len(attempts) == 2
    command.upgrade(config_for(database), "head")
    store = Store(Settings(url=database))
    assert {one.task["status"] for one in stored_rows(store).values()} == {"SUCCESS"}
    store.close()


# -- as a user runs it ---------------------------------------------------------------

INI = "[alembic]\nscript_location = celery_asynctask:migrations\n"


def alembic(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "alembic", *arguments],
        cwd=directory,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_three_lines_of_configuration(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    (tmp_path / "alembic.ini").write_text(f"{INI}sqlalchemy.url = {url}\n", encoding="utf-8")
    done = alembic(tmp_path, "upgrade", "head")
    assert (done.returncode, done.stderr) == (0, "")
    assert version_of(url) == SCHEMA_VERSION
    assert SCHEMA_VERSION in alembic(tmp_path, "current").stdout


def test_the_url_on_the_command_line_wins(tmp_path: Path) -> None:
    (tmp_path / "alembic.ini").write_text(f"{INI}sqlalchemy.url = sqlite:////nonexistent/shop.db\n", encoding="utf-8")
    url = f"sqlite:///{tmp_path}/50%.db"
    done = alembic(tmp_path, "-x", f"url={url}", "upgrade", "head")
    assert (done.returncode, done.stderr) == (0, "")
    assert version_of(url) == SCHEMA_VERSION


@pytest.mark.parametrize("arguments", [["upgrade", "head"], ["upgrade", "head", "--sql"]])
def test_without_a_url(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "alembic.ini").write_text(INI, encoding="utf-8")
    done = alembic(tmp_path, *arguments)
    assert done.returncode != 0
    assert "No database to migrate: set sqlalchemy.url" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


# -- the project's own Alembic -------------------------------------------------------


def mine(metadata: MetaData) -> Table:
    return Table("product", metadata, Column("id", Integer, primary_key=True), Column("name", String(20), index=True))


def proposed(url: str, metadata: Any, **options: Any) -> list[str]:
    """What autogenerate would do to the database, without what it compares with."""
    engine = create_engine(url)
    with engine.connect() as connection:
        changes = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    engine.dispose()
    return sorted({str(change[0]) for change in changes})


def test_autogenerate_of_the_project_leaves_our_tables_alone(models: str) -> None:
    """Without a word to Alembic it drops them, and so the record."""
    metadata = MetaData()
    mine(metadata)
    assert {"add_table", "remove_table"} <= {*proposed(models, metadata)}
    options = {"include_object": celery_asynctask.include_object}
    assert proposed(models, metadata, **options) == ["add_index", "add_table"]
    engine = create_engine(models)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE leftover (id INTEGER)")
    engine.dispose()
    assert proposed(models, metadata, **options) == ["remove_table"], "others' tables are looked at"
    metadata = MetaData()
    Table("leftover", metadata, Column("id", Integer))
    theirs = mine(metadata)
    theirs.append_column(Column("price", Integer))
    assert proposed(models, metadata, **options) == ["add_column"]


def test_autogenerate_of_a_project_that_has_our_tables_too(models: str) -> None:
    metadata = MetaData()
    mine(metadata)
    changes = proposed(models, [metadata, celery_asynctask.Base.metadata])
    assert changes == ["add_index", "add_table"]
