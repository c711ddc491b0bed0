"""`celery asynctask purge`: it deletes what the rules say and nothing else, whole tasks, whatever else goes on."""

from __future__ import annotations

import datetime as dt
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import OperationalError

from celery_asynctask import retention
from celery_asynctask.errors import StoreError
from celery_asynctask.model import AsyncTask, AsyncTaskAttempt, AsyncTaskSource
from celery_asynctask.store import Position, SourceUpdate, Store, is_outage
from celery_asynctask.store import purge as purging
from celery_asynctask.store import writer as writing
from celery_asynctask.store.purge import Count, Purge, Purged
from celery_asynctask.store.writer import Writer
from tests.histories import HISTORIES, START, about, lines
from tests.integration.commands import SECONDS, Project
from tests.waiting import wait_for

OVER = dt.datetime.fromtimestamp(START / 1e6, dt.timezone.utc)
"""About when every history ends."""
NOW = OVER + dt.timedelta(days=365)
DAY = dt.timedelta(days=1)


@pytest.fixture
def writer(store: Store) -> Iterator[Writer]:
    made = Writer(store.settings)
    yield made
    assert made.engine.pool.checkedout() == 0, "a connection was not given back"  # type: ignore[attr-defined]
    made.close()


def record(store: Store, history: str, *ids: str, over: dt.datetime | None = None, **columns: Any) -> None:
    """Store the history of these tasks; they were over then, and are so in these columns."""
    store.write(lines(event for one in ids for event in about(HISTORIES[history](), one)))
    if over is not None:
        columns |= {"completed_at": over}
    if columns:
        with store.engine.begin() as connection:
            connection.execute(update(AsyncTask).where(AsyncTask.celery_task_id.in_(ids)).values(columns))


def left(store: Store) -> set[str]:
    with store.engine.connect() as connection:
        return set(connection.scalars(select(AsyncTask.celery_task_id)))


def count(store: Store, model: Any) -> int:
    with store.engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(model)) or 0


def without_task(store: Store) -> set[str]:
    with store.engine.connect() as connection:
        return set(connection.scalars(select(AsyncTaskAttempt.celery_task_id))) - left(store)


def without_attempts(store: Store) -> set[str]:
    with store.engine.connect() as connection:
        return left(store) - set(connection.scalars(select(AsyncTaskAttempt.celery_task_id)))


def nothing(_count: int) -> None:
    """Whoever does not want to know how far it is."""


def work(writer: Writer, rules: dict[str, str | None], **options: Any) -> Purge:
    return Purge(writer, retention.configured(rules, NOW), NOW, **options)


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
    """Also those that look at attempts, or into JSON, and those of what is null."""
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


def test_of_some_customers_alone(store: Store, writer: Writer) -> None:
    """Nothing else is counted, deleted or tidied up; what is of no customer is not theirs."""
    for customer in (1, 2, None):
        record(store, "success", f"of-{customer}", customer=customer)
        record(store, "success", f"gone-{customer}")
    with store.engine.begin() as connection:
        connection.execute(text("DELETE FROM async_task WHERE celery_task_id LIKE 'gone-%'"))
    for customers, due in (([], 0), ([3], 0), ([1], 1), ([2, 3], 1)):
        purge = work(writer, {"customer:none": "1d", "*": "1d"}, customers=customers)
        assert purge.count(nothing) == [Count(0, 0), Count(due, due), Count(0, 0)]
        assert purge.run(nothing) == Purged(tasks=due, attempts=due), customers
    assert left(store) == {"of-None"}
    assert count(store, AsyncTaskAttempt) == 4, "those without a task are nobody's"
    assert work(writer, {"*": "1d"}).run(nothing) == Purged(tasks=1, attempts=1, orphans=3)


@pytest.mark.parametrize(("most", "deleted"), [(0, 0), (1, 3), (3, 3), (4, 6), (10, 10), (11, 10)])
def test_not_more_than_so_many(store: Store, writer: Writer, most: int, deleted: int) -> None:
    """To the end of a batch; and then nothing is tidied up, unless that was all."""
    record(store, "success", *(f"task-{number}" for number in range(10)))
    record(store, "success", "gone")
    with store.engine.begin() as connection:
        connection.execute(text("DELETE FROM async_task WHERE celery_task_id = 'gone'"))
    purge = work(writer, {"*": "1d"}, batch=3)
    purged = purge.run(nothing, most=most)
    assert (purge.purged, purge.complete) == (purged, deleted == 10)
    assert purged == Purged(tasks=deleted, attempts=deleted, orphans=int(deleted == 10))
    assert len(left(store)) == 10 - deleted


@pytest.mark.parametrize(("most", "looked"), [(0, 0), (1, 3), (3, 3), (4, 6), (9, 9), (10, 10), (None, 10)])
@pytest.mark.parametrize("customers", [None, [1, 2]])
def test_not_more_than_so_many_are_counted(
    store: Store,
    writer: Writer,
    monkeypatch: pytest.MonkeyPatch,
    most: int | None,
    looked: int,
    customers: list[int] | None,
) -> None:
    """To the end of a window; nine of one customer are three."""
    use_window(monkeypatch, 3)
    record(store, "success", *(f"task-{number}" for number in range(9)), customer=1)
    record(store, "success", "more", customer=2)
    purge = work(writer, {"*": "1d"}, customers=customers)
    assert purge.count(nothing, most=most)[0] == Count(looked, looked)
    assert purge.complete is (looked == 10)
    assert purge.run(nothing).tasks == 10
    assert purge.complete is True


def use_window(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    for module in (writing, purging):
        monkeypatch.setattr(module, "WINDOW", window)


@pytest.mark.parametrize(("window", "batch"), [(1, 1), (2, 3), (5, 2), (1000, 7)])
def test_windows_of_some_customers(
    store: Store, writer: Writer, monkeypatch: pytest.MonkeyPatch, window: int, batch: int
) -> None:
    """In the order of creation, in which several may be at once; also those that the order of recording has apart."""
    use_window(monkeypatch, window)
    due = set()
    for number in range(24):
        customer, young = number % 3, number % 5 == 0
        one = f"{customer}-{number:02}"
        at = NOW - DAY * (40 + number * 7 % 6)
        record(store, "success", one, over=NOW if young else NOW - 30 * DAY, customer=customer, created_at=at)
        if customer and not young:
            due.add(one)
    counted: list[int] = []
    before = left(store)
    purge = work(writer, {"*": "10d"}, customers=[2, 1, 7], batch=batch)
    assert purge.count(counted.append)[0] == Count(16, len(due))
    assert (sum(counted), max(counted) <= window) == (16, True)
    assert purge.run(nothing) == Purged(tasks=len(due), attempts=len(due))
    assert left(store) == before - due
    assert without_task(store) == set() == without_attempts(store)


def test_tasks_of_some_customers_are_found_by_their_index(
    store: Store, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else's rows are looked at, however many there are: no window asked for them."""
    asked: list[Any] = []
    real = writer.read
    monkeypatch.setattr(writer, "read", lambda statement: (asked.append(statement), real(statement))[1])
    use_window(monkeypatch, 5)
    record(store, "success", *(f"theirs-{number}" for number in range(60)), customer=1)
    record(store, "success", "ours", customer=2)
    purge = work(writer, {"*": "1d"}, customers=[2])
    assert purge.count(nothing)[0] == Count(1, 1)
    assert len(asked) == 3, "the newest, the end of the window, and the window"
    assert purge.run(nothing).tasks == 1
    assert len(asked) == 6
    if store.engine.dialect.name != "sqlite":  # the others choose by what there is; see test_plans for how
        return
    with store.engine.connect() as connection:
        for one in asked:
            compiled = one.compile(store.engine, compile_kwargs={"literal_binds": True})
            plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}").all())
            assert "ix_async_task_customer" in plan, plan


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
    told = {
        "used": {},
        "gone": {},
        "recent": {},
        "alive": {},
        "missing": {"stored": 2},
        "quarantine": {"stored": 2, "quarantined": 1},
        "dropped": {"dropped": {"full": 1}},
    }
    store.write([], [source(name, **position) for name, position in told.items()])
    end(store, NOW - 31 * DAY, *(name for name in told if name != "alive"))
    end(store, NOW - 29 * DAY, "recent")
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
    """It was due when it was found, and is not any more when its turn comes."""
    record(store, "success", "a", "b")
    found = work(writer, {"*": "1d"})
    batch = writer.batch
    monkeypatch.setattr(writer, "batch", lambda work: (record(store, "success", "b", over=NOW), batch(work))[1])
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


def test_beside_a_recorder(store: Store, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stores new tasks, and tells of old ones once more while these are deleted."""
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
                if not is_outage(exc):
                    return

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        wait_for(lambda: stored or failed, SECONDS, "the recorder")
        rules = {"id:old": "1d"}
        purged = sum(work(writer, rules, batch=50).run(nothing).tasks for _ in range(3))
    finally:
        stop.set()
        thread.join(SECONDS)
        recorder.close()
    assert [exc for exc in failed if not is_outage(exc)] == []
    assert len(failed) <= len(stored) / 20, "the recorder was in the way most of the time"
    assert purged >= 1900
    assert work(writer, rules).run(nothing).orphans == 0
    assert left(store) == set(stored)
    assert without_task(store) == set() == without_attempts(store)


# -- as an operator runs it ----------------------------------------------------------


@pytest.fixture
def project(store: Store, tmp_path: Path) -> Project:
    return Project(tmp_path, asynctask_url=store.settings.url)


def test_by_the_rules_of_the_settings(store: Store, tmp_path: Path) -> None:
    rules = {"customer:42": None, "status:SUCCESS": "30d"}
    project = Project(tmp_path, asynctask_url=store.settings.url, asynctask_retention=rules)
    record(store, "success", "a", "b")
    record(store, "success", "c", customer=42)
    record(store, "failed", "d")
    looked = project.run("purge", "--dry-run")
    assert (looked.code, looked.err) == (0, "")
    assert [line.split() for line in looked.lines] == [
        ["rule", "kept", "tasks", "due", "keeps"],
        ["customer:42", "for", "ever", "1", "0", "1"],
        ["status:SUCCESS", "30d", "2", "2", "0"],
        ["(no", "rule)", "for", "ever", "1", "0", "1"],
    ]
    asked = project.run("purge")
    assert asked.code == 2
    assert "There is no terminal to ask on. Look with --dry-run, then say --yes." in asked.err
    assert len(left(store)) == 4
    done = project.run("purge", "--yes", "--json")
    assert (done.code, done.err) == (0, "")
    assert done.values == [
        {"rule": "customer:42", "kept": "for ever", "tasks": 1, "due": 0, "keeps": 1},
        {"rule": "status:SUCCESS", "kept": "30d", "tasks": 2, "due": 2, "keeps": 0},
        {"rule": "(no rule)", "kept": "for ever", "tasks": 1, "due": 0, "keeps": 1},
        {"tasks": 2, "attempts": 2, "orphans": 0, "sources": 0},
    ]
    assert left(store) == {"c", "d"}


def test_killed_in_the_middle(store: Store, project: Project) -> None:
    record(store, "ends_carry_starts", *(f"task-{number}" for number in range(1500)))
    process = project.start("purge", "--older-than", "1d", "--batch", "1", "--yes")
    wait_for(lambda: len(left(store)) < 1450, SECONDS, "the purge to be under way")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=SECONDS)
    wait_for(partial(nobody_writes, store), SECONDS, "the database to notice")
    assert 0 < len(left(store)) < 1450
    assert count(store, AsyncTaskAttempt) == 2 * len(left(store))
    assert without_task(store) == set() == without_attempts(store)
    again = project.run("purge", "--older-than", "1d", "--yes")
    assert again.code == 0
    assert again.lines[-1].startswith("Deleted ")
    assert left(store) == set()
    assert count(store, AsyncTaskAttempt) == 0


def nobody_writes(store: Store) -> bool:
    """Whether the killed process's connection is gone."""
    queries = {
        "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "
        "pg_backend_pid() AND application_name = ''",
        "mysql": "SELECT count(*) FROM information_schema.processlist WHERE db = database() AND id <> connection_id()",
    }
    query = queries.get(store.engine.dialect.name)
    if query is None:
        return True
    with store.engine.connect() as connection:
        return connection.scalar(text(query)) == 0


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[Store, Project]]:
    """An SQLite file with two old tasks."""
    from celery_asynctask.settings import Settings

    project = Project(tmp_path, asynctask_url=f"sqlite:///{tmp_path}/rows.db")
    store = Store(Settings(url=f"sqlite:///{tmp_path}/rows.db"))
    store.prepare()
    record(store, "success", "a", "b")
    yield store, project
    store.close()


def test_without_rules(small: tuple[Store, Project]) -> None:
    store, project = small
    done = project.run("purge", "--yes")
    assert done.code == 0
    assert done.lines[1].split() == ["(no", "rule)", "for", "ever", "2", "0", "2"]
    assert "Nothing is deleted: asynctask_retention has no age." in done.err
    assert len(left(store)) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("status:SUCCESS",), 2, "With a search, say how old tasks must be: --older-than 90d."),
        (("--older-than", "soon"), 2, "An age cannot be 'soon'; it must be a duration such as 12h, 90d"),
        (("--older-than", "1d", "state:SUCCESS"), 2, "The search has no key 'state'"),
    ],
)
def test_what_cannot_be(small: tuple[Store, Project], arguments: Iterable[str], code: int, told: str) -> None:
    store, project = small
    done = project.run("purge", "--yes", *arguments)
    assert done.code == code
    assert told in done.err
    assert len(left(store)) == 2


def test_a_rule_of_the_settings_that_cannot_be(tmp_path: Path, small: tuple[Store, Project]) -> None:
    project = Project(tmp_path, asynctask_url=f"sqlite:///{tmp_path}/rows.db", asynctask_retention={"state:X": "1d"})
    done = project.run("purge", "--yes")
    assert done.code == 2
    assert done.err.startswith("Error: Setting 'asynctask_retention' has the rule 'state:X': The search has no key")


def test_without_a_database(tmp_path: Path) -> None:
    project = Project(tmp_path, asynctask_url=f"sqlite:///{tmp_path}/none.db")
    done = project.run("purge", "--older-than", "1d", "--yes")
    assert done.code == 3
    assert done.err.startswith("Error: There is no database file")
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(("answer", "code", "remaining"), [("n", 1, 2), ("y", 0, 0)])
def test_it_asks_on_a_terminal(small: tuple[Store, Project], answer: str, code: int, remaining: int) -> None:
    store, project = small
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "celery", "-A", "proj", "asynctask", "purge", "--older-than", "1d"]
    process = subprocess.Popen(command, cwd=project.path, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while b"Delete 2 tasks and their attempts? [y/N]" not in seen:
        seen += os.read(ours, 1000)
    os.write(ours, f"{answer}\n".encode())
    assert process.wait(SECONDS) == code
    os.close(ours)
    assert len(left(store)) == remaining
