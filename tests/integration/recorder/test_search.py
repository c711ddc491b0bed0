"""A working database refuses a batch: for its size, or because of one event that only it knows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from celery_asynctask.core.event import encode
from celery_asynctask.journal import Journal
from celery_asynctask.recorder import refusal
from celery_asynctask.recorder.drain import Drain
from celery_asynctask.recorder.refusal import Refusals
from celery_asynctask.store import Store
from tests.integration.draining import MakeDrain, append, quarantined, rows, source_of, tasks
from tests.integration.rows import stored

REFUSED = DatabaseError("INSERT", {}, Exception("1234 (HY000): no"))


class Picky:
    """Makes the database of a drain refuse some batches, and counts the transactions."""

    def __init__(self, drain: Drain, monkeypatch: pytest.MonkeyPatch, refuses: Callable[[list[bytes]], bool]) -> None:
        self.refuses = refuses
        self.sizes: list[int] = []
        """Of the batches that it has stored."""
        self.refused = self.probes = 0
        self._write, self._probe = drain.store.write, drain.store.probe
        monkeypatch.setattr(drain.store, "write", self.write)
        monkeypatch.setattr(drain.store, "probe", self.probe)

    def write(self, events: Any, *more: Any, **options: Any) -> int:
        if self.refuses(list(events)):
            self.refused += 1
            raise REFUSED
        count = self._write(events, *more, **options)
        self.sizes += [len(events)] if events else []
        return count

    def probe(self) -> None:
        self.probes += 1
        self._probe()


def bad_name(events: list[bytes]) -> bool:
    return any(b'"name":"bad"' in event for event in events)


def bad(number: int) -> bytes:
    return encode({"id": f"bad-{number}", "kind": "published", "at": 1, "name": "bad"})


def test_a_batch_that_is_too_large_is_stored_in_parts(
    store: Store, make_drain: MakeDrain, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time or its size is refused, whoever says so: no event is the reason."""
    by_task = tasks(50)
    append(journal, *(event for events in by_task.values() for event in events))
    drain = make_drain()
    picky = Picky(drain, monkeypatch, lambda events: len(events) > 60)
    drain.work()
    assert (stored(store), quarantined(drain)) == (rows(by_task), [])
    assert source_of(store, journal.source).stored == 200
    assert picky.refused <= 4
    append(journal, *(event for events in tasks(50, "failed").values() for event in events))
    before, picky.sizes = picky.refused, []
    drain.work()
    assert picky.refused == before, "it has learned how large batches may be"
    assert max(picky.sizes) <= 50


def test_larger_batches_are_tried_again_after_a_while(
    store: Store, make_drain: MakeDrain, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(journal, *(event for events in tasks(50).values() for event in events))
    drain = make_drain()
    picky = Picky(drain, monkeypatch, lambda events: len(events) > 60)
    drain.work()
    picky.refuses, picky.sizes = lambda _: False, []
    at = time.monotonic() + refusal.SMALL_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: at)
    append(journal, *(event for events in tasks(50, "failed").values() for event in events))
    drain.work()
    assert picky.sizes == [200]


@pytest.mark.every_database
def test_one_event_that_only_the_database_refuses(
    store: Store,
    make_drain: MakeDrain,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    by_task = tasks(50)
    events = [event for one in by_task.values() for event in one]
    append(journal, *events[:77])
    assert journal.append(bad(1))
    append(journal, *events[77:])
    drain = make_drain()
    picky = Picky(drain, monkeypatch, bad_name)
    drain.work()
    assert stored(store, "task-") == rows(by_task)
    assert quarantined(drain) == [bad(1)]
    source = source_of(store, journal.source)
    assert (source.stored, source.quarantined, source.last_number) == (200, 1, 201)
    assert picky.refused <= 12
    assert "cannot store an event, which goes into quarantine: 1234 (HY000): no." in caplog.text


def test_nothing_is_put_aside_for_one_refusal(
    store: Store, make_drain: MakeDrain, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been of that moment: a database that was read-only, seen through a driver that says so in its own
    words."""
    by_task = tasks(1)
    append(journal, *by_task["task-0"][:1])
    drain = make_drain()
    picky = Picky(drain, monkeypatch, lambda _: picky.refused < 1)
    drain.work()
    assert quarantined(drain) == []
    assert stored(store).keys() == {"task-0"}
    assert (picky.refused, picky.probes) == (1, 1)


@pytest.mark.parametrize("events", [1, 12])
def test_a_database_that_takes_nothing_is_away(
    store: Store, make_drain: MakeDrain, journal: Journal, monkeypatch: pytest.MonkeyPatch, events: int
) -> None:
    """Whatever it says, and however long: nothing goes into quarantine."""
    by_task = tasks(3)
    told = [event for one in by_task.values() for event in one]
    append(journal, *told[:events])
    drain = make_drain()
    with monkeypatch.context() as patch:
        picky = Picky(drain, patch, lambda _: True)
        patch.setattr(drain.store, "probe", lambda: picky.write([b"probe"]))
        for _ in range(3):
            with pytest.raises(DatabaseError, match="HY000"):
                drain.work()
            drain.close()
    assert (stored(store), quarantined(drain)) == ({}, [])
    append(journal, *told[events:])
    drain.work()
    assert (stored(store), quarantined(drain)) == (rows(by_task), [])


@pytest.mark.every_database
def test_a_schema_that_refuses_everything_is_an_outage(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    by_task = tasks(3)
    append(journal, *(event for one in by_task.values() for event in one))
    drain = make_drain()
    drain.store.prepare()
    with new_column(store):
        for _ in range(2):
            with pytest.raises(Exception, match=r"(?i)mine"):
                drain.work()
            drain.close()
    assert (stored(store), quarantined(drain)) == ({}, [])
    drain.work()
    assert (stored(store), quarantined(drain)) == (rows(by_task), [])


@contextmanager
def new_column(store: Store) -> Iterator[None]:
    """A column that must have a value, which this release does not know."""
    is_sqlite = store.engine.dialect.name == "sqlite"
    change, undo = (
        (
            "CREATE TRIGGER mine BEFORE INSERT ON async_task BEGIN SELECT RAISE(ABORT, 'mine is missing'); END",
            "DROP TRIGGER mine",
        )
        if is_sqlite
        else (
            "ALTER TABLE async_task ADD COLUMN mine INTEGER NOT NULL",
            "ALTER TABLE async_task DROP COLUMN mine",
        )
    )
    with store.engine.begin() as connection:
        connection.execute(text(change))
    yield
    with store.engine.begin() as connection:
        connection.execute(text(undo))


def test_others_do_not_wait_for_the_search(
    store: Store, make_drain: MakeDrain, journal: Journal, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one process writes poison and more poison, all that the others write is stored at once."""
    other = Journal(tmp_path / "journal", store.settings.store_id)
    other.source = f"20990101T000000-1-{'f' * 8}"
    for number in range(40):
        assert journal.append(bad(number))
    drain = make_drain()
    Picky(drain, monkeypatch, bad_name)
    waited = 0
    told = list(tasks(30).items())
    for _, events in told:
        append(other, *events)
        drain.batch()
        waited += source_of_or_zero(store, other.source) < 4
    assert waited <= 1, "until the two are stored apart"
    drain.work()
    assert stored(store, "task-") == rows(dict(told))
    assert len(quarantined(drain)) == 40
    other.close()


def source_of_or_zero(store: Store, source: str) -> int:
    return len(stored(store, "task-")) and source_of(store, source).stored


# -- how the search goes on


def test_the_search_halves() -> None:
    refusals = Refusals()
    refusals.refused({"a": 100})
    sizes = []
    left, poison = 100, 61
    while "a" in refusals and left:
        room = min(left, refusals.room(1000, "a"))
        sizes.append(room)
        if room > 1 and 0 <= poison - (100 - left) < room:
            refusals.refused({"a": room})
            continue
        is_poison = poison == 100 - left
        left -= room
        refusals.stored("a", room, int(is_poison))
    assert left == 0
    assert len(sizes) < 20
    assert sizes[:2] == [50, 25]
    assert refusals.room(1000) == 1000, "its size was not the reason"


def test_a_process_with_poison_is_stored_apart_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    refusals = Refusals()
    refusals.refused({"a": 1, "b": 1})
    assert set(refusals) == {"a", "b"}
    refusals.stored("a", 1, 0)
    refusals.stored("b", 1, 1)
    assert set(refusals) == {"b"}
    now[0] = refusal.ALONE_SECONDS
    refusals.stored("b", 0, 0)
    assert set(refusals) == set()
    assert refusals.room(100) == 100


def test_processes_that_are_refused_only_together_are_stored_in_smaller_batches() -> None:
    refusals = Refusals()
    refusals.refused({"a": 30, "b": 30})
    for source in "ab":
        refusals.stored(source, 30, 0)
    assert set(refusals) == set()
    assert refusals.room(1000) == 30


def test_a_process_that_has_nothing_more_is_not_waited_for() -> None:
    refusals = Refusals()
    refusals.refused({"a": 30})
    refusals.stored("a", 0, 0)
    assert set(refusals) == set()
