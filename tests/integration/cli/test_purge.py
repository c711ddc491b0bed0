"""`celery asynctask purge` as an operator runs it: it previews, confirms, deletes, and may be killed."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text

from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTaskAttempt
from tests.integration.commands import SECONDS, Project
from tests.integration.purge import count, left, record, without_attempts, without_task
from tests.pace import patience
from tests.waiting import wait_for


@pytest.fixture
def project(store: Store, tmp_path: Path) -> Project:
    return Project(tmp_path, asynctask_url=store.settings.url)


def test_by_the_rules_of_the_settings(store: Store, tmp_path: Path) -> None:
    rules = {"customer:42": None, "status:SUCCESS": "30d"}
    project = Project(tmp_path, asynctask_url=store.settings.url, asynctask_retention=rules)
    record(store, "success", "a", "b")
    record(store, "success", "c", customer=42)
    record(store, "failed", "d")
    looked = project.run("purge", "--dry-run")
    assert (looked.code, looked.err) == (0, "")
    assert [line.split() for line in looked.lines] == [
        ["rule", "keep", "for", "tasks", "to", "delete", "stay"],
        ["customer:42", "forever", "1", "0", "1"],
        ["status:SUCCESS", "30", "days", "2", "2", "0"],
        ["(no", "rule)", "forever", "1", "0", "1"],
    ]
    asked = project.run("purge")
    assert asked.code == 2
    assert asked.err == "Error: Not done: no terminal to confirm on. Check with --dry-run, then use --yes.\n"
    assert len(left(store)) == 4
    done = project.run("purge", "--yes", "--json")
    assert (done.code, done.err) == (0, "")
    assert done.values == [
        {"rule": "customer:42", "kept": "forever", "tasks": 1, "due": 0, "keeps": 1},
        {"rule": "status:SUCCESS", "kept": "30d", "tasks": 2, "due": 2, "keeps": 0},
        {"rule": "(no rule)", "kept": "forever", "tasks": 1, "due": 0, "keeps": 1},
        {"tasks": 2, "attempts": 2, "orphans": 0, "sources": 0},
    ]
    assert left(store) == {"c", "d"}


@pytest.mark.every_database
def test_killed_in_the_middle(store: Store, project: Project) -> None:
    record(store, "ends_carry_starts", *(f"task-{number}" for number in range(1500)))
    process = project.start("purge", "--older-than", "1d", "--batch", "1", "--yes")
    wait_for(lambda: len(left(store)) < 1450, SECONDS, "the purge to be under way")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=patience(SECONDS))
    wait_for(partial(nobody_writes, store), SECONDS, "the database to notice")
    assert 0 < len(left(store)) < 1450
    assert count(store, AsyncTaskAttempt) == 2 * len(left(store))
    assert without_task(store) == set() == without_attempts(store)
    again = project.run("purge", "--older-than", "1d", "--yes")
    assert again.code == 0
    assert again.lines[-1].startswith("Deleted ")
    assert left(store) == set()
    assert count(store, AsyncTaskAttempt) == 0


def nobody_writes(store: Store) -> bool:
    """Whether the killed process's connection is gone."""
    queries = {
        "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "
        "pg_backend_pid() AND application_name = ''",
        "mysql": "SELECT count(*) FROM information_schema.processlist WHERE db = database() AND id <> connection_id()",
    }
    query = queries.get(store.engine.dialect.name)
    if query is None:
        return True
    with store.engine.connect() as connection:
        return bool(connection.scalar(text(query)) == 0)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[Store, Project]]:
    """An SQLite file with two old tasks."""
    from celery_asynctask.settings import Settings

    project = Project(tmp_path, asynctask_url=f"sqlite:///{tmp_path}/rows.db")
    store = Store(Settings(url=f"sqlite:///{tmp_path}/rows.db"))
    store.prepare()
    record(store, "success", "a", "b")
    yield store, project
    store.close()


def test_without_rules(small: tuple[Store, Project]) -> None:
    store, project = small
    done = project.run("purge", "--yes")
    assert done.code == 0
    assert done.lines[1].split() == ["(no", "rule)", "forever", "2", "0", "2"]
    assert "Nothing deleted: asynctask_retention has no age." in done.err
    assert len(left(store)) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("status:SUCCESS",), 2, "A search needs the age of the tasks to delete: add --older-than 90d."),
        (("--older-than", "soon"), 2, "An age cannot be 'soon'; it must be a duration such as 12h, 90d"),
        (("--older-than", "1d", "state:SUCCESS"), 2, "The search has no key 'state'"),
    ],
)
def test_what_cannot_be(small: tuple[Store, Project], arguments: Iterable[str], code: int, told: str) -> None:
    store, project = small
    done = project.run("purge", "--yes", *arguments)
    assert done.code == code
    assert told in done.err
    assert len(left(store)) == 2


def test_a_rule_of_the_settings_that_cannot_be(tmp_path: Path, small: tuple[Store, Project]) -> None:
    project = Project(tmp_path, asynctask_url=f"sqlite:///{tmp_path}/rows.db", asynctask_retention={"state:X": "1d"})
    done = project.run("purge", "--yes")
    assert done.code == 2
    assert done.err.startswith("Error: Setting 'asynctask_retention' has the rule 'state:X': The search has no key")


def test_without_a_database(tmp_path: Path) -> None:
    project = Project(tmp_path, asynctask_url=f"sqlite:///{tmp_path}/none.db")
    done = project.run("purge", "--older-than", "1d", "--yes")
    assert done.code == 3
    assert done.err.startswith("Error: There is no database file")
    assert not (tmp_path / "none.db").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "code", "remaining"), [("n", 1, 2), ("y", 0, 0)])
def test_it_asks_on_a_terminal(small: tuple[Store, Project], answer: str, code: int, remaining: int) -> None:
    store, project = small
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "celery", "-A", "proj", "asynctask", "purge", "--older-than", "1d"]
    process = subprocess.Popen(command, cwd=project.path, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while b"Delete 2 tasks and their attempts? [y/N]" not in seen:
        seen += os.read(ours, 1000)
    os.write(ours, f"{answer}\n".encode())
    assert process.wait(patience(SECONDS)) == code
    os.close(ours)
    assert len(left(store)) == remaining
