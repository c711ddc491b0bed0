"""Bodies that a worker interrupts in its own process, and attempts whose retry no message follows."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from celery import Celery, Task
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.exceptions import Retry, WorkerShutdown, WorkerTerminate
from celery.worker import state

from celery_asynctask import AsyncTask, AsyncTaskAttempt
from celery_asynctask.capture import inflight, run
from celery_asynctask.capture.instrumentation import instrumentation_of
from celery_asynctask.core.event import Event, Kind
from tests.integration.capture.test_eager import stored
from tests.integration.capture.test_own_tracers import OF_TASK, delivered


class GreenletExit(BaseException):
    """As of greenlet."""


LOST = "The worker was shut down before the task finished; its message was acknowledged, so it will not run again."
ROW = (AsyncTask.status, AsyncTask.error_type, AsyncTask.error_message, AsyncTaskAttempt.outcome)


@pytest.fixture
def app(eager_app: Celery) -> Iterator[Celery]:
    eager_app.conf.task_always_eager = False
    with mock.patch.object(inflight, "_requests", {}):
        yield eager_app


def deliver(task: Any, **request: Any) -> None:
    """Run the task as a worker does."""
    known = {**delivered(1), "id": "one", "task": task.name, "retries": 0, **request}
    build_tracer(task.name, task, app=task.app)("one", (), {}, known)


class Live:
    """What a worker's main process has of a delivery."""

    def __init__(self, acknowledged: bool) -> None:
        self.acknowledged = acknowledged


def received(acknowledged: bool) -> Live:
    request = Live(acknowledged)
    inflight._requests["one"] = weakref.ref(request)
    return request


def raising(app: Celery, exc: BaseException) -> Any:
    @app.task(shared=False, name="end")
    def end() -> None:
        raise exc

    return end


@pytest.mark.parametrize("raised", [WorkerShutdown(0), WorkerTerminate(1), KeyboardInterrupt()])
def test_by_a_worker_that_stops(app: Celery, monkeypatch: pytest.MonkeyPatch, raised: BaseException) -> None:
    """What becomes of the task is what becomes of its message."""
    end = raising(app, raised)
    monkeypatch.setattr(state, "should_terminate", 1)
    live = received(acknowledged=True)
    with pytest.raises(type(raised)):
        deliver(end)
    live.acknowledged = False
    with pytest.raises(type(raised)):
        deliver(end, **delivered(1))
    assert stored(app, *ROW, where=OF_TASK) == [
        ("PENDING", None, None, "lost"),
        ("PENDING", None, None, "requeued"),
    ]


def test_lost_by_a_worker_that_stops(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "should_stop", 0)
    live = received(acknowledged=True)
    with pytest.raises(WorkerTerminate):
        deliver(raising(app, WorkerTerminate(1)))
    assert live.acknowledged
    assert stored(app, *ROW, where=OF_TASK) == [("LOST", "WorkerShutdown", LOST, "lost")]


@pytest.mark.parametrize("raised", [WorkerShutdown(0), KeyboardInterrupt(), SystemExit(3)])
def test_by_itself(app: Celery, raised: BaseException) -> None:
    """No worker was told to stop: the body has done that, and in some pools the worker goes on."""
    live = received(acknowledged=True)
    with pytest.raises(type(raised)):
        deliver(raising(app, raised))
    assert live.acknowledged
    assert stored(app, *ROW, where=OF_TASK) == [("FAILURE", type(raised).__name__, str(raised), "failed")]


@pytest.mark.parametrize("first", ["body", "worker"])
@pytest.mark.parametrize(
    ("raised", "kind", "status", "error"),
    [
        (GreenletExit(), Kind.REVOKED, "REVOKED", "TaskRevokedError"),
        (GreenletExit(), None, "LOST", "GreenletExit"),
        (SystemExit(), Kind.FAILED, "FAILURE", "TimeLimitExceeded"),
    ],
)
def test_a_greenlet_that_is_killed(
    app: Celery, raised: BaseException, kind: Kind | None, status: str, error: str, first: str
) -> None:
    """By a revocation or a time limit, which the worker knows better; whoever is first."""
    if first == "worker" and kind is Kind.FAILED:
        return  # a pool tells the worker of a time limit after the body has ended
    end = raising(app, raised)
    header = delivered(1)

    def tell() -> None:
        if kind is not None:
            request = Context({**header, "id": "one"})
            told: Event = {"error_type": error, "error_message": "told"}  # type: ignore[typeddict-item]
            run.record_end(instrumentation_of(app), kind, end, request, told, inferred=True)  # type: ignore[arg-type]

    if first == "worker":
        tell()
    with pytest.raises(type(raised)):
        deliver(end, **header)
    if first == "body":
        tell()
    message = "told" if kind is not None else "The task's greenlet was killed before the task finished."
    assert [row[:3] for row in stored(app, *ROW, where=OF_TASK)] == [(status, error, message)]


def test_in_a_child_its_main_process_says_it(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not of what the child runs eagerly."""
    inner = raising(app, SystemExit(3))

    @app.task(shared=False, name="outer")
    def outer() -> None:
        inner.apply(task_id="inner")

    monkeypatch.setattr(run, "is_pool_child", lambda: True)
    with pytest.raises(SystemExit):
        deliver(outer)
    rows = stored(app, AsyncTask.name, *ROW, where=OF_TASK)
    assert rows == [("end", "FAILURE", "SystemExit", "3", "failed"), ("outer", "STARTED", None, None, None)]


# -- retries


class Held(Task):
    """Keeps its message, as celery-singleton does while the task has its own lock."""

    abstract = True

    def apply_async(self, *args: Any, **options: Any) -> Any:
        return None if options.get("retries") else super().apply_async(*args, **options)


def retrying(app: Celery, **options: Any) -> Any:
    @app.task(shared=False, name="again", bind=True, max_retries=3, **options)
    def again(self: Any, depth: int = 0) -> Any:
        if depth:
            return self(depth - 1)
        raise self.retry(exc=KeyError("once"), countdown=0)

    return again


@pytest.mark.parametrize(
    ("base", "status", "message", "outcome"),
    [(Task, "RETRY", "'once'", "retried"), (Held, "FAILURE", "The retry was not sent: 'once'", "failed")],
)
def test_a_retry_is_one_if_it_is_sent(app: Celery, base: Any, status: str, message: str, outcome: str) -> None:
    deliver(retrying(app, base=base))
    [[seen, error, text, how]] = stored(app, *ROW, where=OF_TASK)
    assert (seen, error, how) == (status, None if status == "RETRY" else "KeyError", outcome)
    assert text == (None if status == "RETRY" else message)


def test_a_retry_that_is_raised_without_a_message(app: Celery) -> None:
    deliver(raising(app, Retry("later")))
    assert stored(app, *ROW, where=OF_TASK) == [("FAILURE", "Retry", "The retry was not sent: later", "failed")]


def test_a_retry_from_inside_of_a_direct_call(app: Celery) -> None:
    """Of the same task, which has a copy of the request."""
    again = retrying(app)
    build_tracer("again", again, app=app)("one", (2,), {}, {**delivered(1), "id": "one", "task": "again"})
    assert [row[3] for row in stored(app, *ROW, where=OF_TASK)] == ["retried"]


def test_a_retry_that_nobody_here_can_see(app: Celery) -> None:
    """What has taken our place may send it."""
    send = app.amqp.send_task_message
    app.amqp.send_task_message = lambda *args, **options: None
    try:
        deliver(retrying(app))
    finally:
        app.amqp.send_task_message = send
    assert stored(app, *ROW, where=OF_TASK) == [("RETRY", "KeyError", "'once'", "retried")]
