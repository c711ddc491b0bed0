"""Draining: all events in the journal reach the database, once."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from celery_asynctask.core.event import Event, encode
from celery_asynctask.journal import Journal, frame, waiting, writer
from celery_asynctask.store import Store
from tests.histories import HISTORIES, ID, fold, ms, published
from tests.integration.draining import MakeDrain, append, quarantined, rows, segment_files, source_of, sources, tasks
from tests.integration.rows import stored
from tests.processes import at_once

pytestmark = pytest.mark.every_database


@pytest.fixture
def make_journal(store: Store, tmp_path: Path) -> Iterator[Callable[[str], Journal]]:
    """Creates processes' journals, named so that their order is known."""
    made: list[Journal] = []

    def make(name: str) -> Journal:
        made.append(Journal(tmp_path / "journal", store.settings.store_id))
        made[-1].source = name
        return made[-1]

    yield make
    for journal in made:
        journal.close()


def test_the_journals_of_dead_processes(store: Store, make_drain: MakeDrain, tmp_path: Path) -> None:
    """Each has some of the events of the same tasks; two of them are killed."""
    by_task = tasks(3, "retries_overlap")

    def child(number: int) -> str:
        mine = Journal(tmp_path / "journal", store.settings.store_id)
        for events in by_task.values():
            append(mine, *events[number::3])
        return mine.source

    names = at_once(3, child)
    drain = make_drain()
    drain.work()
    assert stored(store) == rows(by_task)
    assert segment_files(drain) == []
    assert [one.source for one in sources(store)] == sorted(names)
    for number, name in enumerate(names):
        count = 3 * len(HISTORIES["retries_overlap"]()[number::3])
        one = source_of(store, name)
        assert (one.stored, one.last_number, one.quarantined, one.dropped) == (count, count, 0, None)
        assert str(one.pid) in name.split("-")
        assert one.segment == 1


def test_a_living_process_s_segment_stays(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    history = HISTORIES["success"]()
    drain = make_drain()
    for count, event in enumerate(history, 1):
        append(journal, event)
        assert drain.batch() == 1
        assert drain.batch() == 0
        assert stored(store) == {ID: fold(history[:count])}
        assert len(segment_files(drain)) == 1
    journal.close()
    assert drain.batch() == 0
    assert segment_files(drain) == []
    assert source_of(store, journal.source).stored == len(history)


def test_a_process_killed_in_the_middle_of_a_line(store: Store, make_drain: MakeDrain, tmp_path: Path) -> None:
    history = HISTORIES["success"]()
    cut = frame.pack(3, encode(history[2]))[:20]
    pid = os.fork()
    if pid == 0:
        mine = Journal(tmp_path / "journal", store.settings.store_id)
        append(mine, *history[:2])
        os.write(mine._handle or -1, cut)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    drain = make_drain()
    drain.work()
    assert stored(store) == {ID: fold(history[:2])}
    assert quarantined(drain) == [cut]
    [source] = sources(store)
    assert (source.stored, source.quarantined, source.last_number) == (2, 1, 3)
    assert segment_files(drain) == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_batches_of_any_size(
    store: Store, make_drain: MakeDrain, journal: Journal, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SEGMENT_BYTES", 1500)  # several segments
    by_task = tasks(5)
    append(journal, *(event for events in by_task.values() for event in events))
    journal.close()
    drain = make_drain(batch_size=size)
    assert len(segment_files(drain)) > 2
    counts = []
    while count := drain.batch():
        counts.append(count)
    assert counts == [size] * (20 // size) + [20 % size] * bool(20 % size)
    drain.batch()
    assert segment_files(drain) == []
    assert stored(store) == rows(by_task)
    source = source_of(store, journal.source)
    assert (source.stored, source.last_number) == (20, 20)


def test_all_leaves_nothing(
    store: Store, make_drain: MakeDrain, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if a batch is small because its events are long."""
    monkeypatch.setattr(frame, "READ_BYTES", 600)
    by_task = tasks(5)
    append(journal, *(event for events in by_task.values() for event in events))
    drain = make_drain()
    drain.work()
    assert stored(store) == rows(by_task)
    assert drain.batch() == 0


def test_nothing_of_a_long_segment_is_passed_over(
    store: Store, make_drain: MakeDrain, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage a process has several segments, each longer than one read."""
    monkeypatch.setattr(frame, "READ_BYTES", 600)
    monkeypatch.setattr(writer, "SEGMENT_BYTES", 2000)
    by_task = tasks(10)
    append(journal, *(event for events in by_task.values() for event in events))
    journal.close()
    drain = make_drain()
    assert len(segment_files(drain)) > 3
    while segment_files(drain):
        drain.batch()
    assert stored(store) == rows(by_task)
    source = source_of(store, journal.source)
    assert (source.stored, source.last_number) == (40, 40)


def test_a_busy_process_does_not_keep_the_others_waiting(
    store: Store, make_drain: MakeDrain, make_journal: Callable[[str], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has more events for each batch than the batch takes, and comes first."""
    monkeypatch.setattr(writer, "SEGMENT_BYTES", 1500)  # several segments
    busy, *others = (make_journal(name) for name in "abc")
    by_task = tasks(12)
    for journal, number in zip(others, (10, 11), strict=True):
        append(journal, *by_task.pop(f"task-{number}")[:1])
    drain = make_drain(batch_size=3)
    for number, events in enumerate(by_task.values()):
        append(busy, *events)
        if number == 2:
            assert {"task-10", "task-11"} <= stored(store).keys()
        assert drain.batch() == 3
    drain.work()
    kept = stored(store)
    assert {task_id: kept[task_id] for task_id in by_task} == rows(by_task)
    assert (source_of(store, "a").stored, source_of(store, "a").last_number) == (40, 40)


def test_every_process_has_its_turn(
    store: Store, make_drain: MakeDrain, make_journal: Callable[[str], Journal]
) -> None:
    """One after the other, however many there are, and then from the first again."""
    for name in "abc":
        append(make_journal(name), *(event for events in tasks(2).values() for event in events))
    drain = make_drain(batch_size=2)
    seen = []
    for _ in range(6):
        before = {one.source: one.stored for one in sources(store)}
        drain.batch()
        seen += [one.source for one in sources(store) if one.stored != before.get(one.source, 0)]
    assert seen == list("abcabc")


def test_a_batch_has_a_bound_in_bytes(
    store: Store, make_drain: MakeDrain, make_journal: Callable[[str], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over all processes: the recorder lives in the worker's main process, whose memory is that of all its tasks."""
    for name in "abcdefghij":
        journal = make_journal(name)
        for number in range(5):
            append(journal, cast("Event", {**published(), "id": f"{name}-{number}", "args": ["x" * 99_000]}))
    drain = make_drain()
    write, sizes = drain.store.write, []

    def noting(events: Sequence[bytes], *more: Any, **options: Any) -> int:
        sizes.append(sum(map(len, events)))
        return write(events, *more, **options)

    monkeypatch.setattr(drain.store, "write", noting)
    drain.work()
    assert len(stored(store)) == 50
    assert sum(sizes) > 4_900_000
    assert max(sizes) <= 2 * 1024 * 1024
    assert len(sizes) <= 4


def test_an_empty_segment_is_removed(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    drain = make_drain()
    drain.directory.path.joinpath("a-1-b.000001.events").touch()
    assert drain.batch() == 0
    assert segment_files(drain) == []
    assert sources(store) == []


def test_an_empty_journal(make_drain: MakeDrain) -> None:
    drain = make_drain()
    drain.work()
    assert drain.batch() == 0


# -- again ---------------------------------------------------------------------------


def test_a_replay_does_nothing(store: Store, make_drain: MakeDrain, journal: Journal, tmp_path: Path) -> None:
    """The recorder died after the commit, before it could remove the segment."""
    append(journal, *HISTORIES["success"](), cast("Event", {"kind": "no event"}))
    journal.close()
    drain = make_drain()
    shutil.copytree(drain.directory.path, tmp_path / "copy")
    drain.work()
    before = (stored(store), source_of(store, journal.source).stored, quarantined(drain))
    assert len(quarantined(drain)) == 1
    for again in (make_drain(), drain):
        for file in (tmp_path / "copy").iterdir():
            shutil.copy(file, drain.directory.path / file.name)
        assert again.batch() == 0
        assert segment_files(again) == []
        assert (stored(store), source_of(store, journal.source).stored, quarantined(again)) == before


def test_another_recorder_goes_on_where_one_stopped(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    history = HISTORIES["retries_overlap"]()
    for event in history:
        append(journal, event)
        make_drain().work()
    assert stored(store) == {ID: fold(history)}
    assert source_of(store, journal.source).stored == len(history)


def test_a_closed_drain_goes_on(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    drain = make_drain()
    append(journal, published())
    drain.work()
    drain.close()
    append(journal, *HISTORIES["success"]()[1:])
    drain.work()
    assert stored(store) == {ID: fold(HISTORIES["success"]())}
    assert source_of(store, journal.source).stored == 4


# -- the ledger ----------------------------------------------------------------------


def test_accepted_is_stored_and_quarantined_and_dropped_and_still_there(
    store: Store, make_drain: MakeDrain, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full now and then, and a memory with room for one event."""
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0)
    monkeypatch.setattr(waiting, "KEPT_EVENTS", 1)
    write = os.write
    drain = make_drain(batch_size=10)
    by_task = tasks(10)
    events: Sequence[Event] = [event for one in by_task.values() for event in one]
    for number, event in enumerate(events):
        if number % 7 in (2, 3):
            with monkeypatch.context() as patch:
                patch.setattr(os, "write", lambda handle, data: write(handle, data[:3]))  # then the disk is full
                assert not journal.append(encode(event))
        elif number % 7 == 5:
            assert journal.append(b"no event")
        else:
            append(journal, event)
        if number == 20:
            drain.batch()
    drain.batch()
    there = sum(
        number > source_of(store, journal.source).last_number
        for segment in drain.directory.segments()
        for number in frame.read(segment, 0, 1000, ended=True).numbers
    )
    source = source_of(store, journal.source)
    assert there > 0
    told_dropped = sum((source.dropped or {}).values())
    dropped_there = sum(journal.dropped.values()) - told_dropped
    assert source.stored + source.quarantined + told_dropped + there + dropped_there == len(events)
    journal.close()
    drain.work()
    source = source_of(store, journal.source)
    assert source.last_number == source.stored + source.quarantined == len(events) - 6
    assert source.dropped == dict(journal.dropped)
    assert set(source.dropped) <= {"ENOSPC", "unusable directory"}
    assert sum(source.dropped.values()) == 6


def test_a_process_is_described_by_its_newest_segment(store: Store, make_drain: MakeDrain, tmp_path: Path) -> None:
    drain = make_drain()
    for number, dropped in ((1, {}), (2, {"ENOSPC": 1}), (3, {"ENOSPC": 2, "EIO": 1})):
        description = {
            "format": 1,
            "source": "s-7-x",
            "host": "h",
            "pid": 7,
            "role": "worker",
            "at": ms(number),
            "dropped": dropped,
        }
        data = frame.pack(0, json.dumps(description).encode()) + frame.pack(number, encode(published(number)))
        drain.directory.path.joinpath(f"s-7-x.{number:06}.events").write_bytes(data)
    drain.work()
    [source] = sources(store)
    assert (source.segment, source.stored, source.last_number) == (3, 3, 3)
    assert (source.host, source.pid, source.role, source.dropped) == ("h", 7, "worker", {"ENOSPC": 2, "EIO": 1})


def test_a_living_process_of_an_earlier_version_stays_one(store: Store, make_drain: MakeDrain) -> None:
    """Its own recorder may be the one to find it gone, after a step back, and settles nothing."""
    drain = make_drain()
    path = drain.directory.path / "s-7-x.000001.segment"
    about = {"format": 1, "source": "s-7-x", "host": "h", "pid": 7, "role": "child", "at": ms(1), "dropped": {}}
    path.write_bytes(frame.pack(0, json.dumps(about).encode()) + frame.pack(1, encode(published(1))))
    with path.open("rb") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        drain.work()
        [source] = sources(store)
        assert (source.last_number, source.stored, source.numbered, source.settled_at) == (1, 1, None, None)
    drain.work()
    [source] = sources(store)
    assert source.settled_at is not None
    assert not path.exists()


def test_the_cut_end_of_a_segment_that_a_forked_child_still_holds(
    store: Store, make_drain: MakeDrain, journal: Journal
) -> None:
    """As by uWSGI, before the child has noticed that it is one: its parent has gone on, so nothing follows."""
    append(journal, published(), published(1))
    assert journal._handle is not None
    child = os.dup(journal._handle)
    journal.close()
    [first] = journal.path.glob("*.events")
    first.write_bytes(first.read_bytes()[:-20])
    append(journal, published(2))
    drain = make_drain()
    drain.work()
    source = source_of(store, journal.source)
    assert (source.stored, source.quarantined, source.last_number) == (2, 1, 3)
    assert not first.exists()
    os.close(child)


def test_many_processes_in_one_batch(store: Store, make_drain: MakeDrain, tmp_path: Path) -> None:
    by_task = tasks(30, "failed")
    journals = [Journal(tmp_path / "journal", store.settings.store_id) for _ in range(4)]
    for number, event in enumerate(event for one in by_task.values() for event in one):
        append(journals[number % 3], event)
    drain = make_drain()
    assert drain.batch() == 120
    assert stored(store) == rows(by_task)
    assert len(sources(store)) == 3
    for one in journals:
        one.close()
