"""The ends of workers, and the rows of their tasks afterwards: killed, shut down warmly and coldly; and beat."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_asynctask import AsyncTask
from tests import services
from tests.pace import patience
from tests.waiting import wait_for
from tests.workers.expect import Row, expect
from tests.workers.harness import World, stop
from tests.workers.test_shapes import plan_for

pytestmark = pytest.mark.broker

REDIS_TRANSPORT = (
    "visibility_timeout=3 unacked_restore_interval=1 unacked_restore_throttle=1 "
    "unacked_mutex_expire=3"  # else a worker that is killed with the mutex keeps others from restoring for 5 minutes
)
"""Messages of a killed worker come back after seconds, not after an hour."""


@pytest.fixture(params=["redis", "amqp"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with services.fresh_database(services.postgresql_url()) as store:
        plan = plan_for(request.param, store, tmp_path)
        if request.param == "redis":
            plan.transport = REDIS_TRANSPORT
        world = World(plan)
        try:
            yield world
        finally:
            world.close()


def test_worker_killed(world: World) -> None:
    """Its late-acknowledged message is delivered again; events that its processes wrote before they died are stored."""
    with world.worker("-c2") as worker:
        sent = world.tasks.nap_until_redelivered.delay(60)
        lost = world.tasks.nap.delay(60)
        world.wait(sent.id, "STARTED")
        world.wait(lost.id, "STARTED")
        stop(worker, signal.SIGKILL)
    with world.worker("-c2"):
        expect(
            world,
            Row("nap_until_redelivered", id=sent.id, args=(60,), result="redelivered", outcomes=[None, "succeeded"]),
        )
        expect(world, Row("nap", "STARTED", id=lost.id, args=(60,), outcomes=[None]))
    assert [one.redelivered for one in world.attempts(sent.id)] == [False, True]


def test_worker_killed_and_its_task_not_run_again(world: World) -> None:
    """An early-acknowledged message is gone with its worker; some 40 s later, the next worker's recorder records
    that."""
    with world.worker("-c2") as worker:
        lost = world.tasks.nap.delay(600)
        world.wait(lost.id, "STARTED")
        stop(worker, signal.SIGKILL)
    with world.worker("-c1"):
        long = world.tasks.nap.delay(600)
        world.wait(long.id, "STARTED")
        wait_for(lambda: world.attempts(lost.id)[0].outcome == "lost", 90, "the run to be called lost")
        row = next(one for one in _all(world) if one.celery_task_id == lost.id)
        assert (row.status, row.error_type) == ("LOST", "WorkerLostError")
        assert "This attempt never reported its end" in (row.error_message or "")
        assert world.attempts(long.id)[0].outcome is None, "a run of a process that lives"
        long.revoke(terminate=True, signal="SIGKILL")
        world.wait(long.id, "REVOKED")


def test_warm_shutdown(world: World) -> None:
    """Running tasks finish; a received one goes back, and the next worker receives it again."""
    with world.worker("-c1") as worker:
        seconds = patience(2)
        running = world.tasks.nap.delay(seconds)
        world.wait(running.id, "STARTED")
        waiting = world.tasks.add.delay(1, 1)
        world.wait(waiting.id, "RECEIVED")
        assert stop(worker) == 0
    expect(world, Row("nap", id=running.id, args=(seconds,), result="slept"))
    segments = list((world.plan.directory / "journal").glob("*.events"))
    assert len(segments) <= 1, f"the worker left its journal behind: {segments}"  # one belongs to this process
    with world.worker("-c1"):
        expect(world, Row("add", id=waiting.id, args=(1, 1), result=2))


def test_cold_shutdown(world: World) -> None:
    """The message of an early-acknowledged task is gone: the task is LOST, and Celery's RETRY would be wrong."""
    with world.worker("-c2") as worker:
        early = world.tasks.nap.delay(60)
        late = world.tasks.nap_until_redelivered.delay(60)
        world.wait(early.id, "STARTED")
        world.wait(late.id, "STARTED")
        stop(worker, signal.SIGQUIT)
    expect(
        world,
        Row("nap", "LOST", early.id, (60,), error="WorkerShutdown", message="will not run again", outcomes=["lost"]),
    )
    with world.worker("-c2"):
        expect(
            world,
            Row("nap_until_redelivered", id=late.id, args=(60,), result="redelivered", outcomes=[None, "succeeded"]),
        )


def test_beat(world: World) -> None:
    with world.worker("-c2"):
        schedule = world.plan.directory / "schedule"
        beat = world.celery("beat", "-l", "INFO", "-s", str(schedule), "--pidfile=")
        try:
            wait_for(lambda: world.count() >= 2, 30, "beat to have sent two tasks")
        finally:
            stop(beat)
        for sent in _all(world):
            expect(world, Row("add", id=sent.celery_task_id, args=(20, 3), result=23, foreign=True))
            row = world.row(sent.celery_task_id)
            assert row is not None
            assert (row.customer, row.created_by_name) == (99, "the clock")
            assert row.content == {"periodic_task_name": "tick"}


def test_children_recycled(tmp_path: Path) -> None:
    """One child per task: each has a journal of its own, and all are drained and removed."""
    with services.fresh_database(services.postgresql_url()) as store:
        world = World(plan_for("redis", store, tmp_path))
        try:
            with world.worker("-c2", "--max-tasks-per-child=1"):
                sent = [world.tasks.add.delay(number) for number in range(6)]
                for number, one in enumerate(sent):
                    expect(world, Row("add", id=one.id, args=(number,), result=number), seconds=60)
                assert len({world.attempts(one.id)[0].pid for one in sent}) == 6
        finally:
            world.close()


BROKEN = {
    "hooks": ({"SHAPES_BREAK": "facts"}, "could not record"),
    "database": ({"SHAPES_STORE": "postgresql+psycopg://nobody@127.0.0.1:1/none"}, "cannot store events in"),
    "driver": ({"SHAPES_STORE": "postgresql+pg8000://nobody@127.0.0.1:1/none"}, "cannot store events in"),
    "directory": ({"SHAPES_JOURNAL": "/dev/null/journal"}, "cannot write to its journal in this process"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_tasks_run_whatever_is_broken(tmp_path: Path, broken: str) -> None:
    """The recorder's own trouble is one clear log line in each process; the tasks run as always."""
    environment, line = BROKEN[broken]
    with services.fresh_database(services.postgresql_url()) as store:
        world = World(plan_for("redis", store, tmp_path))
        try:
            with world.worker("-c1", **environment) as worker:
                good = [world.tasks.add.delay(number, 1) for number in range(20)]
                bad = world.tasks.fail.delay()
                again = world.tasks.retry_until.delay(2)
                assert [one.get(timeout=patience(20)) for one in good] == list(range(1, 21))
                with pytest.raises(ValueError, match="boom"):
                    bad.get(timeout=patience(20))
                assert again.get(timeout=patience(20)) == "after 2"
                wait_for(lambda: line in world.log.read_text(encoding="utf-8"), 20, f"{line!r} in the log")
                world.wait_until_idle()
                started = time.monotonic()
                assert stop(worker) == 0
                assert time.monotonic() - started < patience(5)
            text = world.log.read_text(encoding="utf-8")
            kinds = {entry.split("celery-asynctask", 1)[1][:60] for entry in text.splitlines() if line in entry}
            times = sum(line in entry for entry in text.splitlines())
            assert times <= 2 * max(len(kinds), 1), (
                f"{times} lines for {kinds}"
            )  # one for each process and kind of failure
            if broken == "directory":  # each process has stored from its memory
                wait_for(lambda: {one.status for one in _all(world)} == {"SUCCESS", "FAILURE"}, 20, "all rows")
                assert len(world.attempts(again.id)) == 3
        finally:
            world.close()


def _all(world: World) -> list[AsyncTask]:
    from sqlalchemy import select
    from sqlalchemy.orm import Session

    with Session(world.engine, expire_on_commit=False) as session:
        return list(session.scalars(select(AsyncTask)))
