"""`celery asynctask verify`: what it prints, and its exit code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from celery_asynctask.cli.verify import MAX_HOSTS, _advice
from celery_asynctask.core.accounting import Ledger
from celery_asynctask.journal import Journal
from celery_asynctask.store import Store
from tests.histories import lines, published, variant
from tests.integration.accounts import ALL_THERE, HOST, LONG_AGO, add_source, change, events, far
from tests.integration.commands import Project
from tests.integration.draining import MakeDrain, append


@pytest.mark.parametrize("wrong", [False, True], ids=["complete", "not complete"])
def test_the_command(store: Store, journal: Journal, make_drain: MakeDrain, tmp_path: Path, wrong: bool) -> None:
    project = Project(tmp_path, asynctask_url=store.settings.url, asynctask_journal_dir=str(journal.path))
    append(journal, *events(3))
    make_drain().work()
    add_source(store, ALL_THERE)
    if wrong:
        append(journal, *events(2))
        add_source(store, ALL_THERE._replace(last_number=8, dropped={"ENOSPC": 4}), source="other-2", host="farther")
    ended = project.run("verify", "--since", "2d")
    assert ended.code == int(wrong), ended.err
    if not wrong:
        assert ended.lines == ["Complete: 8 events of 2 processes."]
        return
    assert ended.lines[0] == (
        "Not complete: of 22 events of 3 processes, 3 missing (farther), 4 dropped (farther), "
        f"2 in a journal that nobody drains ({HOST})."
    )
    assert "Host farther" in ended.lines
    assert "recorder --once" in ended.out
    assert "4 for ENOSPC" in ended.out
    [total, *sources] = project.run("verify", "--json", "--all").values
    assert (total["complete"], total["missing"], total["dropped"], total["abandoned"]) == (False, 3, {"ENOSPC": 4}, 2)
    assert total["answer"] == "not complete"
    assert {one["source"]: (one["role"], one["missing"]) for one in sources} == {
        journal.source: ("producer", 0),
        "other-1": ("worker", 0),
        "other-2": ("worker", 3),
    }


@pytest.fixture
def project(store: Store, tmp_path: Path) -> Project:
    return Project(tmp_path, asynctask_url=store.settings.url, asynctask_journal_dir=str(tmp_path / "journal"))


def test_a_host_of_which_nothing_is_heard(store: Store, project: Project) -> None:
    store.write(lines([variant(published(), id="open")]))
    far(store, "a", "far\x1b[2J", numbered=7, last_seen_at=LONG_AGO)
    ended = project.run("verify")
    assert (ended.code, "\x1b" in ended.out) == (1, False), ended
    assert ended.lines[0] == (
        f"Not known: what 1 process of far\ufffd[2J did after {LONG_AGO:%Y-%m-%d %H:%M:%S} UTC, for nobody has heard "
        "of it since. At most 1 of the tasks that have no end here may have ended there. The rest is complete: 7 "
        "events of 1 process, of which 2 are on their way to the database."
    )
    assert "run `verify --accept 'far\ufffd[2J'`" in ended.out
    change(store, "a", host="far")
    ended = project.run("verify", "--json")
    assert ended.code == 1
    [total, account] = ended.values
    assert (total["complete"], total["answer"]) == (None, "not known")
    since = total["unknown"][0]["since"]
    assert total["unknown"] == [{"host": "far", "processes": 1, "since": since, "tasks": 1}]
    assert since.startswith(f"{LONG_AGO:%Y-%m-%dT%H:%M:%S}")
    assert (account["source"], account["known"], account["in_journal"]) == ("a", False, 2)


def test_only_some_hosts_are_listed(store: Store, project: Project) -> None:
    for number in range(MAX_HOSTS + 1):
        far(store, f"s{number}", f"host-{number:02}", numbered=5, last_seen_at=LONG_AGO)
    ended = project.run("verify")
    assert f"verify --accept host-{MAX_HOSTS - 1:02}" in ended.out
    assert f"verify --accept host-{MAX_HOSTS:02}" not in ended.out
    assert ended.lines[-1].startswith("1 more host: --json lists all.") or "1 more host: --json" in ended.out


def test_a_user_without_a_place_for_a_journal() -> None:
    [advice] = _advice(Ledger(), Path(os.devnull, "celery-asynctask", "rows"), None)
    assert "there is no place for one where this user can write" in advice
    assert os.devnull not in advice
    assert list(_advice(Ledger(), Path("/a"), None)) == ["This host has no journal directory /a."]


def test_how_the_command_fails(tmp_path: Path) -> None:
    project = Project(tmp_path, asynctask_url=f"sqlite:///{tmp_path / 'no.db'}")
    ended = project.run("verify")
    assert (ended.code, "There is no database file" in ended.err) == (3, True), ended
    ended = project.run("verify", "--since", "yesteryear")
    assert (ended.code, "'since' cannot be 'yesteryear'" in ended.err) == (2, True), ended
