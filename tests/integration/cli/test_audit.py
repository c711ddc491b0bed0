"""Commands that change something or hand tasks out are audited first, or do nothing; and `audit` shows it."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path

import pytest

from celery_asynctask.cli.command import user
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.integration.audit import add_entries, columns, entries, unwritable, user_with
from tests.integration.commands import Project
from tests.integration.purge import left, record
from tests.integration.rows import rows

SOURCE = """
from celery import Celery
app = Celery("proj", broker="memory://", task_cls="celery_asynctask:RecordedTask")
app.conf.update({settings!r})

@app.task(name="shop.charge")
def charge(number, text, currency):
    pass
"""
ACTIONS: dict[str, tuple[str, ...]] = {
    "rerun": ("rerun", "a", "--yes"),
    "erase": ("erase", "--customer", "42", "--yes"),
    "export": ("export", "-o", "out.ndjson"),
    "purge": ("purge", "--older-than", "1d", "--yes"),
}


@pytest.fixture
def project(store: Store, tmp_path: Path) -> Project:
    """With two tasks of a customer."""
    record(store, "success", "a", "b", customer=42)
    return Project(tmp_path, SOURCE, asynctask_url=store.settings.url, asynctask_journal_dir=str(tmp_path / "journal"))


@pytest.mark.every_database
def test_each_action_has_its_entries(store: Store, project: Project) -> None:
    for words in ACTIONS.values():
        ended = project.run(*words, SUDO_USER="ada")
        assert ended.code == 0, ended
    new = next(iter(rows(store)))  # the rerun, which is not old
    host = f"command line of {socket.gethostname()}"
    assert {(entry.actor, entry.origin) for entry in entries(store)} == {("ada", host)}
    assert columns(store, "action", "target", "outcome", "detail") == [
        ("rerun", "a", "begun", None),
        ("rerun", "a", "done", f"as {new}"),
        ("erase", "customers 42", "begun", None),
        ("erase", "customers 42", "done", "3 tasks, 0 attempts"),
        ("export", "*", "begun", None),
        ("export", "*", "done", f"3 tasks to {project.path}/out.ndjson"),
        ("purge", "* older than 1d", "begun", None),
        ("purge", "* older than 1d", "done", "2 tasks, 2 attempts"),
    ]
    operations = [entry.operation for entry in entries(store)]
    assert operations[::2] == operations[1::2]
    assert len(set(operations)) == 4


@pytest.mark.parametrize("action", ACTIONS)
def test_without_its_entry_nothing_is_done(store: Store, project: Project, action: str) -> None:
    before = {name: (row.task_args, row.created_by_name) for name, row in rows(store).items()}
    with unwritable():
        ended = project.run(*ACTIONS[action])
    assert ended.code == 3
    assert ended.err.splitlines()[-1] == (
        f"Error: Not done, for every {action} is audited. The audit cannot be written. The database is away. Start it."
    )
    assert {name: (row.task_args, row.created_by_name) for name, row in rows(store).items()} == before
    assert not (project.path / "out.ndjson").exists()
    assert project.run("list").code == project.run("show", "a").code == 0


def test_what_changes_nothing_has_no_entry(store: Store, project: Project) -> None:
    for words, code in (
        (("purge", "--older-than", "1d", "--dry-run"), 0),
        (("purge", "--older-than", "1d"), 2),
        (("erase", "--customer", "42", "--dry-run"), 0),
        (("erase", "--customer", "42"), 2),
        (("rerun", "a"), 2),
        (("list",), 0),
        (("purge", "--yes"), 0),
        (("export", "--format", "csv", "-o", "out.csv", "--workflow", "a", "status:FAILURE"), 2),
    ):
        assert project.run(*words).code == code
    assert entries(store) == []


def test_who_they_are_for_is_a_detail(store: Store, project: Project) -> None:
    assert project.run("rerun", "a", "--yes", "--by", "eve", SUDO_USER="ada").code == 0
    assert columns(store, "actor", "detail")[0] == ("ada", "for eve")


def test_a_rerun_that_fails(store: Store, project: Project) -> None:
    source = SOURCE + "\ncharge.apply_async = lambda *_, **__: 1 / 0\n"
    broken = Project(project.path, source, asynctask_url=store.settings.url)
    assert broken.run("rerun", "a", "b", "--yes").code == 1
    assert columns(store, "target", "outcome", "detail") == [
        ("a", "begun", None),
        ("a", "failed", "ZeroDivisionError"),
        ("b", "begun", None),
        ("b", "failed", "ZeroDivisionError"),
    ]


def test_values_of_a_search_are_not_in_it(store: Store, project: Project) -> None:
    assert project.run("export", "kwargs.card:hunter2", "status:SUCCESS").code == 0
    assert columns(store, "target", "detail") == [
        ("kwargs.card:… status:SUCCESS", None),
        ("kwargs.card:… status:SUCCESS", "no tasks"),
    ]


def test_a_foreign_record(store: Store, project: Project, tmp_path: Path) -> None:
    other = Store(Settings(url=f"sqlite:///{tmp_path}/other.db"))
    other.prepare()
    record(other, "success", "x")
    group = ("--url", other.settings.url)
    ended = project.run(*ACTIONS["purge"], group=group)
    assert (ended.code, left(other), entries(other)) == (0, set(), [])
    assert columns(store, "target")[0] == (f"* older than 1d in sqlite:///{tmp_path}/other.db",)
    own = Project(tmp_path, asynctask_url=f"sqlite:///{tmp_path}/none.db")
    ended = own.run("export", group=group)
    assert ended.code == 0
    assert ended.err.count("The audit of the app's own record has no entry of this: There is no database file") == 2
    assert not (tmp_path / "none.db").exists()
    assert entries(other) == []
    other.close()


@pytest.mark.databases("postgresql")
def test_a_user_who_may_only_read(store: Store, project: Project) -> None:
    with user_with(store, "GRANT SELECT ON ALL TABLES IN SCHEMA public") as url:
        for words in (("list",), ("show", "a"), ("audit",)):
            ended = project.run(*words, group=("--url", url))
            assert ended.code == 0, ended
        for action, given in ACTIONS.items():
            ended = project.run(*given, group=("--url", url))
            assert ended.code == 3
            assert f"Error: Not done, for every {action} is audited. The audit cannot be written." in ended.err
            assert "SELECT, INSERT and DELETE on async_task_audit" in ended.err
    assert (left(store), entries(store)) == ({"a", "b"}, [])


# -- retention


def test_old_entries_go_with_the_rules(store: Store, tmp_path: Path) -> None:
    add_entries(store, [400, 366, 364, 1])
    project = Project(tmp_path, asynctask_url=store.settings.url)
    looked = project.run("purge", "--dry-run")
    assert looked.lines[-1] == "2 old entries of the audit are to be deleted, too."
    assert "audit" not in project.run("purge", "--older-than", "1d", "--yes").out
    assert len(entries(store)) == 6
    asked = project.run("purge")
    assert (asked.code, len(entries(store))) == (2, 6)
    done = project.run("purge", "--yes", "--json")
    assert done.code == 0
    assert [value for value in done.values if "audit" in value] == [{"audit": 2}, {"audit": 2}]
    assert columns(store, "outcome", "detail")[-2:] == [("begun", None), ("done", "nothing, 2 entries of the audit")]
    assert len(entries(store)) == 6
    again = project.run("purge", "--yes")
    assert "Nothing deleted: asynctask_retention has no age." in again.err
    assert len(entries(store)) == 6


@pytest.mark.parametrize(("setting", "stay"), [(None, 3), ("2d", 2), ("500d", 3)])
def test_how_long_they_are_kept(store: Store, tmp_path: Path, setting: str | None, stay: int) -> None:
    add_entries(store, [400, 1, 0])
    project = Project(tmp_path, asynctask_url=store.settings.url, asynctask_audit_retention=setting)
    assert project.run("purge", "--yes").code == 0
    assert len([entry for entry in entries(store) if entry.action == "rerun"]) == stay


def test_an_age_that_cannot_be(store: Store, tmp_path: Path) -> None:
    project = Project(tmp_path, asynctask_url=store.settings.url, asynctask_audit_retention="101y")
    ended = project.run("purge", "--yes")
    assert (ended.code, "Setting 'asynctask_audit_retention' has the age '101y'" in ended.err) == (2, True)


@pytest.mark.databases("postgresql")
def test_a_user_who_may_not_delete_entries(store: Store, tmp_path: Path) -> None:
    """The tasks are deleted, and it is said who can delete the entries."""
    record(store, "success", "a")
    add_entries(store, [400])
    project = Project(tmp_path, asynctask_url=store.settings.url, asynctask_retention={"*": "1d"})
    most = "GRANT SELECT, INSERT, UPDATE, DELETE ON async_task, async_task_attempt, async_task_source, "
    with user_with(
        store,
        f"{most} async_task_change, async_task_identity, async_task_revision",
        "GRANT SELECT, INSERT ON async_task_audit",
        "GRANT SELECT ON async_task_version",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public",
    ) as url:
        ended = project.run("purge", "--yes", group=("--url", url))
    assert (ended.code, left(store)) == (3, set())
    assert "Error: Old entries of the audit are still there." in ended.err
    assert "Run purge as a user who may DELETE from async_task_audit, named by --url." in ended.err
    assert columns(store, "outcome", "detail")[1:] == [
        ("begun", None),
        ("failed", "1 task, 1 attempt; StoreError"),
    ]


# -- the command


def test_it_is_shown_newest_first(store: Store, project: Project) -> None:
    add_entries(store, [3, 2, 1])
    project.run(*ACTIONS["purge"], SUDO_USER="bob")
    shown = project.run("audit", "--json", "-n", "2")
    assert [value["outcome"] for value in shown.values] == ["done", "begun"]
    assert list(shown.values[0]) == [
        "id", "at", "actor", "origin", "action", "outcome", "target", "detail", "operation"
    ]  # fmt: skip
    assert shown.err == f"More entries match: --before {shown.values[-1]['id']}\n"
    rest = project.run("audit", "--json", "--before", str(shown.values[-1]["id"]))
    assert ([value["actor"] for value in rest.values], rest.err) == (["ada"] * 3, "")
    assert len(project.run("audit", "--json", "--actor", "ada", "--since", "60h").values) == 2
    assert len(project.run("audit", "--json", "--action", "purge").values) == 2
    table = project.run("audit", "--utc")
    assert table.lines[0].split()[:4] == ["id", "at", "actor", "origin"]
    assert "* older than 1d" in table.lines[1]
    assert project.run("audit", "--actor", "nobody").err == "No entries match.\n"
    for since in ("soon", "1d name:x"):
        wrong = project.run("audit", "--since", since)
        assert (wrong.code, f"Error: 'since' cannot be {since!r}; it must be" in wrong.err) == (2, True)


def test_who_is_at_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not who the environment names, except behind sudo."""
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setenv("LOGNAME", "eve")
    monkeypatch.setenv("USER", "eve")
    assert user() == pwd.getpwuid(os.getuid()).pw_name
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)
    assert user() == f"uid {2**31 - 2}"
    monkeypatch.setenv("SUDO_USER", "ada")
    assert user() == "ada"
