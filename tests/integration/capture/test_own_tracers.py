"""Executions past Celery's tracer: coroutines that share its stacks, and tasks with a strategy of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.exceptions import Ignore, Reject, Retry

from celery_asynctask import AsyncTask, AsyncTaskAttempt, context, current, record_run
from celery_asynctask.capture import extract, start, tracing
from celery_asynctask.core.keys import new_token
from celery_asynctask.core.time import now
from tests import doubles
from tests.integration.capture.test_eager import stored

OF_TASK = AsyncTask.celery_task_id == AsyncTaskAttempt.celery_task_id
ATTEMPT = (
    AsyncTask.celery_task_id,
    AsyncTask.status,
    AsyncTask.customer,
    AsyncTask.result,
    AsyncTask.started_at.is_not(None),
    AsyncTaskAttempt.outcome,
    AsyncTaskAttempt.worker,
    AsyncTaskAttempt.pid.is_not(None),
)


@pytest.fixture
def app(eager_app: Celery) -> Celery:
    eager_app.conf.task_always_eager = False
    return eager_app


@pytest.fixture
def followed() -> Iterator[None]:
    start.follow_coroutines()
    yield
    start.follow_coroutines(enable=False)


def delivered(customer: int, **more: Any) -> dict[str, Any]:
    """The headers of a message as a worker hands them on."""
    at = now()
    header = {"created": at, "sent": at, "run": new_token(at), "delivered": True, "here": (), "customer": customer}
    return {"asynctask": header, "hostname": "worker@here", "delivery_info": {"routing_key": "high"}, **more}


@pytest.mark.usefixtures("followed")
def test_coroutines_that_take_turns(app: Celery) -> None:
    """Each is recorded as what it is, whoever is on top of the stacks that they share; the first to start ends first,
    and pops what belongs to another."""

    @app.task(shared=False, name="child")
    def child() -> Any:
        return current().customer

    @app.task(shared=False, name="turn")
    async def turn(number: int) -> Any:
        await asyncio.sleep(0)
        current().update({"number": number})
        await asyncio.sleep(0)
        child.apply_async(task_id=f"sent-{number}")
        seen = child.apply(task_id=f"eager-{number}").result
        await asyncio.sleep(0)
        if number == 1:
            raise ValueError("one")
        return [seen, current().customer]

    async def main() -> None:
        await asyncio.gather(*(doubles.trace(turn, f"turn-{n}", delivered(n), n) for n in (1, 2, 3)))

    asyncio.run(main())
    turns = (AsyncTask.celery_task_id, AsyncTask.customer, AsyncTask.content, AsyncTask.status, AsyncTask.result)
    rows = stored(app, *turns, AsyncTask.error_type, AsyncTask.started_at.is_not(None))
    assert rows == [
        *[(f"eager-{n}", n, None, "SUCCESS", n, None, True) for n in (1, 2, 3)],
        *[(f"sent-{n}", n, None, "PENDING", None, None, False) for n in (1, 2, 3)],
        ("turn-1", 1, {"number": 1}, "FAILURE", None, "ValueError", True),
        ("turn-2", 2, {"number": 2}, "SUCCESS", [2, 2], None, True),
        ("turn-3", 3, {"number": 3}, "SUCCESS", [3, 3], None, True),
    ]


@pytest.mark.usefixtures("followed")
def test_coroutines_in_another_thread(app: Celery) -> None:
    """Neither the loader nor the body finds its request on a stack; one that an earlier task left is not taken."""

    @app.task(shared=False, name="away")
    async def away() -> Any:
        await asyncio.sleep(0)
        current().update({"for": current().customer})
        return current().customer

    with ThreadPoolExecutor(1) as pool:
        for number in (1, 2):
            doubles.trace_elsewhere(pool, away, f"away-{number}", delivered(number))
        assert pool.submit(lambda: current().customer).result() is None
    assert current().customer is None
    assert stored(app, *ATTEMPT, AsyncTask.content, where=OF_TASK) == [
        (f"away-{n}", "SUCCESS", n, n, True, "succeeded", "worker@here", True, {"for": n}) for n in (1, 2)
    ]


def request_of(task_id: str, customer: int, **more: Any) -> Any:
    """As celery-batches gives it to a batch."""
    known = {"args": (1,), "kwargs": {"two": 2}, "delivery_info": {"routing_key": "high"}, "hostname": "worker@here"}
    return SimpleNamespace(id=task_id, name="collect", request_dict=delivered(customer), **known, **more)


def collect(app: Celery) -> Any:
    @app.task(shared=False, name="collect", base=doubles.Batches)
    def collect(requests: Any) -> None: ...

    app.finalize()
    return collect


def test_a_run_that_is_recorded(app: Celery) -> None:
    """With all that an attempt has, and what it sends."""
    collect(app)

    @app.task(shared=False, name="child")
    def child() -> None: ...

    for number in (1, 2):
        with record_run(request_of(f"run-{number}", number), app=app) as recorded:
            current().progress(number, 2)
            child.apply_async(task_id=f"sent-{number}")
            child.apply(task_id=f"eager-{number}")
            recorded.result = {"number": number}
        assert current().customer is None
    columns = (*ATTEMPT, AsyncTask.task_args, AsyncTask.task_kwargs, AsyncTask.content, AsyncTaskAttempt.queue)

    def more(number: int) -> tuple[Any, ...]:
        return [1], {"two": 2}, {"progress": {"done": number, "message": None, "total": 2}}, "high"

    rows = stored(app, *columns, where=OF_TASK & (AsyncTask.name == "collect"))
    assert rows == [
        (f"run-{n}", "SUCCESS", n, {"number": n}, True, "succeeded", "worker@here", True, *more(n)) for n in (1, 2)
    ]


def test_what_a_run_sends(app: Celery) -> None:
    """Also inside of several runs, and of an eager one in a run."""
    collect(app)

    @app.task(shared=False, name="child")
    def child(depth: int = 0) -> Any:
        if depth:
            child.apply_async(task_id=f"inner-{current().customer}")
        return current().customer

    with record_run(request_of("one", 1), app=app):
        with record_run(request_of("two", 2), app=app):
            child.apply_async(task_id="of-two")
            with context(customer=3):
                assert child.apply((1,), task_id="eager").result == 3
        child.apply_async(task_id="of-one")
    child.apply_async(task_id="of-none")
    assert stored(app, AsyncTask.celery_task_id, AsyncTask.customer, where=AsyncTask.name == "child") == [
        ("eager", 3),
        ("inner-3", 3),
        ("of-none", None),
        ("of-one", 1),
        ("of-two", 2),
    ]


@pytest.mark.parametrize(
    ("raised", "status", "error", "message"),
    [
        (ValueError("boom"), "FAILURE", "ValueError", "boom"),
        (SystemExit("out"), "FAILURE", "SystemExit", "out"),
        (Ignore(), "IGNORED", None, None),
        (Reject("not mine"), "REJECTED", "Reject", "not mine"),
        (Retry("later"), "FAILURE", "Retry", "The retry was not sent: later"),
    ],
)
def test_a_run_that_ends_with_an_exception(
    app: Celery, raised: BaseException, status: str, error: str | None, message: str | None
) -> None:
    collect(app)

    def end() -> None:
        with record_run(request_of("run", 1), app=app) as recorded:
            recorded.result = "nearly"
            raise raised

    with pytest.raises(type(raised)) as passed:
        end()
    assert passed.value is raised
    columns = (AsyncTask.status, AsyncTask.error_type, AsyncTask.error_message, AsyncTask.result)
    assert stored(app, *columns) == [(status, error, message, None)]


def test_what_is_recorded_already_is_not_recorded_twice(app: Celery) -> None:
    @app.task(shared=False, name="add", bind=True)
    def add(self: Any) -> int:
        with record_run(self.request, app=app) as recorded:
            recorded.result = "inner"
        with record_run(SimpleNamespace(id=self.request.id, name="add"), app=app) as recorded:
            recorded.result = "inner"
        with record_run(request_of("eager", 1, eager=True), app=app), record_run(eager(self.request), app=app):
            return 3

    def eager(request: Any) -> Any:
        return SimpleNamespace(id="batch of one", name="batch request", delivery_info={"is_eager": True})

    add.apply(task_id="add")
    assert stored(app, AsyncTask.celery_task_id, AsyncTask.result) == [("add", 3), ("eager", None)]


def test_a_run_that_cannot_be_recorded(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """The block runs, and what it raises passes."""
    app.conf.asynctask_exclude = ["left.out"]
    plain = Celery("plain", broker="memory://", set_as_current=False)
    for request, of in (
        (SimpleNamespace(id=17, name="add"), app),
        (object(), app),
        (Context(id="a", task="left.out"), app),
        (Context(id="a", task="any"), plain),
    ):
        with record_run(request, app=of) as recorded:
            recorded.result = 1
        with pytest.raises(KeyError), record_run(request, app=of):
            raise KeyError("mine")
    assert caplog.text.count("could not record record_run_begin") == 1
    with record_run(Context(id="b", task="any"), app=app):
        pass
    assert stored(app, AsyncTask.celery_task_id) == [("b",)]


def test_a_run_that_cannot_start_leaves_nothing_behind(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the trace of its message either, which is attached before anything is recorded."""
    collect(app)
    traced = request_of("one", 1)
    traced.request_dict["traceparent"] = f"00-{'a' * 32}-{'b' * 16}-01"
    with record_run(traced, app=app):
        assert tracing.current() is not None
    assert tracing.current() is None
    monkeypatch.setattr(extract, "start", lambda *_: 1 / 0)
    with record_run(traced, app=app):
        assert (tracing.current(), current().customer) == (None, None)
    assert tracing.current() is None


def test_tasks_that_this_app_does_not_know(app: Celery) -> None:
    """By their name alone, without arguments; a Context of Celery has it as the message has."""
    with record_run(Context(id="one", task="elsewhere.one", args=(1,), kwargs={}), app=app):
        assert current().content == {}
        current().update({"known": True})
    rows = stored(app, AsyncTask.name, AsyncTask.status, AsyncTask.task_args, AsyncTask.content)
    assert rows == [("elsewhere.one", "SUCCESS", None, {"known": True})]


def test_the_app_of_a_batch(app: Celery) -> None:
    """That of the task whose function is called, without being said."""

    @app.task(shared=False, name="collect", base=doubles.Batches)
    def collect(requests: list[Any]) -> None:
        for one in requests:
            with record_run(one):
                pass

    app.finalize()
    doubles.run_batch(app.tasks["collect"], [request_of("one", 1), request_of("two", 2)])
    assert [row[:6] for row in stored(app, *ATTEMPT, where=OF_TASK)] == [
        ("one", "SUCCESS", 1, None, True, "succeeded"),
        ("two", "SUCCESS", 2, None, True, "succeeded"),
    ]
