"""Every shape, end to end: a real worker, a real broker, PostgreSQL as store, and each row field by field."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import services
from tests.workers.harness import Plan, World
from tests.workers.shapes import PREFORK_ONLY, SHAPES

AT_ONCE = 24
"""Shapes in flight together."""
SHAPE_SECONDS = 150


def plan_for(broker: str, store: str, directory: Path) -> Plan:
    if broker == "redis":
        return Plan(services.redis_url(10), services.redis_url(11), store, directory)
    return Plan(services.amqp_url(), f"db+{store}", store, directory)


SLOW = (pytest.mark.slow,)
SETTINGS: dict[str, tuple[str, tuple[str, ...], tuple[pytest.MarkDecorator, ...]]] = {
    "redis-prefork4": ("redis", ("-c4",), ()),
    "amqp-prefork4": ("amqp", ("-c4",), ()),
    "redis-prefork1": ("redis", ("-c1",), SLOW),
    "amqp-prefork2": ("amqp", ("-c2",), SLOW),
    "amqp-threads": ("amqp", ("-P", "threads", "-c4"), SLOW),
    "redis-gevent": ("redis", ("-P", "gevent", "-c8"), SLOW),
    "amqp-solo": ("amqp", ("-P", "solo"), SLOW),
}


def applicable(setting: str) -> list[str]:
    """Shapes that this pool can take."""
    return [name for name in SHAPES if "prefork" in setting or name not in PREFORK_ONLY]


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    """Every shape that applies, running."""
    broker, options, _ = SETTINGS[request.param]
    with services.fresh_database(services.postgresql_url()) as store:
        world = World(plan_for(broker, store, tmp_path_factory.mktemp("worker")))
        try:
            with world.worker(*options), ThreadPoolExecutor(AT_ONCE) as pool:
                yield {name: pool.submit(world.run, SHAPES[name]) for name in applicable(request.param)}
        finally:
            world.close()


@pytest.mark.parametrize(
    ("running", "name"),
    [
        pytest.param(setting, name, marks=marks, id=f"{setting}-{name}")
        for setting, (_, _, marks) in SETTINGS.items()
        for name in applicable(setting)
    ],
    indirect=["running"],
    scope="module",
)
def test_shape(running: dict[str, Future[None]], name: str) -> None:
    running[name].result(SHAPE_SECONDS)
