"""The database goes back to an older state, as a standby that lags behind, or a backup: nothing is lost while the
journal has it."""

from __future__ import annotations

import datetime as dt
from typing import Any
from unittest import mock

import pytest
from sqlalchemy import delete, insert, select

from celery_asynctask.core.event import encode
from celery_asynctask.journal import Journal
from celery_asynctask.recorder import liveness
from celery_asynctask.recorder.drain import Drain
from celery_asynctask.store import Store
from celery_asynctask.store.tables import async_task, async_task_attempt, async_task_source
from tests.histories import HISTORIES, ID, Delivery, fold, published
from tests.integration.draining import MakeDrain, append, rows, segment_files, source_of, sources, tasks
from tests.integration.rows import stored

EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
TABLES = (async_task, async_task_attempt, async_task_source)
Backup = dict[Any, list[dict[str, Any]]]


def backup(store: Store) -> Backup:
    with store.engine.connect() as connection:
        return {table: [dict(row._mapping) for row in connection.execute(select(table))] for table in TABLES}


def restore(store: Store, saved: Backup) -> None:
    with store.engine.begin() as connection:
        for table, kept in saved.items():
            connection.execute(delete(table))
            if kept:
                connection.execute(insert(table), kept)


class Clock:
    """Both clocks of the recorder, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = 1000.0
        monkeypatch.setattr("celery_asynctask.recorder.liveness.time.monotonic", lambda: self.at)
        monkeypatch.setattr("celery_asynctask.store.store._now", lambda: EPOCH + dt.timedelta(seconds=self.at))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def kept_files(drain: Drain) -> list[str]:
    return [segment.path.name for segment in drain.directory.kept()]


def after(drain: Drain, clock: Clock, seconds: float = liveness.LOOK_SECONDS) -> None:
    clock.at += seconds
    drain.work()
    drain.work()


@pytest.mark.every_database
def test_a_living_process(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    """It writes on, and the batch notices that the ledger is another one."""
    by_task = tasks(5)
    events = [event for one in by_task.values() for event in one]
    drain = make_drain()
    append(journal, *events[:5])
    drain.work()
    saved = backup(store)
    append(journal, *events[5:15])
    drain.work()
    restore(store, saved)
    append(journal, *events[15:])
    drain.work()
    assert stored(store) == rows(by_task)
    source = source_of(store, journal.source)
    assert (source.stored, source.last_number) == (20, 20)


@pytest.mark.parametrize("back_to", ["before the process", "before its end"])
@pytest.mark.every_database
def test_a_process_that_is_gone(
    store: Store, make_drain: MakeDrain, journal: Journal, clock: Clock, back_to: str
) -> None:
    """Nobody writes any more: the next look notices it."""
    by_task = tasks(5)
    events = [event for one in by_task.values() for event in one]
    drain = make_drain()
    empty = backup(store)
    append(journal, *events[:5])
    drain.work()
    saved = backup(store) if back_to == "before its end" else empty
    append(journal, *events[5:])
    journal.close()
    drain.work()
    assert segment_files(drain) == []
    assert len(kept_files(drain)) == 1
    restore(store, saved)
    after(drain, clock)
    assert stored(store) == rows(by_task)
    source = source_of(store, journal.source)
    assert (source.stored, source.last_number) == (20, 20)
    assert source.settled_at is not None
    assert len(kept_files(drain)) == 1, "kept again"


def test_a_recorder_that_begins_after_the_failover(
    store: Store, make_drain: MakeDrain, journal: Journal, clock: Clock
) -> None:
    by_task = tasks(5)
    empty = backup(store)
    append(journal, *(event for one in by_task.values() for event in one))
    journal.close()
    make_drain().work()
    restore(store, empty)
    after(make_drain(), clock)
    assert stored(store) == rows(by_task)


def test_a_process_that_is_stored_alone(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    """The batch of the others notices the failover; what is kept of this one comes before its next segment."""
    by_task = tasks(4)
    events = [event for one in by_task.values() for event in one]
    other = Journal(journal.path, store.settings.store_id)
    drain = make_drain()
    saved = backup(store)
    append(journal, *events[:5])
    append(other, *events[5:8])
    journal.close()
    drain.work()
    restore(store, saved)
    append(journal, *events[8:12])
    append(other, *events[12:])
    drain._refusals.refused({journal.source: 4})
    drain.work()
    assert stored(store) == rows(by_task)
    assert source_of(store, journal.source).stored == 9
    other.close()


def test_its_page_does_not_say_the_last_word_before_what_is_kept_is_stored_again(
    store: Store, make_drain: MakeDrain, journal: Journal
) -> None:
    """For the time until a look, all its events would have been missing."""
    empty = backup(store)
    append(journal, *tasks(2)["task-0"])
    journal.close()
    make_drain().work()
    stored_before = source_of(store, journal.source).stored
    restore(store, empty)
    make_drain().batch()
    source = source_of(store, journal.source)
    assert (source.stored, source.settled_at is not None) == (stored_before, True)


@pytest.mark.parametrize("again", ["the same", "another"])
def test_a_process_that_has_begun_its_next_segment(
    store: Store, make_drain: MakeDrain, journal: Journal, again: str
) -> None:
    """A recorder that has lost its connection, or has just begun, stores the end of the last segment first."""
    by_task = tasks(5)
    events = [event for one in by_task.values() for event in one]
    drain = make_drain()
    append(journal, *events[:5])
    drain.work()
    saved = backup(store)
    append(journal, *events[5:10])
    journal.close()
    append(journal, *events[10:15])
    drain.work()
    assert len(kept_files(drain)) == 1
    restore(store, saved)
    drain.close()
    append(journal, *events[15:])
    (drain if again == "the same" else make_drain()).work()
    assert stored(store) == rows(by_task)
    source = source_of(store, journal.source)
    assert (source.stored, source.last_number) == (20, 20)


def test_what_is_stored_is_kept_for_a_while(
    store: Store, make_drain: MakeDrain, journal: Journal, clock: Clock
) -> None:
    append(journal, *HISTORIES["success"]())
    journal.close()
    drain = make_drain(journal_keep=30)
    drain.work()
    for _ in range(2):
        assert len(kept_files(drain)) == 1
        assert list(drain.directory.pages()) == [journal.source]
        after(drain, clock)
    assert len(kept_files(drain)) == 1
    after(drain, clock, 20)
    assert kept_files(drain) == []
    after(drain, clock)
    assert drain.directory.pages() == {}
    assert [path.name for path in drain.directory.path.iterdir() if journal.source in path.name] == []
    assert stored(store) == {ID: fold(HISTORIES["success"]())}


def test_a_segment_of_which_nothing_is_left_is_kept_once(
    store: Store, make_drain: MakeDrain, journal: Journal, clock: Clock
) -> None:
    """The ledger never gets that far, and yet has all of it."""
    drain = make_drain()
    append(journal, *tasks(2)["task-0"])
    journal.close()
    drain.work()
    drain.directory.path.joinpath(f"{journal.source}.000002.events").touch()
    after(drain, clock)
    assert len(kept_files(drain)) == 2
    with mock.patch.object(drain.directory, "revive") as revive:
        after(drain, clock)
    assert not revive.called
    assert segment_files(drain) == []


def test_nothing_is_kept_without_the_setting(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    append(journal, *HISTORIES["success"]())
    journal.close()
    drain = make_drain(journal_keep=0)
    drain.work()
    assert (segment_files(drain), kept_files(drain)) == ([], [])
    assert stored(store) == {ID: fold(HISTORIES["success"]())}


def test_a_run_in_hand(store: Store, make_drain: MakeDrain, journal: Journal, clock: Clock) -> None:
    """Its process says nothing more while it runs."""
    drain = make_drain()
    empty = backup(store)
    delivery = Delivery(2)
    assert journal.begin(encode(delivery.started(3, source=journal.source))) is not None
    drain.work()
    restore(store, empty)
    after(drain, clock, 60)
    assert stored(store)[ID].task["status"] == "STARTED"


def test_another_recorder_meanwhile(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    """Two that both believe to be elected store each event once."""
    by_task = tasks(6)
    first, second = make_drain(), make_drain()
    for number, events in enumerate(by_task.values()):
        append(journal, *events)
        (first, second)[number % 2].work()
    assert stored(store) == rows(by_task)
    source = source_of(store, journal.source)
    assert (source.stored, source.last_number, source.quarantined) == (24, 24, 0)


def test_the_log_says_it(
    store: Store, make_drain: MakeDrain, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    drain = make_drain()
    empty = backup(store)
    append(journal, published())
    drain.work()
    restore(store, empty)
    append(journal, published(1))
    drain.work()
    [line] = [record.getMessage() for record in caplog.records]
    assert "finds the database in an older state than it has left it, as after a failover" in line
    assert [one.stored for one in sources(store)] == [2]
