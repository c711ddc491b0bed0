"""Every command with a database that cannot be used: one line that says what to do, and the exit code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click import Command, Context
from sqlalchemy import update

from celery_asynctask.cli.group import Commands
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.tables import async_task_version
from tests.integration.commands import Project

WORDS = {
    "erase": ("--customer", "42", "--yes"),
    "purge": ("--older-than", "1d", "--yes"),
    "quarantine": ("replay", "--all"),
    "recorder": ("--once",),
    "rerun": ("x", "--yes"),
    "serve": ("--port", "0"),
    "show": ("x",),
    "tree": ("x",),
    "uninstall": ("--yes",),
    "why": ("x",),
}
WITHOUT = {"code", "doctor", "import", "openapi", "schema", "token", "tokens"}
"""Commands that find it out themselves, have a database of their own, or need none."""
COMMANDS = sorted({*Commands("asynctask").list_commands(Context(Command("asynctask")))} - WITHOUT)
WHILE_IT_IS_AWAY = {"recorder", "serve"}
"""Commands that wait for a database that is away, because it may come back."""


def ends_in_a_line(project: Project, command: str, code: int, *todo: str) -> None:
    ended = project.run(command, *WORDS.get(command, ()))
    assert (ended.code, ended.out) == (code, ""), ended
    assert ended.err.startswith("Error: ")
    assert ended.err.count("\n") == 1, ended.err
    assert "secret" not in ended.err
    for part in todo:
        assert part in ended.err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_url_that_can_never_be_used(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setitem(sys.modules, "MySQLdb", None)
    for url, code, todo in (
        ("postgres://u:secret@h/d", 2, "Write postgresql+psycopg:// in place of postgres://."),
        ("oracle://u:secret@h/d", 2, "celery-asynctask cannot store in oracle."),
        ("default", 2, "is not an SQLAlchemy URL (its value is not shown"),
        ("", 2, "is not an SQLAlchemy URL (its value is not shown"),
        ("postgresql+psycopg://u:secret@h/d", 3, "pip install 'celery-asynctask[postgresql]'"),
        ("mysql://u:secret@h/d", 3, "pip install 'celery-asynctask[mysql]'"),
    ):
        project = Project(tmp_path, asynctask_url=url, asynctask_journal_dir=str(tmp_path / "journal"))
        ends_in_a_line(project, command, code, todo)
    assert not (tmp_path / "journal").exists()


@pytest.mark.parametrize("command", sorted({*COMMANDS} - WHILE_IT_IS_AWAY))
def test_a_database_that_is_not_right(command: str, tmp_path: Path) -> None:
    (tmp_path / "directory.db").mkdir()
    (tmp_path / "text.db").write_text("no database" * 100, encoding="utf-8")
    newer = Store(Settings(url=f"sqlite:///{tmp_path}/newer.db"))
    newer.prepare()
    with newer.engine.begin() as connection:
        connection.execute(update(async_task_version).values(version_num="9999"))
    newer.close()
    for url, todo in (
        (f"sqlite:///{tmp_path}/none/rows.db", f"reate the directory {tmp_path}/none, or correct"),
        (f"sqlite:///{tmp_path}/directory.db", "is a directory: name a file in asynctask_url."),
        (f"sqlite:///{tmp_path}/text.db", "Name an SQLite file in asynctask_url"),
        (f"sqlite:///{tmp_path}/newer.db", "newer release"),
        ("postgresql+psycopg://u:secret@127.0.0.1:9/d", "Start the database, or correct the host and the port"),
        ("mysql+pymysql://u:secret@127.0.0.1:9/d", "Start the database, or correct the host and the port"),
    ):
        if command == "uninstall" and "none" in url:
            continue  # there is nothing to remove
        project = Project(tmp_path, asynctask_url=url, asynctask_journal_dir=str(tmp_path / "journal"))
        ends_in_a_line(project, command, 3, todo)
    assert not (tmp_path / "journal").exists()


def test_a_bundle_is_not_imported_into_it(tmp_path: Path) -> None:
    project = Project(tmp_path, asynctask_url="sqlite:///x.db")
    store = Store(Settings(url=f"sqlite:///{tmp_path}/x.db"))
    store.prepare()
    store.close()
    (tmp_path / "b.ndjson").write_text(project.run("export").out, encoding="utf-8")
    for into, code, todo in (
        ("postgres://u:secret@h/d", 2, "Write postgresql+psycopg://"),
        ("postgresql+psycopg://u:secret@127.0.0.1:9/d", 3, "Start the database"),
    ):
        ended = project.run("import", "b.ndjson", "--into", into, "--any-database")
        assert (ended.code, todo in ended.err, "secret" in ended.err) == (code, True, False), ended


def test_the_recorder_has_no_other_database(tmp_path: Path) -> None:
    """It would store none of the events that the app records."""
    project = Project(tmp_path, asynctask_url="sqlite:///x.db")
    ended = project.run("recorder", "--once", group=("--url", "sqlite:///y.db"))
    assert (ended.code, "set asynctask_url in the app's configuration" in ended.err) == (2, True), ended
    assert sorted(path.name for path in tmp_path.iterdir()) == ["proj.py"]
