"""`celery asynctask verify`: complete or not, and what happened to missing events."""

from __future__ import annotations

import datetime as dt
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from celery_asynctask.cli.verify import _advice
from celery_asynctask.core.accounting import UNSIGNED, Account, Ledger
from celery_asynctask.core.event import unsigned
from celery_asynctask.journal import Directory, Journal, frame
from celery_asynctask.journal.survey import Survey, holder
from celery_asynctask.present.ledger import verdict
from celery_asynctask.queries import Reader
from celery_asynctask.queries.completeness import Completeness, _latest, completeness, silent
from celery_asynctask.queries.completeness import unsigned as signatures
from celery_asynctask.queries.statistics.overview import overview
from celery_asynctask.store import Position, SourceUpdate, Store
from celery_asynctask.store.models import AsyncTaskSource
from tests.histories import published
from tests.integration.commands import Project
from tests.integration.draining import MakeDrain, append

HOST = socket.gethostname()
OTHER = {
    "source": "other-1",
    "host": "far",
    "pid": 7,
    "role": "worker",
    "at": 1_750_000_000_000_000,
    "journal": "f" * 32,
}
ALL_THERE = Position(1, 100, last_number=5, stored=5)


def events(count: int) -> list[Any]:
    return [{**published(), "id": f"task-{number}"} for number in range(count)]


def add_source(store: Store, position: Position, **about: Any) -> None:
    store.write([], [SourceUpdate({**OTHER, **about}, position)])


def change(store: Store, source: str, **values: Any) -> None:
    with store.engine.begin() as connection:
        connection.execute(update(AsyncTaskSource).where(AsyncTaskSource.source == source).values(**values))


def check(store: Store, directory: Path | None = None, **how: Any) -> Completeness:
    reader = Reader(store.settings.url)
    try:
        return completeness(reader, Survey(directory) if directory else None, **how)
    finally:
        reader.close()


def numbers(account: Account) -> tuple[int, int, int | None, int, int, int]:
    """accepted, stored, in the journal, in quarantine, dropped, missing."""
    return (
        account.accepted,
        account.stored,
        account.in_journal,
        account.quarantined,
        account.dropped_total,
        account.missing,
    )


@pytest.mark.every_database
def test_all_is_stored(store: Store, journal: Journal, make_drain: MakeDrain) -> None:
    append(journal, *events(5))
    drain = make_drain()
    drain.work()
    found = check(store, journal.path, everything=True)
    assert [numbers(one) for one in found.accounts] == [(5, 5, 0, 0, 0, 0)]
    assert found.ledger.complete
    assert verdict(found.ledger) == "Complete: 5 events of 1 process."
    assert check(store, journal.path).accounts == [], "nothing to say of it"


@pytest.mark.every_database
def test_messages_that_were_not_signed_are_counted_and_nothing_is_lost(
    store: Store, journal: Journal, make_drain: MakeDrain
) -> None:
    """Also where the process dropped events, and says so in its next segment."""
    one, two, three = events(3)
    append(journal, unsigned(one), two)
    drain = make_drain()
    drain.work()
    journal.dropped["ENOSPC"] = 4
    journal.close()
    two["kwargs"] = {"unsigned": True}
    append(journal, unsigned(three), unsigned(two), one)
    drain.work()
    drain.close()
    reader = Reader(store.settings.url)
    with reader.session() as session:
        assert signatures(session, dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=1)) == {HOST: 3}
        assert signatures(session, dt.datetime.now(dt.timezone.utc) + dt.timedelta(days=1)) == {}
        assert overview(reader, session, dt.datetime.now(dt.timezone.utc)).recording.dropped == {"ENOSPC": 4}
    reader.close()
    [account] = check(store, journal.path, everything=True).accounts
    assert (numbers(account), account.dropped) == ((9, 5, 0, 0, 4, 0), {"ENOSPC": 4})
    change(store, journal.source, dropped={UNSIGNED: 3})
    assert check(store, everything=True).ledger.complete


def test_events_in_the_journal(store: Store, journal: Journal, make_drain: MakeDrain) -> None:
    """It is under way while a recorder is being elected; nobody else will store it."""
    append(journal, *events(5))
    drain = make_drain()
    drain.work()
    append(journal, *events(3))
    found = check(store, journal.path)
    assert [numbers(one) for one in found.accounts] == [(8, 5, 3, 0, 0, 0)]
    assert not found.ledger.complete
    assert f"3 in a journal that nobody drains ({HOST})" in verdict(found.ledger)
    elected = drain.directory.elect()
    assert elected is not None
    found = check(store, journal.path, everything=True)
    os.close(elected)
    assert [numbers(one) for one in found.accounts] == [(8, 5, 3, 0, 0, 0)]
    assert found.ledger.complete
    assert verdict(found.ledger) == "Complete: 8 events of 1 process, of which 3 are on their way to the database."


def test_several_segments_of_which_some_are_stored(store: Store, journal: Journal, make_drain: MakeDrain) -> None:
    append(journal, *events(2))
    make_drain().work()
    append(journal, *events(1))
    journal.close()
    append(journal, *events(4))
    assert [numbers(one) for one in check(store, journal.path).accounts] == [(7, 2, 5, 0, 0, 0)]


def test_a_stored_segment_that_is_not_removed_yet(store: Store, journal: Journal) -> None:
    append(journal, *events(2))
    journal.close()
    append(journal, *events(3))
    here = Directory(journal.path, store.settings.store_id)
    stored = Position(2, 0, last_number=2, stored=2)
    add_source(store, stored, source=journal.source, host=HOST, journal=here.id)
    assert [numbers(one) for one in check(store, journal.path).accounts] == [(5, 2, 3, 0, 0, 0)]


def test_a_source_that_is_not_in_the_database_yet(store: Store, journal: Journal) -> None:
    append(journal, *events(4))
    [account] = check(store, journal.path).accounts
    assert numbers(account) == (4, 0, 4, 0, 0, 0)
    assert (account.source, account.host, account.role) == (journal.source, HOST, "producer")


def test_a_damaged_line_in_the_journal(store: Store, journal: Journal, make_drain: MakeDrain) -> None:
    append(journal, *events(2))
    make_drain().work()
    append(journal, *events(2))
    [path] = journal.path.glob("*.events")
    with path.open("ab") as file:
        file.write(frame.pack(5, b"cut")[:-4])
    whole = check(store, journal.path)
    assert (whole.accounts[0].in_journal, whole.accounts[0].damaged) == (2, 0), "a living process may write it still"
    journal.close()
    with path.open("ab") as file:
        file.write(b"\n")
    [account] = check(store, journal.path).accounts
    assert (account.in_journal, account.damaged, account.accepted) == (2, 1, 5)
    drain = make_drain()
    drain.work()
    [account] = check(store, journal.path).accounts
    assert numbers(account) == (5, 4, 0, 1, 0, 0)


def test_a_segment_that_was_removed(store: Store, journal: Journal, make_drain: MakeDrain) -> None:
    append(journal, *events(2))
    make_drain().work()
    append(journal, *events(3))
    journal.close()
    next(journal.path.glob("*.events")).unlink()
    append(journal, *events(1))
    make_drain().work()
    [account] = check(store, journal.path).accounts
    assert numbers(account) == (6, 3, 0, 0, 0, 3)


def test_what_the_newest_segment_says_was_dropped(store: Store, journal: Journal, make_drain: MakeDrain) -> None:
    append(journal, *events(2))
    make_drain().work()
    journal.dropped.update(ENOSPC=3)
    journal.close()
    append(journal, *events(1))
    [account] = check(store, journal.path).accounts
    assert numbers(account) == (6, 2, 1, 0, 3, 0), "before the database has heard of it"
    make_drain().work()
    [account] = check(store, journal.path).accounts
    assert numbers(account) == (6, 3, 0, 0, 3, 0)


@pytest.mark.every_database
def test_sources_of_other_hosts(store: Store, journal: Journal) -> None:
    """Their journals cannot be read here, except those whose recorder found them gone and empty."""
    add_source(store, ALL_THERE)
    add_source(store, ALL_THERE, source="other-2")
    add_source(
        store, ALL_THERE._replace(last_number=9, quarantined=1, dropped={"ENOSPC": 2}), source="other-3", host="a"
    )
    now = dt.datetime.now(dt.timezone.utc)
    change(store, "other-2", ended_at=now)
    change(store, "other-3", ended_at=now, last_seen_at=now - dt.timedelta(minutes=10))
    found = check(store, everything=True)
    assert [(one.host, one.source, one.in_journal) for one in found.accounts] == [
        ("a", "other-3", None),
        ("far", "other-1", None),
        ("far", "other-2", 0),
    ]
    assert numbers(found.accounts[0]) == (11, 5, None, 1, 2, 3)
    assert dict(found.ledger.unknown) == {"a": 1, "far": 1}
    assert verdict(found.ledger) == (
        "Not complete: of 21 events of 3 processes, 3 missing (a), 2 dropped (a), 1 in quarantine (a)."
    )


def test_a_source_that_knows_more_than_it_numbered_hides_no_other(store: Store) -> None:
    """A damaged line may have been two."""
    add_source(store, ALL_THERE._replace(quarantined=2), source="other-1")
    add_source(store, ALL_THERE._replace(last_number=6), source="other-2")
    assert check(store).ledger.missing == 1


@pytest.mark.every_database
def test_since(store: Store, journal: Journal, make_drain: MakeDrain) -> None:
    """By the time when a process was last seen; events in the journal here count however old they are."""
    append(journal, *events(2))
    now = dt.datetime.now(dt.timezone.utc)
    drain = make_drain()
    drain.work()
    append(journal, *events(1))
    here = drain.directory
    for source, directory in (("old", here.id), ("older", "e" * 32), ("new", "e" * 32)):
        add_source(store, ALL_THERE, source=source, journal=directory)
    for source in ("old", "older", journal.source):
        change(store, source, last_seen_at=now - dt.timedelta(days=3))
    found = check(store, journal.path, since=now - dt.timedelta(days=2), everything=True)
    assert {one.source: (one.stored, one.in_journal) for one in found.accounts} == {
        "new": (5, None),
        journal.source: (2, 1),
    }
    assert len(check(store, journal.path, everything=True).accounts) == 4


def test_so_many_accounts_of_those_that_live_and_were_seen_last(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fleet with recycled children may have a hundred thousand; the ledger has all of them, and never holds many at a
    time."""
    held: list[int] = []

    def latest(accounts: list[Account], limit: int) -> list[Account]:
        held.append(len(accounts))
        return _latest(accounts, limit)

    monkeypatch.setattr(sys.modules[completeness.__module__], "_latest", latest)
    now = dt.datetime.now(dt.timezone.utc)
    for number in range(10):
        add_source(store, ALL_THERE, source=f"s-{number}")
        gone = None if number == 0 else now
        change(store, f"s-{number}", last_seen_at=now - dt.timedelta(days=10 - number), ended_at=gone)
    found = check(store, everything=True, limit=3)
    assert {one.source for one in found.accounts} == {"s-0", "s-8", "s-9"}
    assert found.ledger.processes == 10
    assert max(held) == 6


@pytest.mark.every_database
def test_silent_sources(store: Store) -> None:
    now = dt.datetime.now(dt.timezone.utc)
    for number, host in enumerate(("a", "a", "b", "c")):
        add_source(store, ALL_THERE, source=f"s{number}", host=host)
    long_ago = now - dt.timedelta(minutes=5)
    for source in ("s0", "s1", "s2"):
        change(store, source, last_seen_at=long_ago)
    change(store, "s2", ended_at=now)
    reader = Reader(store.settings.url)
    with reader.session() as session:
        assert [tuple(row) for row in silent(session, now)] == [("a", 2, long_ago)]
    reader.close()


def test_the_holder_of_a_lock(tmp_path: Path, journal: Journal) -> None:
    append(journal, *events(1))
    [path] = journal.path.glob("*.events")
    assert holder(path) == os.getpid()
    journal.close()
    assert holder(path) is None
    assert holder(tmp_path / "nothing") is None


@pytest.mark.parametrize("wrong", [False, True], ids=["complete", "not complete"])
def test_the_command(store: Store, journal: Journal, make_drain: MakeDrain, tmp_path: Path, wrong: bool) -> None:
    project = Project(tmp_path, asynctask_url=store.settings.url, asynctask_journal_dir=str(journal.path))
    append(journal, *events(3))
    make_drain().work()
    add_source(store, ALL_THERE, host="far\x1b[2J")
    if wrong:
        append(journal, *events(2))
        add_source(store, ALL_THERE._replace(last_number=8, dropped={"ENOSPC": 4}), source="other-2", host="farther")
    ended = project.run("verify", "--since", "2d")
    assert ended.code == int(wrong), ended.err
    assert "\x1b" not in ended.out
    assert "Run `verify` there." in ended.out
    if not wrong:
        assert ended.lines[0] == "Complete: 8 events of 2 processes."
        assert "Host " not in ended.out
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
    assert {one["source"]: (one["role"], one["missing"]) for one in sources} == {
        journal.source: ("producer", 0),
        "other-1": ("worker", 0),
        "other-2": ("worker", 3),
    }


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
