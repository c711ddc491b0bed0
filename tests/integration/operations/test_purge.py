"""A purge deletes exactly what the rules say, complete tasks only, whatever else goes on."""

from __future__ import annotations

import datetime as dt
import threading
from typing import Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import OperationalError, StatementError

from celery_asynctask.errors import StoreError
from celery_asynctask.operations import session as writing
from celery_asynctask.operations.purge import Count, Purge, Purged
from celery_asynctask.operations.session import Writer
from celery_asynctask.store import Position, SourceUpdate, Store, is_busy
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt, AsyncTaskSource
from tests.histories import HISTORIES, START, about, lines
from tests.integration.commands import SECONDS
from tests.integration.purge import DAY, NOW, left, nothing, record, without_attempts, without_task, work
from tests.pace import patience
from tests.waiting import wait_for

pytestmark = pytest.mark.every_database


def test_the_first_rule_that_finds_a_task_decides(store: Store, writer: Writer) -> None:
    record(store, "success", "young", over=NOW - 29 * DAY)
    record(store, "success", "exact", over=NOW - 30 * DAY)
    record(store, "success", "old", over=NOW - 31 * DAY)
    record(store, "success", "kept-customer", over=NOW - 300 * DAY, customer=42)
    record(store, "failed", "kept-failure", over=NOW - 89 * DAY)
    record(store, "failed", "failure", over=NOW - 91 * DAY)
    record(store, "failed", "theirs", over=NOW - 8 * DAY, customer=7)
    record(store, "ignored", "no-rule", over=NOW - 300 * DAY)
    purge = work(writer, {"customer:42": None, "customer:7": "1w", "status:SUCCESS": "30d", "status:FAILURE": "90d"})
    assert purge.count(nothing) == [Count(1, 0), Count(1, 1), Count(3, 1), Count(2, 1), Count(1, 0)]
    assert len(left(store)) == 8
    assert purge.run(nothing) == Purged(tasks=3, attempts=3)
    assert left(store) == {"young", "exact", "kept-customer", "kept-failure", "no-rule"}
    assert without_task(store) == set() == without_attempts(store)
    assert purge.run(nothing) == Purged()


def test_searches_of_every_kind(store: Store, writer: Writer) -> None:
    """Also rules that look at attempts, into JSON, or for null."""
    record(store, "success", "plain")
    record(store, "success", "dollars", task_kwargs={"currency": "USD"})
    record(store, "failed", "named", customer=1)
    rules: dict[str, str | None] = {
        "kwargs.currency:USD": None,
        "-customer:1 worker:celery@one": "1d",
        "error:Value*": "1d",
    }
    assert work(writer, rules).count(nothing) == [Count(1, 0), Count(1, 1), Count(1, 1), Count(0, 0)]
    assert work(writer, rules).run(nothing).tasks == 2
    assert left(store) == {"dollars"}


@pytest.mark.parametrize("rules", [{}, {"*": None}, {"status:SUCCESS": None}])
def test_by_default_everything_is_kept(store: Store, writer: Writer, rules: dict[str, str | None]) -> None:
    record(store, "success", "a", "b")
    assert sum(each.tasks for each in work(writer, rules).count(nothing)) == 2
    assert sum(each.due for each in work(writer, rules).count(nothing)) == 0
    assert work(writer, rules).run(nothing) == Purged()
    assert left(store) == {"a", "b"}


@pytest.mark.parametrize(("limit", "deleted"), [(0, 0), (1, 3), (3, 3), (4, 6), (10, 10), (11, 10)])
def test_not_more_than_so_many(store: Store, writer: Writer, limit: int, deleted: int) -> None:
    """It stops at the end of a batch; it tidies up only after the last one."""
    record(store, "success", *(f"task-{number}" for number in range(10)))
    record(store, "success", "gone")
    with store.engine.begin() as connection:
        connection.execute(text("DELETE FROM async_task WHERE celery_task_id = 'gone'"))
    purge = work(writer, {"*": "1d"}, batch=3)
    purged = purge.run(nothing, limit=limit)
    assert (purge.purged, purge.complete) == (purged, deleted == 10)
    assert purged == Purged(tasks=deleted, attempts=deleted, orphans=int(deleted == 10))
    assert len(left(store)) == 10 - deleted


def test_tasks_that_are_not_over(store: Store, writer: Writer) -> None:
    waiting = dict.fromkeys(("waits", "waits-not-long"))
    store.write(lines(event for one in waiting for event in about(HISTORIES["success"]()[:1], one)))
    record(store, "success", "done", over=NOW - 2 * DAY)
    with store.engine.begin() as connection:
        young = update(AsyncTask).where(AsyncTask.celery_task_id == "waits-not-long")
        connection.execute(young.values(created_at=NOW - 9 * DAY))
    assert work(writer, {"*": "10d"}).run(nothing) == Purged()
    assert work(writer, {"*": "10d"}, unfinished=True).run(nothing) == Purged(tasks=1)
    assert left(store) == {"waits-not-long", "done"}


@pytest.mark.parametrize(("window", "batch"), [(1, 1), (7, 3), (10, 10), (1000, 7)])
def test_windows_and_batches(
    store: Store, writer: Writer, monkeypatch: pytest.MonkeyPatch, window: int, batch: int
) -> None:
    monkeypatch.setattr(writing, "WINDOW", window)
    record(store, "ends_carry_starts", *(f"old-{number}" for number in range(15)))
    record(store, "ends_carry_starts", *(f"new-{number}" for number in range(8)), over=NOW)
    record(store, "ends_carry_starts", *(f"more-{number}" for number in range(6)))
    counted: list[int] = []
    deleted: list[int] = []
    purge = work(writer, {"*": "1d"}, batch=batch)
    assert purge.count(counted.append)[0] == Count(29, 21)
    assert purge.run(deleted.append) == Purged(tasks=21, attempts=42)
    assert sum(counted) == 29
    assert sum(deleted) == 21
    assert max(counted) <= window
    assert max(deleted) <= batch
    assert left(store) == {f"new-{number}" for number in range(8)}


def test_attempts_without_a_task(store: Store, writer: Writer) -> None:
    record(store, "retries_exhausted", "old", "young", "there")
    with store.engine.begin() as connection:
        young = update(AsyncTaskAttempt).where(AsyncTaskAttempt.celery_task_id == "young")
        connection.execute(young.values(ended_at=NOW))
        connection.execute(text("DELETE FROM async_task WHERE celery_task_id <> 'there'"))
    assert work(writer, {"status:SUCCESS": "30d"}).run(nothing) == Purged(orphans=3)
    assert without_task(store) == {"young"}
    assert left(store) == {"there"}


def source(name: str, **position: Any) -> SourceUpdate:
    description = {"source": name, "host": "h", "pid": 1, "role": "child", "at": START, "journal": "j"}
    return SourceUpdate(description, Position(last_number=3, stored=3)._replace(**position))


def end(store: Store, when: dt.datetime, *names: str) -> None:
    with store.engine.begin() as connection:
        ended = update(AsyncTaskSource).where(AsyncTaskSource.source.in_(names))
        connection.execute(ended.values(ended_at=when))


def test_sources_that_nothing_is_left_of(store: Store, writer: Writer) -> None:
    told: dict[str, dict[str, Any]] = {
        "used": {},
        "gone": {},
        "recent": {},
        "alive": {},
        "missing": {"stored": 2},
        "quarantine": {"stored": 2, "quarantined": 1},
        "dropped": {"dropped": {"full": 1}},
        "unheard": {},
        "given-up": {},
        "silent": {},
    }
    store.write([], [source(name, **position) for name, position in told.items()])
    end(store, NOW - 31 * DAY, *(name for name in told if name != "alive"))
    end(store, NOW - 29 * DAY, "recent")
    with store.engine.begin() as connection:
        of = AsyncTaskSource.source
        connection.execute(update(AsyncTaskSource).where(of.in_(["unheard", "given-up"])).values(numbered=3))
        connection.execute(update(AsyncTaskSource).where(of == "given-up").values(given_up_at=NOW - 31 * DAY))
        connection.execute(update(AsyncTaskSource).where(of == "silent").values(last_seen_at=NOW - 32 * DAY))
        connection.execute(update(AsyncTaskSource).where(of == "gone").values(numbered=3, settled_at=NOW - 31 * DAY))
    record(store, "success", "young", over=NOW)
    with store.engine.begin() as connection:
        connection.execute(update(AsyncTaskAttempt).values(source="used"))
    assert work(writer, {"*": "30d"}).run(nothing) == Purged(sources=1)
    with store.engine.connect() as connection:
        assert set(connection.scalars(select(AsyncTaskSource.source))) == told.keys() - {"gone"}
    assert work(writer, {"*": "1m"}).run(nothing) == Purged(sources=1), "which ended 29 days ago"
    end(store, NOW - 6 * DAY, "used")
    record(store, "success", "young", over=NOW - DAY)
    assert work(writer, {"*": "1m"}).run(nothing) == Purged(tasks=1, attempts=1), "a source is kept for a week"
    end(store, NOW - 8 * DAY, "used")
    assert work(writer, {"*": "1m"}).run(nothing) == Purged(sources=1)


def test_a_task_that_runs_again_meanwhile_stays(store: Store, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was due when it was found, and no longer is when its turn comes."""
    record(store, "success", "a", "b")
    found = work(writer, {"*": "1d"})
    batch = writer.batch

    def later(asked: Any) -> Any:
        record(store, "success", "b", over=NOW)
        return batch(asked)

    monkeypatch.setattr(writer, "batch", later)
    assert found.run(nothing).tasks == 1
    assert left(store) == {"b"}


def test_a_batch_that_meets_a_lock_is_tried_again(
    store: Store, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(store, "success", "a")
    tries: list[int] = []
    number: Any = {"postgresql": "55P03", "mysql": 1213}.get(writer.dialect, "database is locked")

    class Locked(Exception):
        sqlstate = number

    def delete(self: Purge, ids: list[int], connection: Any) -> Purged:
        tries.append(1)
        done = real(self, ids, connection)
        if len(tries) < 3:
            raise OperationalError("DELETE", {}, Locked(number))
        return done

    real = Purge._delete
    monkeypatch.setattr(Purge, "_delete", delete)
    monkeypatch.setattr(writing, "_PAUSE", 0)
    assert work(writer, {"*": "1d"}).run(nothing) == Purged(tasks=1, attempts=1)
    assert len(tries) == 3
    record(store, "success", "a")
    tries[:] = [-1000]
    monkeypatch.setattr(Purge, "_delete", lambda *_: (_ for _ in ()).throw(OperationalError("x", {}, Locked(number))))
    with pytest.raises(StoreError, match="cannot be written"):
        work(writer, {"*": "1d"}).run(nothing)
    assert left(store) == {"a"}


def test_an_error_tells_no_parameters(writer: Writer) -> None:
    """SQLAlchemy puts them into the message about a statement that could not even be sent."""
    with pytest.raises(StoreError, match=r"cannot be written: Python int too large\.$"), writer.guarded():
        raise StatementError("too large", "INSERT", {"name": "hunter2"}, OverflowError("Python int too large"))


def test_beside_a_recorder(store: Store, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stores new tasks, and events of old ones again while these are deleted."""
    monkeypatch.setattr(writing, "WINDOW", 200)
    old = [f"old-{number:04}" for number in range(2000)]
    record(store, "success", *old)
    recorder = Store(store.settings)
    stop = threading.Event()
    stored: list[str] = []
    failed: list[Exception] = []

    def go_on() -> None:
        turn = 0
        while not stop.is_set() or turn < 5:
            new = [f"new-{turn:04}-{number}" for number in range(20)]
            events = lines(
                event for one in (*new, *old[turn % 100 :: 100]) for event in about(HISTORIES["success"](), one)
            )
            try:
                recorder.write(events)
                stored.extend(new)
                turn += 1
            except Exception as exc:  # noqa: BLE001 - looked at below
                failed.append(exc)
                if not is_busy(exc):
                    return

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        wait_for(lambda: stored or failed, SECONDS, "the recorder")
        rules: dict[str, str | None] = {"id:old": "1d"}
        purged = sum(work(writer, rules, batch=50).run(nothing).tasks for _ in range(3))
    finally:
        stop.set()
        thread.join(patience(SECONDS))
        recorder.close()
    assert [exc for exc in failed if not is_busy(exc)] == []
    assert len(failed) <= len(stored) / 20, "the recorder was in the way most of the time"
    assert purged >= 1900
    assert work(writer, rules).run(nothing).orphans == 0
    assert left(store) == set(stored)
    assert without_task(store) == set() == without_attempts(store)
