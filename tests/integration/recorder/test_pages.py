"""What the control page of a process says beyond its segments."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from celery_asynctask.core.event import Kind, encode
from celery_asynctask.journal import Journal, spare, writer
from celery_asynctask.journal.survey import Survey
from celery_asynctask.journal.unstored import unstored
from celery_asynctask.recorder import pages
from celery_asynctask.store import Store
from tests.histories import ID, Delivery, about, fold, published
from tests.integration.draining import MakeDrain, append, rows, segment_files, source_of, sources, tasks
from tests.integration.recorder.test_failover import Clock, after, clock
from tests.integration.rows import stored
from tests.processes import at_once

__all__ = ["clock"]

RUN = Delivery(2)
AT = RUN.started(3)["at"]


def started(journal: Journal, delivery: Delivery = RUN) -> bytes:
    return encode(delivery.started(3, source=journal.source))


def killed(store: Store, path: Path, work: Any) -> str:
    """Let a process work on a journal and end without a word. Returns its source."""

    def child(_: int) -> str:
        mine = Journal(path / "journal", store.settings.store_id)
        work(mine)
        return mine.source

    [source] = at_once(1, child)
    return str(source)


@pytest.mark.every_database
def test_a_run_that_goes_on_is_visible(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    drain = make_drain()
    slot = journal.begin(started(journal))
    assert slot is not None
    drain.work()
    assert stored(store)[ID].task["status"] == "STARTED"
    source = source_of(store, journal.source)
    assert (source.stored, source.last_number, source.settled_at, source.ended_at) == (0, 0, None, None)
    end = encode(RUN.whole(Kind.SUCCEEDED, 9, 3, source=journal.source))
    journal.append(end, slot)
    drain.work()
    assert stored(store)[ID].task["status"] == "SUCCESS"
    assert source_of(store, journal.source).stored == 1


def test_a_start_is_stored_once(
    store: Store, make_drain: MakeDrain, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain = make_drain()
    journal.begin(started(journal))
    drain.work()
    written: list[Any] = []
    monkeypatch.setattr(drain.store, "write", lambda *arguments, **_: written.append(arguments))
    for _ in range(3):
        drain.work()
    assert written == []


@pytest.mark.parametrize("is_another", [False, True], ids=["the same recorder", "another"])
def test_a_run_that_goes_on_in_a_process_that_has_ended_its_segment(
    store: Store, make_drain: MakeDrain, journal: Journal, is_another: bool
) -> None:
    """The app was closed in the middle of a task, and a look came before the run was told."""
    drain = make_drain()
    append(journal, published())
    journal.begin(encode({**RUN.started(3, source=journal.source), "id": "other"}))
    journal.close()
    with mock.patch.object(pages, "_has_just_begun", return_value=True):
        drain.work(at_once=False)
    assert stored(store).keys() == {ID}
    (make_drain() if is_another else drain).work()
    assert stored(store)["other"].task["status"] == "STARTED"


@pytest.mark.parametrize("count", [1, 3])
def test_runs_in_hand_of_a_process_that_has_told_nothing_else(
    store: Store, make_drain: MakeDrain, journal: Journal, count: int
) -> None:
    for number in range(count):
        journal.begin(encode({**RUN.started(3, source=journal.source), "id": f"task-{number}"}))
    make_drain().work()
    assert len(stored(store)) == count
    assert [source.source for source in sources(store)] == [journal.source]


def test_a_run_that_has_just_begun_has_a_moment_to_end(
    store: Store, make_drain: MakeDrain, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each look of a busy node, some run is in hand: a transaction for each would cost more than it tells."""
    clock = mock.Mock(wraps=time, time_ns=lambda: (AT + 99_999) * 1000)
    monkeypatch.setattr(pages, "time", clock)
    drain = make_drain()
    journal.begin(started(journal))
    drain.work(at_once=False)
    assert stored(store) == {}
    clock.time_ns = lambda: (AT + 100_000) * 1000
    drain.work(at_once=False)
    assert stored(store)[ID].task["status"] == "STARTED"


def test_a_run_that_begins_in_the_future_is_visible(
    store: Store, make_drain: MakeDrain, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock was set back."""
    monkeypatch.setattr(pages, "time", mock.Mock(wraps=time, time_ns=lambda: (AT - 1_000_000) * 1000))
    drain = make_drain()
    journal.begin(started(journal))
    drain.work(at_once=False)
    assert stored(store)[ID].task["status"] == "STARTED"


def test_the_next_run_in_the_same_slot(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    drain = make_drain()
    for number in range(3):
        [start] = about([RUN.started(3, source=journal.source)], f"task-{number}")
        [end] = about([RUN.whole(Kind.SUCCEEDED, 9, 3, source=journal.source)], f"task-{number}")
        slot = journal.begin(encode(start))
        assert slot == 1
        drain.work()
        assert stored(store)[f"task-{number}"].task["status"] == "STARTED"
        journal.append(encode(end), slot)
    drain.work()
    assert {one.task["status"] for one in stored(store).values()} == {"SUCCESS"}


@pytest.mark.every_database
def test_the_last_word_of_a_process_that_was_killed(
    store: Store, make_drain: MakeDrain, tmp_path: Path, clock: Clock
) -> None:
    """In one transaction: its runs, its counts, and that this is all."""
    by_task = tasks(2)

    def work(journal: Journal) -> None:
        append(journal, *(event for events in by_task.values() for event in events))
        assert journal.begin(started(journal)) is not None

    name = killed(store, tmp_path, work)
    drain = make_drain()
    drain.work()
    assert stored(store, "task-") == rows(by_task)
    assert stored(store)[ID].task["status"] == "STARTED"
    source = source_of(store, name)
    assert (source.stored, source.last_number, source.numbered) == (8, 8, 8)
    assert source.settled_at is not None
    assert source.ended_at is not None
    assert segment_files(drain) == []
    for _ in range(5):
        after(drain, clock)
    assert stored(store)[ID].task["status"] == "LOST"


def test_numbers_whose_events_are_gone_are_missing(
    store: Store, make_drain: MakeDrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were in the memory of a process that was killed, or in a segment that somebody has removed."""

    def work(journal: Journal) -> None:
        append(journal, *tasks(1)["task-0"])
        journal._count()
        for path in (tmp_path / "journal").glob("*.events"):
            path.unlink()

    name = killed(store, tmp_path, work)
    make_drain().work()
    source = source_of(store, name)
    assert (source.stored, source.last_number, source.numbered) == (0, 4, 4)
    assert source.settled_at is not None


def test_a_process_that_has_recorded_nothing(store: Store, make_drain: MakeDrain, tmp_path: Path, clock: Clock) -> None:
    def work(journal: Journal) -> None:
        assert journal.begin(started(journal)) == 1
        journal._accounts.end(1, True)

    killed(store, tmp_path, work)
    drain = make_drain()
    for _ in range(9):
        after(drain, clock)
    [source] = sources(store)
    assert (source.stored, source.last_number, source.numbered) == (0, 0, 0)
    assert source.settled_at is not None
    assert drain.directory.pages() == {}


def test_what_a_process_drops_is_in_the_ledger(
    store: Store, make_drain: MakeDrain, journal: Journal, clock: Clock
) -> None:
    """Also while it can write nothing after that."""
    drain = make_drain()
    append(journal, published())
    drain.work()
    journal.dropped["ENOSPC"] += 3
    journal._count()
    after(drain, clock)
    source = source_of(store, journal.source)
    assert (source.dropped, source.stored, source.settled_at) == ({"ENOSPC": 3}, 1, None)


def test_a_process_that_lives_is_never_settled(
    store: Store, make_drain: MakeDrain, journal: Journal, clock: Clock
) -> None:
    drain = make_drain()
    append(journal, published())
    for _ in range(9):
        after(drain, clock, 3600)
    source = source_of(store, journal.source)
    assert (source.settled_at, source.ended_at, source.numbered) == (None, None, 1)


def test_a_process_that_can_begin_no_segment_lives(
    store: Store, make_drain: MakeDrain, journal: Journal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk with room for its page alone: what waits in its memory is neither lost nor its last word."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(writer, "create_locked", full)
        patch.setattr(spare, "spare_of", lambda *_: None)
        assert not journal.append(encode(published(1)))
        assert journal.path.joinpath(f"{journal.source}.page").exists()
        drain = make_drain()
        after(drain, clock)
        assert sources(store) == []
        survey = Survey(journal.path)
        left = unstored((), survey.view(journal.source), 0, 0)
        assert left is not None
        assert (left.lives, left.numbered, left.held) == (True, 1, 1)
    journal.close()
    after(drain, clock)
    source = source_of(store, journal.source)
    assert (source.stored, source.last_number) == (1, 1)
    assert source.settled_at is not None


def test_a_process_that_comes_back_is_not_settled_any_more(
    store: Store, make_drain: MakeDrain, journal: Journal, clock: Clock
) -> None:
    """An app was closed, and is used again."""
    drain = make_drain()
    append(journal, published())
    journal.close()
    drain.work()
    assert source_of(store, journal.source).settled_at is not None
    append(journal, published(1))
    after(drain, clock)
    source = source_of(store, journal.source)
    assert (source.settled_at, source.ended_at, source.stored, source.numbered) == (None, None, 2, 2)
    journal.close()
    after(drain, clock)
    source = source_of(store, journal.source)
    assert source.settled_at is not None
    assert source.stored == 2


def test_a_last_segment_that_is_found_late(
    store: Store, make_drain: MakeDrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was in the second place, which another container did not see. The next batch says the last word again."""
    name = killed(store, tmp_path, lambda journal: append(journal, published()))
    drain = make_drain()
    with monkeypatch.context() as patch:
        patch.setattr(drain, "_segments", list)
        drain.work()
    source = source_of(store, name)
    assert (source.stored, source.last_number, source.settled_at is not None) == (0, 1, True)
    drain.work()
    source = source_of(store, name)
    assert (source.stored, source.last_number, source.settled_at is not None) == (1, 1, True)


@pytest.mark.parametrize("is_told", [True, False], ids=["with events", "with nothing"])
def test_one_that_was_taken_for_living_is_settled_again(
    store: Store, make_drain: MakeDrain, journal: Journal, clock: Clock, is_told: bool
) -> None:
    """As by a statement of a recorder that was killed, which its database carries out later."""
    if is_told:
        append(journal, published())
    else:
        assert journal._open()
    drain = make_drain()
    drain.work()
    journal.close()
    drain.work()
    assert source_of(store, journal.source).settled_at is not None
    store.note_alive({journal.source: None})
    for _ in range(14):
        after(drain, clock)
    assert source_of(store, journal.source).settled_at is not None


def test_the_page_of_one_that_lives_stays(
    store: Store, make_drain: MakeDrain, journal: Journal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was seen just before it was locked."""
    drain = make_drain()
    append(journal, published())
    [segment] = journal.path.glob("*.events")
    with monkeypatch.context() as patch:
        patch.setattr(pages, "is_being_written", lambda _: False)
        patch.setattr(drain, "_segments", lambda: [])
        drain.work()
    for _ in range(14):
        after(drain, clock)
    assert [path.name for path in journal.path.glob("*.page")] == [f"{journal.source}.page"]
    assert segment.exists()
    source = source_of(store, journal.source)
    assert (source.stored, source.settled_at) == (1, None)


def test_the_page_of_one_that_lives_and_can_begin_no_segment_stays(
    store: Store, make_drain: MakeDrain, journal: Journal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer, "create_locked", full)
    monkeypatch.setattr(spare, "spare_of", lambda *_: None)
    assert not journal._open()
    drain = make_drain()
    with monkeypatch.context() as patch:
        patch.setattr(pages, "is_being_written", lambda _: False)  # it was not locked yet
        drain.work()
    for _ in range(14):
        after(drain, clock)
    assert any(journal.path.glob("*.page"))


def test_who_has_a_segment_has_a_page(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever it is killed: of a segment without a page, nobody knows whether there was more."""
    pages_then: list[bool] = []
    rename = Path.rename

    def renaming(path: Path, target: Path) -> Path:
        pages_then.append(any(journal.path.glob("*.page")))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", renaming)
    append(journal, published())
    assert pages_then == [True]


def test_another_recorder_does_not_settle_again(
    store: Store, make_drain: MakeDrain, journal: Journal, clock: Clock
) -> None:
    append(journal, published())
    journal.close()
    make_drain().work()
    at = source_of(store, journal.source).settled_at
    after(make_drain(), clock)
    assert source_of(store, journal.source).settled_at == at


def test_a_process_without_a_page_is_not_settled(
    store: Store, make_drain: MakeDrain, journal: Journal, clock: Clock
) -> None:
    """What it held in its memory nobody knows."""
    append(journal, published())
    journal.close()
    for path in (journal.path).glob("*.page"):
        path.unlink()
    drain = make_drain()
    for _ in range(3):
        after(drain, clock)
    source = source_of(store, journal.source)
    assert (source.stored, source.settled_at) == (1, None)
    assert source.ended_at is not None


def test_a_damaged_page_stops_nobody(store: Store, make_drain: MakeDrain, journal: Journal, clock: Clock) -> None:
    append(journal, published())
    journal.begin(started(journal))
    journal.close()
    [page] = journal.path.glob("*.page")
    page.write_bytes(os.urandom(9000))
    drain = make_drain()
    for _ in range(3):
        after(drain, clock)
    assert stored(store) == {ID: fold([published()])}
    source = source_of(store, journal.source)
    assert (source.stored, source.last_number) == (1, 1)


def test_a_page_that_cannot_be_read_stops_nobody(
    store: Store,
    make_drain: MakeDrain,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: object) -> None:
        raise OSError(errno.EIO, "bad disk")

    monkeypatch.setattr("celery_asynctask.recorder.pages.read", fail)
    append(journal, published())
    drain = make_drain()
    drain.work()
    drain.work()
    assert source_of(store, journal.source).stored == 1
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("celery-asynctask cannot read the control page ")


def test_a_start_that_the_database_refuses(
    store: Store, make_drain: MakeDrain, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left out, and takes nothing with it."""
    drain = make_drain()
    assert journal.begin(encode({**RUN.started(3), "at": 10**30})) is not None
    assert journal.begin(started(journal, Delivery(4))) is not None
    append(journal, published(1))
    drain.work()
    assert stored(store)[ID].task["status"] == "STARTED"
    assert "cannot store an event, which is left out: " in caplog.text
    assert source_of(store, journal.source).stored == 1


@pytest.mark.every_database
def test_what_a_process_without_a_segment_is_running_is_not_lost(
    store: Store, make_drain: MakeDrain, journal: Journal, clock: Clock
) -> None:
    """A full disk leaves it its page alone. What it is running is not lost."""
    drain = make_drain()
    assert journal.begin(started(journal)) is not None
    drain.work()
    assert journal._handle is not None
    os.close(journal._handle)
    journal._handle = None
    for _ in range(3):
        clock.at += 60
        drain._watch.look_at = 0.0
        drain.work()
    source = source_of(store, journal.source)
    assert (source.ended_at, source.settled_at) == (None, None)
    assert stored(store)[ID].task["status"] == "STARTED"
