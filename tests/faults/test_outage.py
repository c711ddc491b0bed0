"""The database stops, freezes, refuses or lacks its tables while a worker runs: no task notices, and no row is missing.

A server of the test's own, one worker and one producer serve all faults, under a steady load. ASYNCTASK_OUTAGE_SECONDS
is the length of each fault.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import pytest
from sqlalchemy import func, select

from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask
from tests.faults.server import Server, own_server
from tests.faults.world import Worker, World
from tests.pace import pace, patience
from tests.waiting import wait_for

pytestmark = pytest.mark.faults

SECONDS = float(os.environ.get("ASYNCTASK_OUTAGE_SECONDS", "8"))
BEFORE_SECONDS = 3.0
PAUSE, BODY = 0.02, 0.005
MARGIN = 0.25
"""Seconds by which the slowest hundredth may be slower during a fault, on the reference machine: noise. Anything that
waits for the database waits as long as the fault lasts."""
RECOVERY_SECONDS = 60
"""The recorder waits up to 36 s between two tries."""


class Scene(NamedTuple):
    server: Server
    world: World
    worker: Worker


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with own_server() as server:
        store = Store(Settings(url=server.url()))
        store.prepare()
        store.close()
        world = World(tmp_path_factory.mktemp("outage"), server.url(), FAULTS_CREATE_TABLES="0")
        try:
            worker = world.worker("-c2").wait_ready()
            wait_for(lambda: world.elected() == worker.pid, 20, "the worker to record")
            world.start("load", "-m", "tests.faults.load", str(PAUSE), str(BODY))
            wait_for(lambda: world.runs.size() > 10_000, 30, "the load to be steady")
            yield Scene(server, world, worker)
        finally:
            world.close()


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    server.stop()
    yield
    server.start()


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    server.freeze()
    yield
    server.thaw()


@contextmanager
def without_tables(server: Server) -> Iterator[None]:
    server.ask("ALTER TABLE async_task RENAME TO elsewhere")
    yield
    server.ask("ALTER TABLE elsewhere RENAME TO async_task")


FAULTS: dict[str, Callable[[Server], AbstractContextManager[None]]] = {
    "stopped": stopped,
    "frozen": frozen,
    "read-only": Server.read_only,
    "refusing": Server.refusing,
    "no tables": without_tables,
}


class Times(NamedTuple):
    """Seconds within which 99 of 100 were done."""

    publish: float
    wait: float
    """From the publish to the start of the body."""
    body: float


def times_of(world: World, since: int, until: int) -> tuple[Times, set[str]]:
    """The tasks sent between two moments, each of which must have ended."""
    asks = world.asks.read()
    asking = {note.task_id: note.at for note in asks if note.what == "asking" and since <= note.at < until}
    asked = {note.task_id: note.at for note in asks if note.what == "asked" and note.task_id in asking}
    runs = [note for note in world.runs.read() if note.task_id in asking]
    started = {note.task_id: note.at for note in runs if note.what == "start"}
    ended = {note.task_id: note.at for note in runs if note.what == "end"}
    missing = set(asked) - set(ended)
    assert not missing, f"{len(missing)} of {len(asked)} tasks did not run: {sorted(missing)[:5]}"
    assert len(runs) == 2 * len(ended), "tasks ran twice"
    ids = set(asked)
    return (
        Times(
            p99([asked[task_id] - asking[task_id] for task_id in ids]),
            p99([started[task_id] - asking[task_id] for task_id in ids]),
            p99([ended[task_id] - started[task_id] for task_id in ids]),
        ),
        ids,
    )


def p99(nanoseconds: list[int]) -> float:
    return sorted(nanoseconds)[int(len(nanoseconds) * 0.99)] / 1e9


def count_stored(world: World, ids: set[str]) -> int:
    """Number of these tasks with a row that says so."""
    with world.session() as session:
        query = select(func.count()).select_from(AsyncTask).where(AsyncTask.celery_task_id.in_(ids))
        return session.scalar(query.where(AsyncTask.status == AsyncTaskStatus.SUCCESS)) or 0


def put_aside(world: World) -> int:
    return sum(len(file.read_bytes().splitlines()) for file in world.journal.glob("*.quarantine"))


def let_pass(seconds: float) -> tuple[int, int]:
    """A stretch of time, as the notes measure it."""
    since = time.time_ns()
    time.sleep(seconds)
    return since, time.time_ns()


@pytest.mark.parametrize("fault", FAULTS)
def test_tasks_do_not_notice(scene: Scene, fault: str) -> None:
    server, world, worker = scene
    before = let_pass(BEFORE_SECONDS)
    said, aside = len(worker.text), put_aside(world)
    with FAULTS[fault](server):
        during = let_pass(SECONDS)
        at = time.time_ns()
        wait_for(lambda: world.runs.read()[-1].at > at, 5, "the worker to go on")
    over = time.monotonic()
    usual, _ = times_of(world, *before)
    slow, ids = times_of(world, *during)
    assert len(ids) > SECONDS * 20 / pace()
    wait_for(
        lambda: count_stored(world, ids) == len(ids) or put_aside(world) > aside,
        RECOVERY_SECONDS,
        f"the rows of {len(ids)} tasks",
    )
    assert put_aside(world) == aside, f"{put_aside(world) - aside} good events are in quarantine"
    print(f"\n{fault}: {len(ids)} tasks, rows there {time.monotonic() - over:.1f} s later")
    for name in Times._fields:
        first, then = getattr(usual, name), getattr(slow, name)
        print(f"  {name} p99 {first * 1000:.2f} ms before, {then * 1000:.2f} ms during")
        assert then <= first + patience(MARGIN), f"{name}: {then:.4f} s during the fault, {first:.4f} s before"
    if "cannot store events in" in worker.text[said:]:
        wait_for(
            lambda: "stores events again" in worker.text[said:], RECOVERY_SECONDS, "the log to say that it is over"
        )
    check_log(worker.text[said:], fault)


def check_log(text: str, fault: str) -> None:
    """One line logs the failure and one the recovery; none logs a quarantine."""
    ours = [line for line in text.splitlines() if "celery-asynctask" in line]
    sorry = [line for line in ours if "cannot store events in" in line]
    again = [line for line in ours if "stores events again" in line]
    summary = f"{len(ours)} lines, among them:\n" + "\n".join(ours[:5])
    assert len(sorry) == len(again) <= 1, summary
    assert len(ours) == len(sorry) + len(again), summary
    if fault != "frozen":  # which may pass without a failure
        assert sorry, summary
