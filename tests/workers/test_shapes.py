"""Every shape, end to end: a real worker, a real broker, PostgreSQL as store, and each row checked field by field."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from celery_asynctask import AsyncTaskAttempt
from tests import services
from tests.pace import patience
from tests.workers import spans
from tests.workers.harness import Plan, World
from tests.workers.shapes import ENDS_SOLO, PREFORK_ONLY, SHAPES

SHAPE_SECONDS = 150

pytestmark = pytest.mark.broker


def plan_for(broker: str, store: str, directory: Path) -> Plan:
    if broker == "redis":
        return Plan(services.redis_url(10), services.redis_url(11), store, directory)
    return Plan(services.amqp_url(), f"db+{store}", store, directory)


class Setting(NamedTuple):
    """A worker that runs the shapes."""

    broker: str
    options: tuple[str, ...]
    at_once: int
    """Shapes in flight at once: more than the pool can run, and few enough that none waits beyond its deadline."""
    tracing: str = ""
    """As in `Plan`."""
    workers: int = 1
    """Worker processes that share the queue."""


OFTEN = {
    "redis-prefork4-traced": Setting("redis", ("-c4",), 24, tracing="after"),
    "amqp-prefork2-two-workers": Setting("amqp", ("-c2",), 16, tracing="before", workers=2),
    "amqp-threads-links": Setting("amqp", ("-P", "threads", "-c4"), 12, tracing="links"),
    "redis-gevent-late": Setting("redis", ("-P", "gevent", "-c8"), 12, tracing="late"),
    "amqp-solo": Setting("amqp", ("-P", "solo"), 2),
}
"""Each pool, each broker and each way to trace at least once."""
SELDOM = {
    "redis-prefork4": Setting("redis", ("-c4",), 24),
    "redis-prefork4-links": Setting("redis", ("-c4",), 24, tracing="links"),
    "redis-prefork2": Setting("redis", ("-c2",), 8),
    "redis-threads-late": Setting("redis", ("-P", "threads", "-c4"), 12, tracing="late"),
    "redis-gevent": Setting("redis", ("-P", "gevent", "-c8"), 12, tracing="before"),
    "redis-solo-late": Setting("redis", ("-P", "solo"), 2, tracing="late"),
    "amqp-prefork4": Setting("amqp", ("-c4",), 24),
    "amqp-prefork2": Setting("amqp", ("-c2",), 8),
    "amqp-threads": Setting("amqp", ("-P", "threads", "-c4"), 12, tracing="before"),
    "amqp-gevent-late": Setting("amqp", ("-P", "gevent", "-c8"), 12, tracing="late"),
    "amqp-solo-traced": Setting("amqp", ("-P", "solo"), 2, tracing="before"),
}
"""Other combinations of the same, which `tests.soak` runs as well."""
SETTINGS = OFTEN | SELDOM if "ASYNCTASK_SHAPES" in os.environ else OFTEN


def applicable(setting: str) -> list[str]:
    """The shapes that this pool can run."""
    left_out = set() if "prefork" in setting else PREFORK_ONLY | (ENDS_SOLO if "solo" in setting else set())
    return [name for name in SHAPES if name not in left_out]


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    """All shapes that apply, running."""
    setting = SETTINGS[request.param]
    if setting.tracing:
        spans.instrument(use_span_links=setting.tracing == "links")
    with services.fresh_database(services.postgresql_url()) as store:
        plan = plan_for(setting.broker, store, tmp_path_factory.mktemp("worker"))
        plan.tracing = setting.tracing
        world = World(plan)
        try:
            with ExitStack() as stack:
                for _ in range(setting.workers):
                    stack.enter_context(world.worker(*setting.options))
                pool = stack.enter_context(ThreadPoolExecutor(setting.at_once))
                yield {name: pool.submit(world.run, SHAPES[name]) for name in applicable(request.param)}
            if setting.tracing:
                check_spans(world)
        finally:
            world.close()
            if setting.tracing:
                spans.uninstrument()


#: Attempts that succeeded although their process was killed before it could export a span.
KILLED_AFTER_RESULT = tuple(
    f"tests.workers.app.{name}" for name in ("die_with_result", "die_with_result_late", "die_with_secret")
)


def check_spans(world: World) -> None:
    """Every attempt's span was exported and belongs to an attempt of that task, except where its process was killed."""
    exported = {one["span"]: one for one in spans.read(world.plan.directory / "spans")}
    wrong = []
    with Session(world.engine) as session:
        for attempt in session.scalars(select(AsyncTaskAttempt).where(AsyncTaskAttempt.started_at.is_not(None))):
            span = exported.get(attempt.span_id or "")
            killed = (
                attempt.outcome in (None, "terminated")
                or attempt.error_type == "WorkerLostError"
                or attempt.name in KILLED_AFTER_RESULT
            )
            if span is None and not killed:
                wrong.append(f"{attempt!r}: span {attempt.span_id} was not exported")
            elif span is not None and (span["name"] != f"run/{attempt.name}" or not is_described(span, attempt)):
                wrong.append(f"{attempt!r}: its span is {span}")
    assert len(exported) > 50
    assert not wrong, "\n".join(wrong)


def is_described(span: Any, attempt: AsyncTaskAttempt) -> bool:
    """Whether a span names an attempt in its attributes, and nothing else of that kind.

    A retry may start in the same process before the attempt that requested it has ended: the instrumentation, which
    knows spans by their task's id, then ends the span of the wrong one, and it takes nothing more.
    """
    wanted = {"celery.task_id": attempt.celery_task_id, "asynctask.run_key": attempt.run_key}
    named = {name: value for name, value in span["attributes"].items() if name in wanted}
    retried = attempt.retries > 0 or attempt.outcome == "retried"
    return named == wanted or (retried and named.items() <= wanted.items())


def on(settings: dict[str, Setting]) -> pytest.MarkDecorator:
    """Parametrize over workers. pytest keeps tests with the same position in the list together."""
    params = [pytest.param(key, marks=pytest.mark.xdist_group(f"shapes-{key}"), id=key) for key in settings]
    return pytest.mark.parametrize("running", params, indirect=True, scope="module")


@on(SETTINGS)
@pytest.mark.parametrize("name", [name for name in SHAPES if name not in PREFORK_ONLY | ENDS_SOLO])
def test_shape(running: dict[str, Future[None]], name: str) -> None:
    running[name].result(patience(SHAPE_SECONDS))


@on({key: setting for key, setting in SETTINGS.items() if "solo" not in key})
@pytest.mark.parametrize("name", sorted(ENDS_SOLO))
def test_shape_not_solo(running: dict[str, Future[None]], name: str) -> None:
    running[name].result(patience(SHAPE_SECONDS))


@on({key: setting for key, setting in SETTINGS.items() if "prefork" in key})
@pytest.mark.parametrize("name", sorted(PREFORK_ONLY))
def test_shape_prefork(running: dict[str, Future[None]], name: str) -> None:
    running[name].result(patience(SHAPE_SECONDS))
