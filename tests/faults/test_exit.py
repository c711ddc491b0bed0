"""Processes that end: recycled children, `os._exit`, shutdowns, producers that leave at once, forked servers.

No row is lost, nothing hangs, and an exit takes at most two seconds longer than its running tasks.
ASYNCTASK_RECYCLED_CHILDREN is the number of recycled children.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import func, select

from celery_asynctask.capture.instrumentation import EXIT_SECONDS
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.recorder import Recorder
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask
from tests.faults.proc import descendants, is_alive
from tests.faults.server import Server, own_server
from tests.faults.world import Worker, World, by_task
from tests.pace import patience
from tests.waiting import wait_for

pytestmark = pytest.mark.faults

RECYCLED = int(os.environ.get("ASYNCTASK_RECYCLED_CHILDREN", "20"))
NOISE = 1.5
"""Seconds by which the ends of processes can differ on the reference machine."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with own_server() as made:
        yield made


@pytest.fixture
def world(server: Server, tmp_path: Path) -> Iterator[World]:
    with server.new_database() as store:
        made = World(tmp_path, store)
        tables = Store(made.settings)
        tables.prepare()
        tables.close()
        try:
            yield made
        finally:
            server.thaw()
            made.close()


def send(world: World, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run the sender to its end; returns its exit code and its output."""
    process, log = world.start("send", "-m", "tests.faults.sender", *arguments, **environment)
    return process.wait(patience(60)), log.read_text(encoding="utf-8")


def count(world: World, status: AsyncTaskStatus | None = None) -> int:
    with world.session() as session:
        query = select(func.count()).select_from(AsyncTask)
        return session.scalar(query if status is None else query.where(AsyncTask.status == status)) or 0


def drain_rest(world: World) -> None:
    """The work of the next process that starts on this node."""
    recorder = Recorder(world.settings)
    recorder.start(once=True)
    wait_for(lambda: not recorder.is_running, 30, "what is left to be stored")
    recorder.stop(5)
    assert not world.segments()


def finish(world: World, worker: Worker) -> float:
    """Stop the worker warmly, and check that all is stored. Returns the seconds that it took."""
    began = time.monotonic()
    assert worker.stop() == 0, worker.text
    took = time.monotonic() - began
    drain_rest(world)
    world.check_ledger()
    return took


def test_recycled_children(world: World) -> None:
    """One child per task, each with a journal of its own; threads of the parent send tasks while it forks."""
    worker = world.worker("-c4", "--max-tasks-per-child=1", FAULTS_THREADS="1").wait_ready()
    deadline = max(60, RECYCLED)  # Celery replaces children at most about once a second
    wait_for(
        lambda: count(world, AsyncTaskStatus.SUCCESS) >= RECYCLED or worker.process.poll() is not None,
        deadline,
        f"{RECYCLED} children to have run a task each",
    )
    finish(world, worker)
    runs, attempts = by_task(world.runs.read()), by_task(world.attempts())
    rows = {row.celery_task_id: row for row in world.rows()}
    assert len({note.pid for notes in runs.values() for note in notes}) >= RECYCLED
    for task_id, notes in runs.items():
        assert [note.what for note in notes] == ["start", "end"]
        assert rows[task_id].status is AsyncTaskStatus.SUCCESS
        assert [attempt.pid for attempt in attempts[task_id]] == [notes[0].pid]
    print(f"\n{len(runs)} children")


def test_a_task_leaves_with_os_exit(world: World) -> None:
    """Its start was written before the body; the main process sees that its child is gone."""
    worker = world.worker("-c2").wait_ready()
    assert send(world, "leave", "3")[0] == 0
    wait_for(lambda: count(world, AsyncTaskStatus.FAILURE) == 3, 60, "three failures")
    assert {row.error_type for row in world.rows()} == {"WorkerLostError"}
    assert len(world.attempts()) == 3
    finish(world, worker)


def shut_down(world: World, worker: Worker, seconds: float) -> float:
    """Stop the worker while a task of that length has just started, or none. Returns the seconds beyond the task's
    end."""
    if seconds:
        at = len(world.runs.read())
        assert send(world, "early", "1", str(seconds))[0] == 0
        wait_for(lambda: len(world.runs.read()) > at, 10, "the long task to run")
    children = descendants(worker.pid)
    began = time.monotonic()
    assert worker.stop() == 0
    took = time.monotonic() - began - seconds
    assert not any(map(is_alive, children))
    return took


@pytest.fixture(scope="module")
def usual(server: Server, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds that the end of a worker without recording takes."""
    with server.new_database() as store:
        world = World(tmp_path_factory.mktemp("usual"), store)
        try:
            return shut_down(world, world.worker("-c2", FAULTS_ENABLED="0").wait_ready(), 2)
        finally:
            world.close()


@pytest.mark.parametrize(("seconds", "database"), [(0, "up"), (0, "frozen"), (0, "stopped"), (2, "up"), (2, "frozen")])
def test_a_warm_shutdown(world: World, server: Server, usual: float, database: str, seconds: int) -> None:
    """The worker waits for its running task, and then at most two seconds for the recorder, whatever the database
    does."""
    worker = world.worker("-c2").wait_ready()
    assert send(world, "early", "5")[0] == 0
    wait_for(lambda: count(world, AsyncTaskStatus.SUCCESS) == 5, 30, "five tasks to have run")
    try:
        if database == "frozen":
            server.freeze()
        elif database == "stopped":
            server.stop()
        took = shut_down(world, worker, seconds)
    finally:
        server.thaw()
        if server.process is None:
            server.start()
    print(f"\n{took:.2f} s beyond what ran, {usual:.2f} s without us")
    assert took < usual + EXIT_SECONDS + patience(NOISE)
    drain_rest(world)
    assert count(world, AsyncTaskStatus.SUCCESS) == count(world) == 5 + bool(seconds)
    world.check_ledger()


@pytest.mark.parametrize("end", ["exit", "_exit", "raise"])
def test_a_producer_leaves_at_once(world: World, end: str) -> None:
    """Its events are stored by it, or are in the journal for the next recorder."""
    code, printed = send(world, "early", "20", "0", end)
    assert code == (1 if end == "raise" else 0), printed
    if end == "_exit":
        assert world.segments()
    drain_rest(world)
    assert count(world, AsyncTaskStatus.PENDING) == 20
    world.check_ledger()


def test_a_producer_leaves_while_the_database_is_frozen(world: World, server: Server) -> None:
    began = time.monotonic()
    assert send(world, "early", "1")[0] == 0
    usual = time.monotonic() - began
    server.freeze()
    began = time.monotonic()
    assert send(world, "early", "20")[0] == 0
    took = time.monotonic() - began
    server.thaw()
    print(f"\n{took:.2f} s, usually {usual:.2f} s")
    assert took < usual + EXIT_SECONDS + patience(NOISE)
    drain_rest(world)
    assert count(world, AsyncTaskStatus.PENDING) == 21
    world.check_ledger()


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_preloaded_server(world: World, when: str) -> None:
    """The parent publishes and records, forks children that publish, and leaves: one of them records from then on.

    Early: as soon as the parent is elected. Late: once it has stored something.
    """
    process, log = world.start("preload", "-m", "tests.faults.preload", when, "3")
    recorders = set()
    if when == "late":
        wait_for(lambda: count(world) == 5, 20, "the parent to have stored something")
        process.send_signal(signal.SIGUSR1)

    def parent_is_gone() -> bool:
        recorders.add(world.elected())
        return process.poll() is not None

    wait_for(parent_is_gone, 30, "the parent to leave")
    assert process.returncode == 0, log.read_text(encoding="utf-8")
    children = [int(line) for line in log.read_text(encoding="utf-8").splitlines() if line.isdecimal()]
    assert len(children) == 3
    assert process.pid in recorders
    for left in (3, 2):
        wait_for(lambda: world.elected() in children, 20, "a child to record")
        has_stored = partial(lambda stored: count(world) > stored + 20, count(world))
        wait_for(has_stored, 20, f"a child to store; the log:\n{log.read_text(encoding='utf-8')}")
        first = world.elected()
        assert first is not None
        if left == 3:
            os.kill(first, signal.SIGKILL)
            children.remove(first)
    for pid in children:
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not any(map(is_alive, children)), 20, "the children to end")
    drain_rest(world)
    asked = {note.task_id for note in world.asks.read() if note.what == "asked"}
    asking = {note.task_id for note in world.asks.read()}
    assert asked <= {row.celery_task_id for row in world.rows()} <= asking
    assert len(world.check_ledger()) == 4
    print(f"\n{len(asked)} tasks sent by 4 processes")


def test_children_can_import_whenever_they_are_forked(world: World) -> None:
    """The recorder's thread imports SQLAlchemy; a child forked meanwhile must be able to do so, too."""
    process, log = world.start("importer", "-m", "tests.faults.importer")
    code = process.wait(patience(60))
    print("\n" + log.read_text(encoding="utf-8")[-600:])
    assert code == 0, log.read_text(encoding="utf-8")
