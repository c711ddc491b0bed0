"""The context of a task, and the content that it sets while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_asynctask import context
from tests import services
from tests.pace import patience
from tests.waiting import wait_for
from tests.workers.expect import Row, expect
from tests.workers.harness import World
from tests.workers.test_shapes import plan_for

pytestmark = pytest.mark.broker

POOLS = {
    "prefork": (("-c3",), 100),
    "threads": (("-P", "threads", "-c8"), 400),
    "gevent": (("-P", "gevent", "-c50"), 400),
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with services.fresh_database(services.postgresql_url()) as store:
        world = World(plan_for("redis", store, tmp_path))
        try:
            yield world
        finally:
            world.close()


@pytest.mark.parametrize("pool", POOLS)
def test_nothing_leaks_from_one_task_to_the_next(world: World, pool: str) -> None:
    """Every third task has no customer; the others have different ones, and share processes, threads and greenlets."""
    options, count = POOLS[pool]
    with world.worker(*options):
        sent: list[tuple[Any, int | None]] = []
        for number in range(1, count + 1):
            if number % 3:
                with context(customer=number, created_by_name=f"user {number}"):
                    sent.append((world.tasks.whoami.delay(0.02), number))
            else:
                sent.append((world.tasks.whoami.delay(0.02), None))
        for one, customer in sent:
            name = None if customer is None else f"user {customer}"
            assert one.get(timeout=patience(60)) == [customer, customer, name]
        for one, customer in sent:
            assert world.wait(one.id, "SUCCESS").customer == customer
        world.forget_results()


def test_content_is_seen_while_the_task_runs(world: World) -> None:
    with world.worker("-c1"):
        with context(content={"order": 1}):
            sent = world.tasks.noting.delay(3)
        row = wait_for(
            lambda: (row := world.row(sent.id)) and "progress" in (row.content or {}) and row, 20, "progress to be seen"
        )
        assert row.status == "STARTED"
        assert row.content == {
            "order": 1,
            "invoice": 17,
            "progress": {"done": 1, "total": 2, "message": "half way"},
        }
        expect(world, Row("noting", id=sent.id, args=(3,), result="done", foreign=True))
        final = world.row(sent.id)
        assert final is not None
        assert final.content["progress"] == {"done": 2, "total": 2, "message": None}
