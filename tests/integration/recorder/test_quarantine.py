"""Events that cannot be stored go into quarantine and are counted, and an outage loses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from celery_asynctask.core.event import Event, encode
from celery_asynctask.journal import Directory, Journal, frame
from celery_asynctask.operations.doctor import journal as journal_checks
from celery_asynctask.recorder.drain import Drain
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests import services
from tests.histories import ID, fold, published
from tests.integration.draining import MakeDrain, append, quarantined, rows, source_of, sources, tasks
from tests.integration.rows import stored

pytestmark = pytest.mark.every_database


def test_damaged_lines_are_put_aside_and_the_rest_is_stored(
    store: Store, make_drain: MakeDrain, journal: Journal
) -> None:
    by_task = tasks(4)
    append(journal, *(event for events in by_task.values() for event in events))
    journal.close()
    drain = make_drain()
    [segment] = drain.directory.segments()
    lines = segment.path.read_bytes().splitlines()
    damaged = {5: lines[5][:-1], 6: b"", 9: b"\xff" * 30, 16: lines[16].replace(b"task-3", b"task-9")}
    segment.path.write_bytes(b"\n".join([damaged.get(number, line) for number, line in enumerate(lines)]) + b"\n")
    drain.work()
    events = [event for one in by_task.values() for event in one]
    kept = [event for number, event in enumerate(events, 1) if number not in damaged]
    assert stored(store) == {task_id: fold([event for event in kept if event["id"] == task_id]) for task_id in by_task}
    assert quarantined(drain) == list(damaged.values())
    source = source_of(store, journal.source)
    assert (source.stored, source.quarantined, source.last_number) == (12, 4, 16)


@pytest.mark.parametrize("data", [b"[]", b"{}", b'{"kind":"exploded","id":"a","name":"n","at":1}', b"no json"])
def test_invalid_events_go_into_quarantine(store: Store, make_drain: MakeDrain, journal: Journal, data: bytes) -> None:
    assert journal.append(data)
    append(journal, published())
    drain = make_drain()
    drain.work()
    assert quarantined(drain) == [data]
    assert stored(store) == {ID: fold([published()])}
    source = source_of(store, journal.source)
    assert (source.stored, source.quarantined, source.last_number) == (1, 1, 2)


def test_a_full_quarantine_does_not_stop_recording(
    store: Store, make_drain: MakeDrain, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """A few large messages that no database takes filled the journal, and the events of everybody else were dropped."""
    limit = 1_000_000
    drain = make_drain(journal_max_bytes=limit)
    for number in range(20):
        assert journal.append(json.dumps([number, "x" * 10_000]).encode())
    append(journal, published())
    drain.work()
    assert stored(store) == {ID: fold([published()])}
    kept = quarantined(drain)
    assert [len(one) for one in kept] == [4096] * 15, "the beginning of each"
    assert [one.startswith(b'[%d, "xxx' % number) for number, one in enumerate(kept)] == [True] * 15
    source = source_of(store, journal.source)
    assert (source.stored, source.quarantined, source.last_number) == (1, 20, 21)
    assert Directory.size(drain.directory.path) - drain.directory.segments()[0].path.stat().st_size < limit / 10
    assert "Of these, 5 are counted and not kept: quarantine is full." in caplog.text
    [finding] = [one for one in journal_checks.recorder(drain.settings) if one.check == "quarantine"]
    assert "They have 61.5 kB of at most 62.5 kB." in finding.text


POISON: list[dict[str, Any]] = [
    {"kind": "started", "at": 10**30},
    {"at": "yesterday"},
    {"created": 10**30},
    {"created": -(10**18)},
    {"created": -1},
    {"created": 2**56},
    {"retries": 2**70},
    {"retries": "many"},
    {"name": None},
    {"id": "\ud800"},
    {"id": None},
    {"id": ["a", "list"]},
    {"kind": "started", "run": "no token", "delivered": True},
    {"kind": "started", "sent": "before"},
]


@pytest.mark.parametrize("poison", POISON, ids=str)
def test_poison_is_put_aside_alone(
    store: Store, make_drain: MakeDrain, journal: Journal, poison: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    by_task = tasks(5)
    events = [event for one in by_task.values() for event in one]
    bad = cast("Event", {**published(), "id": "bad", **poison})
    append(journal, *events[:7], bad, *events[7:])
    drain = make_drain()
    drain.work()
    assert stored(store, "task-") == rows(by_task)
    assert quarantined(drain) == [encode(bad)]
    source = source_of(store, journal.source)
    assert (source.stored, source.quarantined, source.last_number) == (20, 1, 21)
    assert "cannot store an event, which goes into quarantine: " in caplog.text
    assert f". The event: {encode(bad).decode()[:200]}" in caplog.text
    assert "cannot store 1 events or damaged lines, and has put them into quarantine" in caplog.text
    assert f"Processes: {journal.source}." in caplog.text
    append(journal, published())
    drain.work()
    assert ID in stored(store)


@pytest.mark.databases(*services.SERVERS)  # SQLite takes texts of any length
def test_poison_of_this_database(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    bad = [cast("Event", {**published(1), **one}) for one in ({"id": "x" * 256}, {"id": "other", "parent": "x" * 256})]
    append(journal, bad[0], published(), bad[1])
    drain = make_drain()
    drain.work()
    assert quarantined(drain) == [encode(one) for one in bad]
    assert stored(store) == {ID: fold([published()])}


def test_nothing_but_poison(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    bad = [cast("Event", {**published(number), "name": None}) for number in range(5)]
    append(journal, *bad)
    drain = make_drain()
    drain.work()
    assert (stored(store), quarantined(drain)) == ({}, [encode(one) for one in bad])
    source = source_of(store, journal.source)
    assert (source.stored, source.quarantined, source.last_number) == (0, 5, 5)


# -- outages -------------------------------------------------------------------------


def rename(store: Store, table: str, new_name: str) -> None:
    with store.engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO {new_name}"))


@pytest.mark.parametrize("table", ["async_task", "async_task_attempt"])
def test_an_outage_loses_nothing(store: Store, make_drain: MakeDrain, journal: Journal, table: str) -> None:
    """A missing table stands for anything that keeps a database from working."""
    by_task = tasks(3)
    events = [event for one in by_task.values() for event in one]
    append(journal, *events[:5])
    assert journal.append(b"no event")
    drain = make_drain()
    drain.store.position(journal.source)
    drain._prepared = True
    rename(store, table, "away")
    try:
        for _ in range(3):
            with pytest.raises(SQLAlchemyError):
                drain.work()
            drain.close()
        append(journal, *events[5:])
        with pytest.raises(SQLAlchemyError):
            drain.work()
        assert quarantined(drain) == [], "nothing is put aside before what goes with it is stored"
    finally:
        rename(store, "away", table)
    drain.work()
    assert stored(store) == rows(by_task)
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
            drain.work()
        drain.close()
    [segment] = drain.directory.segments()
    assert len(frame.read(segment, 0, 10, ended=True).events) == 1


def test_a_quarantine_that_cannot_be_written(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    """Only events in quarantine are counted as such."""
    assert journal.append(b"no event")
    append(journal, published())
    drain = make_drain()
    in_the_way = drain.directory.path / f"{journal.source}.quarantine"
    in_the_way.mkdir()
    drain.directory.spare = None
    with pytest.raises(OSError, match="directory"):
        drain.work()
    assert sources(store) == []
    in_the_way.rmdir()
    drain.work()
    assert quarantined(drain) == [b"no event"]
    assert stored(store) == {ID: fold([published()])}
