"""The living processes, their running and lost tasks, and the size of the store, on each kind of database."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import insert

from celery_asynctask import AsyncTaskAttempt, AsyncTaskSource
from celery_asynctask.queries import Reader
from celery_asynctask.queries import processes as module
from celery_asynctask.queries.completeness import completeness
from celery_asynctask.queries.database_health import size
from celery_asynctask.queries.processes import State, sources
from celery_asynctask.queries.statistics.overview import overview
from celery_asynctask.store import Store
from celery_asynctask.store.models import Base
from tests.asking import ask
from tests.integration.oracle import START, add, row

pytestmark = pytest.mark.every_database

NOW = START + dt.timedelta(hours=2)
MINUTE = dt.timedelta(minutes=1)


@pytest.fixture
def reader(store: Store) -> Iterator[Reader]:
    made = Reader(store.settings.url)
    yield made
    made.close()


def process(store: Store, *names: str, **extra: Any) -> None:
    """Living processes."""
    columns = {"host": "web1", "pid": 7, "role": "child", "started_at": START, "journal": "j", "last_seen_at": NOW}
    numbers = {"segment": 1, "position": 9, "last_number": 3, "stored": 3, "quarantined": 0}
    with store.engine.begin() as connection:
        connection.execute(insert(AsyncTaskSource), [{"source": name, **columns, **numbers, **extra} for name in names])


def run(store: Store, task_id: str, status: str, *attempts: dict[str, Any], **extra: Any) -> None:
    """A task and its attempts."""
    add(store, [row(task_id, status=status, completed_at=START if status == "LOST" else None, **extra)])
    keys = {
        "name": "shop.charge",
        "retries": 0,
        "redelivered": False,
        "end_key": "",
        "customer_key": "",
        "started_at": START,
    }
    empty = {"ended_at": None, "outcome": None, "source": None}
    values = [
        {"celery_task_id": task_id, "run_key": f"{number}", **keys, **empty, **attempt}
        for number, attempt in enumerate(attempts)
    ]
    with store.engine.begin() as connection:
        connection.execute(insert(AsyncTaskAttempt), values)


LOST = {"ended_at": START, "outcome": "lost"}


def test_living_processes(store: Store, reader: Reader) -> None:
    process(store, "old", last_seen_at=NOW - 9 * MINUTE, ended_at=NOW - 8 * MINUTE)
    process(store, "new", last_seen_at=NOW - 9 * MINUTE, ended_at=NOW - 7 * MINUTE)
    process(store, "silent", last_seen_at=NOW - 2 * MINUTE)
    process(store, "alive", pid=8, role="worker", last_seen_at=NOW - MINUTE)
    processes = ask(sources, reader, NOW)
    assert [(one.source, one.state) for one in processes.sources] == [
        ("alive", State.ALIVE), ("silent", State.SILENT), ("new", State.GONE), ("old", State.GONE)
    ]  # fmt: skip
    first = processes.sources[0]
    assert (first.host, first.pid, first.role, first.started_at, first.ended_at) == ("web1", 8, "worker", START, None)
    assert processes.counts == {State.ALIVE: 1, State.SILENT: 1, State.GONE: 2}
    assert (processes.seen, processes.running_since, processes.lost_since) == (NOW - MINUTE, None, None)
    assert [one.source for one in ask(sources, reader, NOW, gone=1).sources] == ["alive", "silent", "new"]


def test_where_there_is_nothing(store: Store, reader: Reader) -> None:
    assert ask(sources, reader, NOW) == ([], dict.fromkeys(State, 0), None, None, None)


def test_their_running_and_lost_tasks(store: Store, reader: Reader) -> None:
    process(store, "one", "two", "three")
    run(store, "short", "STARTED", {"source": "one", "started_at": START + MINUTE})
    run(store, "long", "STARTED", {"source": "one"}, name="shop.report")
    run(store, "unseen", "STARTED", {"source": "one", "started_at": None})
    run(store, "again", "STARTED", {"source": "one", **LOST}, {"source": "two"})
    run(store, "open", "STARTED", {"source": "one"}, {"source": "two", "started_at": START + MINUTE})
    run(store, "received", "RECEIVED", {"source": "one"})
    run(store, "nobody's", "STARTED", {})
    run(store, "gone", "LOST", {"source": "three", **LOST}, created_at=START + MINUTE)
    run(store, "before", "LOST", {"source": "two", **LOST}, {"source": "three", **LOST})
    run(store, "unlike", "LOST", {"source": "three", "outcome": "failed"})
    one, three, two = sorted(ask(sources, reader, NOW).sources, key=lambda one: one.source)
    assert [run.celery_task_id for run in one.running] == ["long", "short", "unseen"]
    assert (one.running[0].name, one.running[0].started_at) == ("shop.report", START)
    assert [run.celery_task_id for run in two.running] == ["again", "open"]
    assert [run.celery_task_id for run in three.lost] == ["gone", "before"]
    assert (one.lost, two.lost, three.running) == ((), (), ())


def test_it_is_bounded(store: Store, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    process(store, "one", "two")
    for number in range(4):
        at = START + number * MINUTE
        run(store, f"lost-{number}", "LOST", {"source": "one", **LOST}, created_at=at)
        run(store, f"run-{number}", "STARTED", {"source": "one"}, {"source": "two"}, created_at=at)
    monkeypatch.setattr(module, "MAX_LOST", 2)
    monkeypatch.setattr(module, "MAX_RUNNING", 4)
    processes = ask(sources, reader, NOW)
    one, two = sorted(processes.sources, key=lambda one: one.source)
    assert [run.celery_task_id for run in one.lost] == ["lost-3", "lost-2"]
    assert [run.celery_task_id for run in two.running] == [f"run-{number}" for number in range(4)]
    assert (processes.lost_since, processes.running_since) == (START + 2 * MINUTE, None)
    monkeypatch.setattr(module, "MAX_RUNNING", 3)
    monkeypatch.setattr(module, "MAX_LIVING", 1)
    processes = ask(sources, reader, NOW)
    assert (processes.running_since, len(processes.sources), processes.counts[State.ALIVE]) == (START + MINUTE, 1, 2)


def test_size(store: Store, reader: Reader) -> None:
    add(store, [row(f"task-{number}") for number in range(50)])
    with reader.session() as session:
        processes = size(session)
    assert processes is not None
    assert processes.total > 10_000
    if reader.dialect == "sqlite":
        assert processes.tables == {}
        return
    assert processes.tables.keys() == Base.metadata.tables.keys()
    assert sum(processes.tables.values()) == processes.total
    assert list(processes.tables.values()) == sorted(processes.tables.values(), reverse=True)


def test_size_where_it_is_not_known() -> None:
    class Session:
        def get_bind(self) -> Any:
            return type("Engine", (), {"dialect": type("Dialect", (), {"name": "oracle"})})

    assert size(Session()) is None  # type: ignore[arg-type]


def test_the_surplus_of_one_process_does_not_hide_the_loss_of_another(store: Store, reader: Reader) -> None:
    """A damaged line may have been two events, so more events may be known than the process numbered."""
    process(store, "lost", "lost too", last_number=10, stored=6, quarantined=1)
    process(store, "surplus", last_number=10, stored=8, quarantined=9)
    process(store, "whole", last_number=10, stored=8, quarantined=2)
    process(store, "silent")
    processes = ask(overview, reader, NOW).recording
    assert processes.missing == completeness(reader, None).ledger.missing == 6
    assert (processes.stored, processes.quarantined) == (31, 13)


def test_nothing_is_missing_where_there_is_more(store: Store, reader: Reader) -> None:
    process(store, "surplus", last_number=2, stored=2, quarantined=1)
    assert ask(overview, reader, NOW).recording.missing == completeness(reader, None).ledger.missing == 0
