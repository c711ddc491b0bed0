"""`celery asynctask verify --accept`: a person gives up what nobody will know."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import delete

from celery_asynctask.journal import Directory, Journal
from celery_asynctask.operations.accept import give_up, to_accept
from celery_asynctask.operations.session import Writer
from celery_asynctask.recorder.drain import Drain
from celery_asynctask.store import Store
from celery_asynctask.store.tables import async_task_identity
from tests.integration.accounts import LONG_AGO, NOW, change, check, events, far
from tests.integration.audit import columns, entries, unwritable
from tests.integration.commands import Project
from tests.integration.draining import append


@pytest.fixture
def project(store: Store, tmp_path: Path) -> Project:
    return Project(tmp_path, asynctask_url=store.settings.url, asynctask_journal_dir=str(tmp_path / "journal"))


@pytest.mark.every_database
def test_a_host_is_given_up(store: Store, project: Project) -> None:
    """Only its processes of which nobody knows: their accounts say so, and so does the audit."""
    far(store, "a", numbered=7, last_seen_at=LONG_AGO)
    far(store, "b", numbered=5, ended_at=NOW)
    far(store, "c", numbered=5, last_seen_at=LONG_AGO, settled_at=LONG_AGO, ended_at=LONG_AGO)
    far(store, "d", "farther", numbered=5, last_seen_at=LONG_AGO)
    change(store, "b", journal="e" * 32)
    ended = project.run("verify", "--accept", "far", "--yes", SUDO_USER="ada")
    since = f"{LONG_AGO:%Y-%m-%d %H:%M:%S} UTC"
    assert (ended.code, ended.lines) == (0, [f"Accepted: nobody will know what 2 processes of far did after {since}."])
    found = {one.source: one.given_up_at is not None for one in check(store, everything=True).accounts}
    assert found == {"a": True, "b": True, "c": False, "d": False}
    assert columns(store, "actor", "action", "target", "outcome", "detail") == [
        ("ada", "accept", "host far", "begun", None),
        ("ada", "accept", "host far", "done", f"2 processes, unheard since {since}"),
    ]
    ended = project.run("verify", "--accept", "farther", "--yes", "--json")
    assert (ended.values[0]["host"], ended.values[0]["processes"]) == ("farther", 1)
    ended = project.run("verify")
    assert (ended.code, ended.lines[0]) == (
        0,
        f"Complete, but for 2 events that were given up and for what 3 processes of far, farther did after {since}, "
        "which was given up: 22 events of 4 processes.",
    )


def test_a_host_that_is_heard_is_not_given_up(store: Store, project: Project) -> None:
    """Its recorder knows, or will. A host of the same name that comes after it has another journal."""
    far(store, "a", numbered=7, last_seen_at=LONG_AGO)
    far(store, "b", numbered=7)
    ended = project.run("verify", "--accept", "far", "--yes")
    assert (ended.code, ended.out) == (1, "")
    assert re.fullmatch(
        r"Error: Nothing was accepted: far was heard at [-\d]+ [:\d]+ UTC, so what its processes did is known, or its "
        r"recorder will say it\. Run `verify` again in two minutes\.\n",
        ended.err,
    )
    assert entries(store) == []
    change(store, "b", journal="e" * 32)
    assert project.run("verify", "--accept", "far", "--yes").code == 0


@pytest.mark.parametrize(
    ("host", "problem"),
    [
        ("known", "all is known of known. Run `verify` to see of whom it is not."),
        ("no\x1bone", "no process of no\ufffdone is known. Run `verify` for the names of hosts."),
    ],
)
def test_nothing_to_give_up(store: Store, project: Project, host: str, problem: str) -> None:
    far(store, "a", "known", numbered=5, last_seen_at=LONG_AGO, settled_at=LONG_AGO)
    ended = project.run("verify", "--accept", host, "--yes")
    assert (ended.code, ended.err) == (1, f"Error: Nothing was accepted: {problem}\n")


def test_a_person_is_asked_first(store: Store, project: Project) -> None:
    far(store, "a", numbered=7, last_seen_at=LONG_AGO)
    for words in (("--accept", "far"), ("--accept-database",)):
        ended = project.run("verify", *words)
        assert ended.code == 2
        assert "Not done: no terminal to confirm on. Check with `" in ended.err
    assert entries(store) == []
    assert project.run("verify", "--accept", "far", "--accept-database").code == 2
    with unwritable():
        ended = project.run("verify", "--accept", "far", "--yes")
    assert (ended.code, "every accept is audited" in ended.err) == (3, True)
    assert check(store).ledger.unknown


@pytest.mark.every_database
def test_a_database_that_takes_the_place_of_another(store: Store, project: Project) -> None:
    """From then on, what was recorded for the other one goes into this one."""
    path = project.path / "journal"
    directory = Directory(path, store.settings.store_id)
    directory.know_identity("f" * 32)
    journal = Journal(path, store.settings.store_id)
    append(journal, *events(2))
    journal.close()
    drain = Drain(directory, store.settings)
    try:
        ended = project.run("verify", "--accept-database", "--yes", SUDO_USER="ada")
        assert (ended.code, ended.err) == (0, "")
        assert ended.lines == [f"Accepted: the journal in {path} is stored in {store.settings.shown_url} from now on."]
        drain.work()
    finally:
        drain.close()
        with store.engine.begin() as connection:
            taken = delete(async_task_identity).where(async_task_identity.c.identity == "f" * 32)
            assert connection.execute(taken).rowcount == 1
    assert check(store, path).ledger.stored == 2
    target = f"database {store.settings.shown_url}"
    assert columns(store, "actor", "action", "target", "outcome", "detail") == [
        ("ada", "accept", target, "begun", None),
        ("ada", "accept", target, "done", f"journal {path}"),
    ]


def test_one_that_is_heard_meanwhile_is_not_given_up(store: Store) -> None:
    far(store, "a", numbered=7, last_seen_at=LONG_AGO)
    far(store, "b", numbered=7, last_seen_at=LONG_AGO)
    writer = Writer(store.settings)
    found = to_accept(writer, "far", check(store).accounts, NOW)
    change(store, "a", last_seen_at=NOW)
    assert give_up(writer, found, NOW) == 1
    writer.close()
    assert {one.source: one.given_up_at is None for one in check(store, everything=True).accounts} == {
        "a": True,
        "b": False,
    }
