"""Draining: everything that is in the journal reaches the database once, and what cannot is put aside and counted."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from celery_asynctask.drain import Drain
from celery_asynctask.events import Event, encode
from celery_asynctask.journal import Directory, Journal, frame, reader, writer
from celery_asynctask.lifecycle import fold
from celery_asynctask.model import AsyncTaskSource
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.histories import HISTORIES, ID, about, ms, published
from tests.integration.rows import stored
from tests.processes import at_once

MakeDrain = Callable[..., Drain]


@pytest.fixture
def make_drain(store: Store, tmp_path: Path) -> Iterator[MakeDrain]:
    """Makes drains of one journal into the store, with settings of their own; each as after a restart."""
    made: list[Drain] = []

    def make(**more: Any) -> Drain:
        settings = Settings(url=store.settings.url, journal_dir=tmp_path / "journal", **more)
        made.append(Drain(Directory(settings.directory, settings.store_id), settings))
        return made[-1]

    yield make
    for one in made:
        if "engine" in one.store.__dict__:
            assert one.store.engine.pool.checkedout() == 0, "a connection was not given back"  # type: ignore[attr-defined]
        one.close()


@pytest.fixture
def journal(store: Store, tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal", store.settings.store_id)
    yield made
    made.close()


def append(journal: Journal, *events: Event) -> None:
    for event in events:
        assert journal.append(encode(event))


def segment_files(drain: Drain) -> list[str]:
    return [segment.path.name for segment in drain.directory.segments()]


def quarantined(drain: Drain) -> list[bytes]:
    files = sorted(drain.directory.path.glob("*.quarantine"))
    return [line for file in files for line in file.read_bytes().splitlines()]


def source_of(store: Store, name: str) -> AsyncTaskSource:
    with Session(store.engine, expire_on_commit=False) as session:
        return session.scalars(select(AsyncTaskSource).where(AsyncTaskSource.source == name)).one()


def sources(store: Store) -> list[AsyncTaskSource]:
    with Session(store.engine, expire_on_commit=False) as session:
        return list(session.scalars(select(AsyncTaskSource).order_by(AsyncTaskSource.source)))


def tasks(count: int, history: str = "success") -> dict[str, list[Event]]:
    """A history, told of many tasks."""
    return {f"task-{number}": about(HISTORIES[history](), f"task-{number}") for number in range(count)}


def rows(told: dict[str, list[Event]]) -> dict[str, Any]:
    return {task_id: fold(events) for task_id, events in told.items()}


# -- from journal to rows ------------------------------------------------------------------


def test_what_dead_processes_left_behind(store: Store, make_drain: MakeDrain, tmp_path: Path) -> None:
    """Each tells a part of what happened to the same tasks; two of them are killed."""
    told = tasks(3, "retries_overlap")

    def child(number: int) -> str:
        mine = Journal(tmp_path / "journal", store.settings.store_id)
        for events in told.values():
            append(mine, *events[number::3])
        return mine.source

    names = at_once(3, child)
    drain = make_drain()
    drain.all()
    assert stored(store) == rows(told)
    assert segment_files(drain) == []
    assert [one.source for one in sources(store)] == sorted(names)
    for number, name in enumerate(names):
        count = 3 * len(HISTORIES["retries_overlap"]()[number::3])
        one = source_of(store, name)
        assert (one.stored, one.last_number, one.quarantined, one.dropped) == (count, count, 0, None)
        assert str(one.pid) in name.split("-")
        assert one.segment == 1


def test_a_living_process_s_segment_stays(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    told = HISTORIES["success"]()
    drain = make_drain()
    for count, event in enumerate(told, 1):
        append(journal, event)
        assert drain.batch() == 1
        assert drain.batch() == 0
        assert stored(store) == {ID: fold(told[:count])}
        assert len(segment_files(drain)) == 1
    journal.close()
    assert drain.batch() == 0
    assert segment_files(drain) == []
    assert source_of(store, journal.source).stored == len(told)


def test_a_process_killed_in_the_middle_of_a_line(store: Store, make_drain: MakeDrain, tmp_path: Path) -> None:
    told = HISTORIES["success"]()
    cut = frame.pack(3, encode(told[2]))[:20]
    pid = os.fork()
    if pid == 0:
        mine = Journal(tmp_path / "journal", store.settings.store_id)
        append(mine, *told[:2])
        os.write(mine._handle or -1, cut)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    drain = make_drain()
    drain.all()
    assert stored(store) == {ID: fold(told[:2])}
    assert quarantined(drain) == [cut]
    [source] = sources(store)
    assert (source.stored, source.quarantined, source.last_number) == (2, 1, 2)
    assert segment_files(drain) == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_batches_of_any_size(
    store: Store, make_drain: MakeDrain, journal: Journal, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SEGMENT_BYTES", 1500)  # several segments
    told = tasks(5)
    append(journal, *(event for events in told.values() for event in events))
    journal.close()
    drain = make_drain(batch_size=size)
    assert len(segment_files(drain)) > 2
    counts = []
    while count := drain.batch():
        counts.append(count)
    assert counts == [size] * (20 // size) + [20 % size] * bool(20 % size)
    drain.batch()
    assert segment_files(drain) == []
    assert stored(store) == rows(told)
    source = source_of(store, journal.source)
    assert (source.stored, source.last_number) == (20, 20)


def test_all_leaves_nothing(
    store: Store, make_drain: MakeDrain, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a batch is small because its events are long."""
    monkeypatch.setattr(reader, "READ_BYTES", 600)
    told = tasks(5)
    append(journal, *(event for events in told.values() for event in events))
    drain = make_drain()
    drain.all()
    assert stored(store) == rows(told)
    assert drain.batch() == 0


def test_nothing_of_a_long_segment_is_passed_over(
    store: Store, make_drain: MakeDrain, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage a process has several segments, each longer than what is read at a time."""
    monkeypatch.setattr(reader, "READ_BYTES", 600)
    monkeypatch.setattr(writer, "SEGMENT_BYTES", 2000)
    told = tasks(10)
    append(journal, *(event for events in told.values() for event in events))
    journal.close()
    drain = make_drain()
    assert len(segment_files(drain)) > 3
    while segment_files(drain):
        drain.batch()
    assert stored(store) == rows(told)
    source = source_of(store, journal.source)
    assert (source.stored, source.last_number) == (40, 40)


def test_an_empty_segment_is_removed(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    drain = make_drain()
    drain.directory.path.joinpath("a-1-b.000001.segment").touch()
    assert drain.batch() == 0
    assert segment_files(drain) == []
    assert sources(store) == []


def test_an_empty_journal(make_drain: MakeDrain) -> None:
    drain = make_drain()
    drain.all()
    assert drain.batch() == 0


# -- again --------------------------------------------------------------------------------


def test_a_replay_does_nothing(store: Store, make_drain: MakeDrain, journal: Journal, tmp_path: Path) -> None:
    """The recorder died after the commit, before it could remove the segment."""
    append(journal, *HISTORIES["success"](), cast("Event", {"kind": "no event"}))
    journal.close()
    drain = make_drain()
    shutil.copytree(drain.directory.path, tmp_path / "copy")
    drain.all()
    before = (stored(store), source_of(store, journal.source).stored, quarantined(drain))
    assert len(quarantined(drain)) == 1
    for again in (make_drain(), drain):
        for file in (tmp_path / "copy").iterdir():
            shutil.copy(file, drain.directory.path / file.name)
        assert again.batch() == 0
        assert segment_files(again) == []
        assert (stored(store), source_of(store, journal.source).stored, quarantined(again)) == before


def test_another_recorder_goes_on_where_one_stopped(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    told = HISTORIES["retries_overlap"]()
    for event in told:
        append(journal, event)
        make_drain().all()
    assert stored(store) == {ID: fold(told)}
    assert source_of(store, journal.source).stored == len(told)


def test_a_closed_drain_goes_on(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    drain = make_drain()
    append(journal, published())
    drain.all()
    drain.close()
    append(journal, *HISTORIES["success"]()[1:])
    drain.all()
    assert stored(store) == {ID: fold(HISTORIES["success"]())}
    assert source_of(store, journal.source).stored == 4


# -- what cannot be stored -----------------------------------------------------------------


def test_damaged_lines_are_put_aside_and_the_rest_is_stored(
    store: Store, make_drain: MakeDrain, journal: Journal
) -> None:
    told = tasks(4)
    append(journal, *(event for events in told.values() for event in events))
    journal.close()
    drain = make_drain()
    [segment] = drain.directory.segments()
    lines = segment.path.read_bytes().splitlines()
    damaged = {5: lines[5][:-1], 6: b"", 9: b"\xff" * 30, 16: lines[16].replace(b"task-3", b"task-9")}
    segment.path.write_bytes(b"\n".join([damaged.get(number, line) for number, line in enumerate(lines)]) + b"\n")
    drain.all()
    events = [event for one in told.values() for event in one]
    kept = [event for number, event in enumerate(events, 1) if number not in damaged]
    assert stored(store) == {task_id: fold([event for event in kept if event["id"] == task_id]) for task_id in told}
    assert quarantined(drain) == list(damaged.values())
    source = source_of(store, journal.source)
    assert (source.stored, source.quarantined, source.last_number) == (12, 4, 15)


@pytest.mark.parametrize("data", [b"[]", b"{}", b'{"kind":"exploded","id":"a","name":"n","at":1}', b"no json"])
def test_what_is_no_event_is_put_aside(store: Store, make_drain: MakeDrain, journal: Journal, data: bytes) -> None:
    assert journal.append(data)
    append(journal, published())
    drain = make_drain()
    drain.all()
    assert quarantined(drain) == [data]
    assert stored(store) == {ID: fold([published()])}
    source = source_of(store, journal.source)
    assert (source.stored, source.quarantined, source.last_number) == (1, 1, 2)


POISON: list[dict[str, Any]] = [
    {"kind": "started", "at": 10**30},
    {"at": "yesterday"},
    {"created": 10**30},
    {"created": -(10**18)},
    {"retries": 2**70},
    {"retries": "many"},
    {"name": None},
    {"name": "\ud800"},
    {"id": None},
    {"kind": "started", "run": "no token", "delivered": True},
    {"kind": "started", "sent": "before"},
]


@pytest.mark.parametrize("poison", POISON, ids=str)
def test_poison_is_put_aside_alone(
    store: Store, make_drain: MakeDrain, journal: Journal, poison: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    told = tasks(5)
    events = [event for one in told.values() for event in one]
    bad = cast("Event", {**published(), "id": "bad", **poison})
    append(journal, *events[:7], bad, *events[7:])
    drain = make_drain()
    drain.all()
    assert stored(store, "task-") == rows(told)
    assert quarantined(drain) == [encode(bad)]
    source = source_of(store, journal.source)
    assert (source.stored, source.quarantined, source.last_number) == (20, 1, 21)
    assert f"cannot store an event ({bad['kind']}) of task {bad['id']} and keeps it in quarantine" in caplog.text
    assert f"put 1 entries that cannot be stored into {journal.source}.quarantine" in caplog.text
    append(journal, published())
    drain.all()
    assert ID in stored(store)


def test_poison_of_this_database(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite takes texts of any length")
    bad = [cast("Event", {**published(1), **one}) for one in ({"id": "x" * 256}, {"error_type": "x" * 256})]
    append(journal, bad[0], published(), bad[1])
    drain = make_drain()
    drain.all()
    assert quarantined(drain) == [encode(one) for one in bad]
    assert stored(store) == {ID: fold([published()])}


def test_nothing_but_poison(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    bad = [cast("Event", {**published(number), "name": None}) for number in range(5)]
    append(journal, *bad)
    drain = make_drain()
    drain.all()
    assert (stored(store), quarantined(drain)) == ({}, [encode(one) for one in bad])
    source = source_of(store, journal.source)
    assert (source.stored, source.quarantined, source.last_number) == (0, 5, 5)


# -- outages --------------------------------------------------------------------------------


def rename(store: Store, table: str, new_name: str) -> None:
    with store.engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO {new_name}"))


@pytest.mark.parametrize("table", ["async_task", "async_task_attempt"])
def test_an_outage_loses_nothing(store: Store, make_drain: MakeDrain, journal: Journal, table: str) -> None:
    """A table that is not there stands for whatever keeps a database from working."""
    told = tasks(3)
    events = [event for one in told.values() for event in one]
    append(journal, *events[:5])
    assert journal.append(b"no event")
    drain = make_drain()
    drain.store.position(journal.source)
    drain._prepared = True
    rename(store, table, "away")
    try:
        for _ in range(3):
            with pytest.raises(SQLAlchemyError):
                drain.all()
            drain.close()
        append(journal, *events[5:])
        with pytest.raises(SQLAlchemyError):
            drain.all()
        assert quarantined(drain) == [], "nothing is put aside before what goes with it is stored"
    finally:
        rename(store, "away", table)
    drain.all()
    assert stored(store) == rows(told)
    assert quarantined(drain) == [b"no event"]
    source = source_of(store, journal.source)
    assert (source.stored, source.quarantined, source.last_number) == (12, 1, 13)


def test_a_database_that_does_not_answer(tmp_path: Path) -> None:
    settings = Settings(url="postgresql+psycopg://u@127.0.0.1:9/d", journal_dir=tmp_path / "journal")
    journal = Journal(settings.directory, settings.store_id)
    append(journal, published())
    journal.close()
    drain = Drain(Directory(settings.directory, settings.store_id), settings)
    for _ in range(2):
        with pytest.raises(SQLAlchemyError, match="connection failed"):
            drain.all()
        drain.close()
    [segment] = drain.directory.segments()
    assert len(reader.read(segment, 0, 10, ended=True).frames) == 1


def test_an_outage_between_two_parts_of_a_batch_with_poison(
    store: Store, make_drain: MakeDrain, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of it are stored already; they are stored again, which does nothing."""
    told = tasks(4)
    events = [event for one in told.values() for event in one]
    bad = cast("Event", {**published(), "name": None})
    append(journal, *events[:8], bad, *events[8:])
    drain = make_drain()
    write = drain.store.write
    calls: list[int] = []

    def failing(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise ConnectionResetError
        write(*args, **kwargs)

    monkeypatch.setattr(drain.store, "write", failing)
    with pytest.raises(ConnectionResetError):
        drain.all()
    assert quarantined(drain) == []
    assert 0 < len(stored(store)) < len(told)
    drain.all()
    assert stored(store) == rows(told)
    assert quarantined(drain) == [encode(bad)]
    assert source_of(store, journal.source).stored == len(events)


def test_a_quarantine_that_cannot_be_written(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    """Nothing is counted as put aside that is not."""
    assert journal.append(b"no event")
    append(journal, published())
    drain = make_drain()
    in_the_way = drain.directory.path / f"{journal.source}.quarantine"
    in_the_way.mkdir()
    with pytest.raises(OSError, match="directory"):
        drain.all()
    assert (stored(store), sources(store)) == ({}, [])
    in_the_way.rmdir()
    drain.all()
    assert quarantined(drain) == [b"no event"]
    assert stored(store) == {ID: fold([published()])}


# -- the ledger -----------------------------------------------------------------------------


def test_accepted_is_stored_and_quarantined_and_dropped_and_still_there(
    store: Store, make_drain: MakeDrain, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0)
    write = os.write
    drain = make_drain(batch_size=10)
    told = tasks(10)
    events: Sequence[Event] = [event for one in told.values() for event in one]
    accepted = 0
    for number, event in enumerate(events):
        accepted += 1
        if number % 7 == 3:
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
        one.number > source_of(store, journal.source).last_number
        for segment in drain.directory.segments()
        for one in reader.read(segment, 0, 1000, ended=True).frames
    )
    source = source_of(store, journal.source)
    assert there > 0
    dropped_there = sum(journal.dropped.values()) - sum(source.dropped.values())
    assert accepted == source.stored + source.quarantined + sum(source.dropped.values()) + there + dropped_there
    journal.close()
    drain.all()
    source = source_of(store, journal.source)
    assert accepted == source.last_number == 40
    assert accepted == source.stored + source.quarantined + sum(source.dropped.values())
    assert source.dropped == dict(journal.dropped) == {"ENOSPC": 6}


def test_a_source_is_told_of_as_its_newest_segment_describes_it(
    store: Store, make_drain: MakeDrain, tmp_path: Path
) -> None:
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
        drain.directory.path.joinpath(f"s-7-x.{number:06}.segment").write_bytes(data)
    drain.all()
    [source] = sources(store)
    assert (source.segment, source.stored, source.last_number) == (3, 3, 3)
    assert (source.host, source.pid, source.role, source.dropped) == ("h", 7, "worker", {"ENOSPC": 2, "EIO": 1})


def test_many_processes_in_one_batch(store: Store, make_drain: MakeDrain, tmp_path: Path) -> None:
    told = tasks(30, "failed")
    journals = [Journal(tmp_path / "journal", store.settings.store_id) for _ in range(4)]
    for number, event in enumerate(event for one in told.values() for event in one):
        append(journals[number % 3], event)
    drain = make_drain()
    assert drain.batch() == 120
    assert stored(store) == rows(told)
    assert len(sources(store)) == 3
    for one in journals:
        one.close()
