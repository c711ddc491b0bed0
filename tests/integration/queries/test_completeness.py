"""Complete, not complete or not known: what the ledger and the journal of this host say together."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from celery_asynctask.core.accounting import GIVEN_UP, UNSIGNED, Account, Answer, Unheard
from celery_asynctask.core.event import unsigned
from celery_asynctask.core.time import time_of
from celery_asynctask.journal import Directory, Journal, frame
from celery_asynctask.journal.spare import make
from celery_asynctask.journal.survey import Survey, holder
from celery_asynctask.journal.unstored import Unstored, unstored
from celery_asynctask.operations.accept import give_up, to_accept
from celery_asynctask.operations.session import Writer
from celery_asynctask.present.ledger import verdict
from celery_asynctask.queries import Reader
from celery_asynctask.queries.completeness import _latest, completeness
from celery_asynctask.queries.completeness import unsigned as signatures
from celery_asynctask.queries.statistics.overview import overview
from celery_asynctask.store import Position, Store
from celery_asynctask.store.models import AsyncTask
from tests.histories import HISTORIES, START, about, lines, published, variant
from tests.integration.accounts import (
    ALL_THERE,
    HOST,
    LONG_AGO,
    NOW,
    SECOND,
    add_source,
    change,
    check,
    events,
    far,
    numbers,
)
from tests.integration.draining import MakeDrain, append


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


# -- the control page


def kill(journal: Journal) -> None:
    """As SIGKILL does: nothing more is written, and the kernel releases the lock."""
    assert journal._handle is not None
    os.close(journal._handle)
    journal._handle = None
    journal._accounts.close(even_if_used=True)


def test_events_in_the_memory_of_a_process(store: Store, journal: Journal, make_drain: MakeDrain) -> None:
    """While it lives, they are on their way. Once it is dead, they are missing: their number is known."""
    append(journal, *events(5))
    make_drain().work()
    append(journal, *events(2))
    journal._accounts.count(11, {"ENOSPC": 3}, 4)
    [account] = check(store, journal.path).accounts
    assert numbers(account) == (14, 5, 6, 0, 3, 0)
    journal._accounts.count(11, {}, 3)
    [account] = check(store, journal.path).accounts
    assert numbers(account) == (11, 5, 5, 0, 0, 1), "one is neither there nor held"
    journal._accounts.count(11, {}, 4)
    kill(journal)
    found = check(store, journal.path)
    assert [numbers(one) for one in found.accounts] == [(11, 5, 2, 0, 0, 4)]
    assert f"4 missing ({HOST})" in verdict(found.ledger)


def test_a_process_that_has_only_its_page(store: Store, journal: Journal) -> None:
    append(journal, *events(5))
    kill(journal)
    next(journal.path.glob("*.events")).unlink()
    journal._accounts.count(5, {}, 0)
    [account] = check(store, journal.path).accounts
    assert (account.source, account.host, numbers(account)) == (journal.source, HOST, (5, 0, 0, 0, 0, 5))


def test_a_segment_that_somebody_removed_before_it_was_stored(store: Store, journal: Journal) -> None:
    append(journal, *events(3))
    journal.close()
    next(journal.path.glob("*.events")).unlink()
    append(journal, *events(2))
    [account] = check(store, journal.path).accounts
    assert numbers(account) == (5, 0, 2, 0, 0, 3)


def test_the_start_of_a_run_whose_process_is_dead(store: Store, journal: Journal) -> None:
    """It is an event that waits for the recorder; that of a living process is told with its end."""
    append(journal, *events(1))
    assert journal.begin(b'{"id":"x"}') is not None
    assert check(store, journal.path).ledger.in_journal == 1
    kill(journal)
    assert check(store, journal.path).ledger.waiting == 2
    here = Directory(journal.path, store.settings.store_id)
    add_source(store, Position(1, 10_000, last_number=1, stored=1), source=journal.source, journal=here.id)
    assert check(store, journal.path).ledger.in_journal == 1
    change(store, journal.source, settled_at=NOW, ended_at=NOW, numbered=1)
    assert check(store, journal.path).ledger.answer is Answer.COMPLETE, "the page is only kept"


def test_events_in_the_second_place(
    store: Store, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    append(journal, *events(2))
    journal.close()
    append(journal, *events(3))
    first = min(journal.path.glob("*.events"))
    spare = Survey(journal.path).spare
    assert spare is not None
    assert make(spare)
    shutil.move(first, spare)
    assert check(store, journal.path).ledger.in_journal == 5


def test_segments_of_an_earlier_release(store: Store, journal: Journal) -> None:
    """Its own recorder drains them, and one of this release."""
    append(journal, *events(2))
    kill(journal)
    for path in [*journal.path.glob("*.events"), *journal.path.glob("*.page")]:
        path.rename(path.with_suffix(".segment")) if path.suffix == ".events" else path.unlink()
    directory = Directory(journal.path, store.settings.store_id)
    [account] = check(store, journal.path).accounts
    assert (account.journal, account.waiting, numbers(account)) == (directory.old_id, 2, (2, 0, 2, 0, 0, 0))
    elected = directory.elect_old()
    assert elected is not None
    assert check(store, journal.path).ledger.answer is Answer.COMPLETE
    os.close(elected)


def test_a_segment_of_a_format_that_is_not_known(store: Store, journal: Journal) -> None:
    """Nobody here can say what is in it."""
    append(journal, *events(2))
    kill(journal)
    for page in journal.path.glob("*.page"):
        page.unlink()
    [path] = journal.path.glob("*.events")
    path.write_bytes(frame.pack(0, b'{"format":9}') + path.read_bytes())
    found = check(store, journal.path)
    assert (found.ledger.answer, found.ledger.unknown[HOST].processes) == (Answer.NOT_KNOWN, 1)
    assert [one.source for one in found.accounts] == [journal.source]


@pytest.mark.every_database
def test_the_last_word_of_a_process_is_known_everywhere(store: Store, journal: Journal, make_drain: MakeDrain) -> None:
    """It ended in peace, or was killed with events in its memory: what is lost is known by its number."""
    append(journal, *events(5))
    killed = Journal(journal.path, store.settings.store_id)
    append(killed, *events(2))
    drain = make_drain()
    drain.work()
    journal.close()
    killed._accounts.count(6, {"ENOSPC": 3}, 4)
    kill(killed)
    for _ in range(2):  # with the pages that are kept, and from another host
        drain.work()
        there, elsewhere = (check(store, path, everything=True).accounts for path in (journal.path, None))
        expected = {journal.source: (5, 5, 0, 0, 0, 0), killed.source: (9, 2, 0, 0, 3, 4)}
        for accounts in (there, elsewhere):
            assert {account.source: numbers(account) for account in accounts} == expected
            assert not any(account.unheard for account in accounts)
    assert check(store).ledger.answer is Answer.NOT_COMPLETE


@pytest.mark.every_database
def test_a_process_that_is_gone_with_its_disk(store: Store, journal: Journal, make_drain: MakeDrain) -> None:
    """While it is heard, all is well. A recorder elsewhere finds it silent, which tells no more."""
    append(journal, *events(5))
    drain = make_drain()
    drain.work()
    drain.close()
    assert check(store).ledger.answer is Answer.COMPLETE
    change(store, journal.source, last_seen_at=LONG_AGO)
    assert check(store).ledger.answer is Answer.NOT_KNOWN
    store.note_silent([journal.source])
    ledger = check(store).ledger
    assert (ledger.answer, ledger.unknown[HOST].until) == (Answer.NOT_KNOWN, None)
    writer = Writer(store.settings)
    accounts = check(store).accounts
    assert give_up(writer, to_accept(writer, HOST, accounts, NOW), NOW) == 1
    writer.close()
    assert check(store).ledger.answer is Answer.COMPLETE
    append(journal, *events(1))
    drain.work()
    [account] = check(store, everything=True).accounts
    assert (account.given_up_at, account.unheard, account.stored) == (None, False, 6), "it is heard again"


def test_what_is_stored_meanwhile_is_not_missing(
    store: Store, journal: Journal, make_drain: MakeDrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account was read before the recorder stored its events and removed the segment."""
    append(journal, *events(5))
    journal.close()
    drain = make_drain()
    looks = 0

    def late(*given: Any) -> Unstored | None:
        nonlocal looks
        looks += 1
        if looks == 1:
            drain.work()
        return unstored(*given)

    monkeypatch.setattr(sys.modules[completeness.__module__], "unstored", late)
    [account] = check(store, journal.path, everything=True).accounts
    assert looks == 2
    assert numbers(account) == (5, 5, 0, 0, 0, 0)


@pytest.mark.every_database
def test_what_is_known_of_processes_on_other_hosts(store: Store, journal: Journal) -> None:
    """Their journals cannot be read here. What is known of them ends with the last word of their recorder."""
    append(journal, *events(1))
    far(store, "a-lives", numbered=7)
    far(store, "b-settled", numbered=5, settled_at=LONG_AGO, ended_at=LONG_AGO, last_seen_at=LONG_AGO)
    far(store, "c-silent", numbered=7, last_seen_at=LONG_AGO)
    far(store, "d-without-a-last-word", numbered=5, ended_at=NOW)
    far(store, "e-found-silent", numbered=5, last_seen_at=LONG_AGO, ended_at=NOW)
    far(store, "f-given-up", numbered=7, last_seen_at=LONG_AGO, given_up_at=NOW)
    found = {one.source: one for one in check(store, journal.path, everything=True).accounts if one.host == "far"}
    assert {name: (one.in_journal, one.unheard, one.is_unknown, one.given_up) for name, one in found.items()} == {
        "a-lives": (2, False, False, 0),
        "b-settled": (0, False, False, 0),
        "c-silent": (2, True, True, 0),
        "d-without-a-last-word": (0, True, True, 0),
        "e-found-silent": (0, True, True, 0),
        "f-given-up": (0, True, False, 2),
    }
    ledger = check(store).ledger
    assert (ledger.answer, ledger.complete) == (Answer.NOT_KNOWN, None)
    assert ledger.unknown == {"far": Unheard(3, LONG_AGO, None, 0)}
    assert ledger.accepted_unknown == {"far": Unheard(1, LONG_AGO, None, 0)}
    assert ledger.accepted == 36
    reader = Reader(store.settings.url)
    with reader.session() as session:
        assert overview(reader, session, NOW).recording.unheard == 3
    reader.close()


@pytest.mark.every_database
def test_processes_of_an_earlier_release(store: Store, journal: Journal) -> None:
    """Its recorder says neither how many events they numbered nor that it has accounted for all."""
    here = Directory(journal.path, store.settings.store_id)
    append(journal, *events(1))
    far(store, "a-lives")
    far(store, "b-gone", ended_at=NOW)
    far(store, "c-silent", last_seen_at=LONG_AGO)
    far(store, "d-found-silent", last_seen_at=LONG_AGO, ended_at=NOW)
    add_source(store, ALL_THERE, source="e-gone-here", host=HOST, journal=here.old_id)
    change(store, "e-gone-here", last_seen_at=LONG_AGO)
    found = {one.source: one for one in check(store, journal.path, everything=True).accounts}
    assert {name: (one.in_journal, one.unheard) for name, one in found.items() if one.stored} == {
        "a-lives": (None, False),
        "b-gone": (0, False),
        "c-silent": (None, True),
        "d-found-silent": (None, True),
        "e-gone-here": (0, False),
    }


@pytest.mark.every_database
def test_the_tasks_that_may_have_ended_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only of a process that its own recorder found gone is it known until when it did something."""
    store.write(lines([variant(published(), id="open"), *about(HISTORIES["success"](), "over")]))
    store.write(lines([variant(published(), id="later")]))
    before = time_of(START + SECOND)
    with store.engine.begin() as connection:
        later = update(AsyncTask).where(AsyncTask.celery_task_id == "later")
        connection.execute(later.values(created_at=before + dt.timedelta(seconds=2)))
    far(store, "a", numbered=5, last_seen_at=before, ended_at=before + dt.timedelta(seconds=1))
    assert check(store).ledger.unknown["far"].tasks == 1
    far(store, "b", "farther", numbered=5, last_seen_at=LONG_AGO)
    assert [check(store).ledger.unknown[host].tasks for host in ("far", "farther")] == [1, 2]
    monkeypatch.setattr(sys.modules[completeness.__module__], "MAX_OPEN", 1)
    assert [check(store).ledger.unknown[host].tasks for host in ("far", "farther")] == [1, None]


@pytest.mark.every_database
def test_what_was_dropped_from_quarantine_is_named_and_no_loss(store: Store) -> None:
    far(store, "a", numbered=8, settled_at=NOW, position=ALL_THERE._replace(last_number=8, dropped={GIVEN_UP: 3}))
    ledger = check(store).ledger
    assert verdict(ledger) == "Complete, but for 3 events that were given up: 8 events of 1 process."
    reader = Reader(store.settings.url)
    with reader.session() as session:
        health = overview(reader, session, NOW).recording
        assert (health.missing, health.given_up, health.dropped) == (0, 3, {})
        change(store, "a", last_number=9)
    with reader.session() as session:
        assert overview(reader, session, NOW).recording.missing == 1
    reader.close()
    assert check(store).ledger.missing == 1


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


def test_the_holder_of_a_lock(tmp_path: Path, journal: Journal) -> None:
    append(journal, *events(1))
    [path] = journal.path.glob("*.events")
    assert holder(path) == os.getpid()
    journal.close()
    assert holder(path) is None
    assert holder(tmp_path / "nothing") is None
