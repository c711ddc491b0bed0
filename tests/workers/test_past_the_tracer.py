"""Executions of which Celery's tracer says no end, in workers without children; and tasks that go past it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import services
from tests.workers.expect import Row, expect
from tests.workers.harness import World
from tests.workers.test_shapes import plan_for

pytestmark = pytest.mark.broker


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with services.fresh_database(services.postgresql_url()) as store:
        world = World(plan_for("amqp", store, tmp_path))
        try:
            yield world
        finally:
            world.close()


def test_a_solo_worker_whose_body_ends_it(world: World) -> None:
    """Celery 5.7 stops with an error of its own, and says nothing of the task."""
    with world.worker("-P", "solo") as worker:
        sent = world.tasks.end_with.delay("Own")
        worker.wait(30)
        world.process = None
        expect(world, Row("end_with", "FAILURE", sent.id, ("Own",), error="Own", outcomes=["failed"], foreign=True))


def test_a_greenlet_that_is_revoked_or_out_of_time(world: World) -> None:
    with world.worker("-P", "gevent", "-c4"):
        sent = world.tasks.nap.delay(60)
        world.wait(sent.id, "STARTED")
        world.app.control.revoke(sent.id, terminate=True)
        late = world.tasks.over_hard_limit.delay()
        revoked = Row("nap", "REVOKED", sent.id, (60,), error="TaskRevokedError", outcomes=["terminated"], foreign=True)
        expect(world, revoked)
        row = world.wait(late.id, "FAILURE")
        assert row.error_type in ("TimeLimitExceeded", "Timeout")  # the second is what ends the body; before Celery 5.7
        world.wait_until_idle()
        assert [world.row(one.id).status for one in (sent, late)] == ["REVOKED", "FAILURE"]  # type: ignore[union-attr]


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_tasks_that_are_collected(world: World, pool: str) -> None:
    """Their messages wait in the worker, but may never be seen to start, so they are not RECEIVED."""
    with world.worker("-P", pool):
        first = world.tasks.collect.delay(1)
        other = world.tasks.add.apply_async((1, 1), countdown=3)
        world.wait(other.id, "RECEIVED")
        assert world.wait(first.id, "PENDING").started_at is None
        second = world.tasks.collect.delay(2)
        for number, sent in ((1, first), (2, second)):
            expect(world, Row("collect", id=sent.id, args=(number,), result=number, foreign=True))
