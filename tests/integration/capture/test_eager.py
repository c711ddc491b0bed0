"""Tasks that run eagerly, as in test suites of applications, are recorded like any other, in the calling process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.exceptions import Retry
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from celery_asynctask import AsyncTask, AsyncTaskAttempt, context, current, uninstall

Rows = Callable[[], list[tuple[Any, ...]]]


def stored(app: Celery, *columns: Any, where: Any = None) -> list[tuple[Any, ...]]:
    """The chosen columns of every row, sorted, once everything is stored; ``where`` joins tables."""
    url = app.conf.asynctask_url
    uninstall(app)
    engine = create_engine(url)
    try:
        with Session(engine) as session:
            query = select(*columns) if where is None else select(*columns).where(where)
            return sorted((tuple(row) for row in session.execute(query)), key=repr)
    finally:
        engine.dispose()


def test_always_eager(eager_app: Celery) -> None:
    @eager_app.task(shared=False, name="add")
    def add(x: int, y: int = 1) -> int:
        return x + y

    @eager_app.task(shared=False, name="total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    assert add.delay(1).get() == 2
    assert chain(add.s(1), add.s(10)).apply_async().get() == 12
    assert group(add.s(5), add.s(6)).apply_async().get() == [6, 7]
    assert chord([add.s(7), add.s(8)])(total.s()).get() == 17
    assert stored(eager_app, AsyncTask.name, AsyncTask.status, AsyncTask.task_args, AsyncTask.result) == [
        ("add", "SUCCESS", [1], 2),
        ("add", "SUCCESS", [1], 2),
        ("add", "SUCCESS", [2, 10], 12),
        ("add", "SUCCESS", [5], 6),
        ("add", "SUCCESS", [6], 7),
        ("add", "SUCCESS", [7], 8),
        ("add", "SUCCESS", [8], 9),
        ("total", "SUCCESS", [[8, 9]], 17),
    ]


@pytest.mark.parametrize("propagates", [False, True])
def test_failure_and_retry(eager_app: Celery, propagates: bool) -> None:
    eager_app.conf.task_eager_propagates = propagates

    @eager_app.task(shared=False, name="fail")
    def fail() -> None:
        raise ValueError("boom")

    @eager_app.task(shared=False, name="again", bind=True, max_retries=3)
    def again(self: Any) -> str:
        if self.request.retries < 1:
            raise self.retry(exc=KeyError("once"), countdown=0)
        return "done"

    if propagates:
        with pytest.raises(ValueError, match="boom"):
            fail.delay()
    else:
        assert fail.delay().state == "FAILURE"
    again.apply(throw=False)
    columns = (AsyncTask.name, AsyncTask.status, AsyncTask.retries, AsyncTask.error_type, AsyncTask.error_message)
    assert stored(eager_app, *columns) == [
        ("again", "SUCCESS", 1, None, None),
        ("fail", "FAILURE", 0, "ValueError", "boom"),
    ]


@pytest.mark.parametrize("options", [{}, {"throw": False}, {"headers": {"of": "the user"}}])
def test_a_retry_stays_with_its_customer(eager_app: Celery, options: dict[str, Any]) -> None:
    """Also where a task of another customer ran under the same id meanwhile, in another thread or within the first."""

    @eager_app.task(shared=False, name="other", bind=True, max_retries=1)
    def other(self: Any) -> str:
        if self.request.retries == 0:
            raise self.retry(countdown=0)
        return "of B"

    def run_other() -> None:
        with context(customer="B"):
            assert other.apply(task_id="one").get() == "of B"

    @eager_app.task(shared=False, name="again", bind=True, max_retries=1)
    def again(self: Any) -> Any:
        if self.request.retries == 0:
            run_other()
            thread = Thread(target=run_other)
            thread.start()
            thread.join()
            return self.retry(countdown=0, **options)
        return "of A"

    with context(customer="A", content={"order": 1}):
        result = again.apply(task_id="one")
    assert result.get() == "of A"
    columns = (AsyncTask.customer_key, AsyncTask.name, AsyncTask.status, AsyncTask.result, AsyncTask.retries)
    assert stored(eager_app, *columns, AsyncTask.content) == [
        ("A", "again", "SUCCESS", "of A", 1, {"order": 1}),
        ("B", "other", "SUCCESS", "of B", 1, None),
    ]


def test_an_error_around_the_body_stays_with_its_customer(eager_app: Celery) -> None:
    """Also where a task of another customer ran under the same id within it."""

    @eager_app.task(shared=False, name="inner")
    def inner() -> str:
        return "of B"

    @eager_app.task(shared=False, name="outer")
    def outer() -> None:
        with context(customer="B"):
            inner.apply(task_id="one")
        raise ValueError("of A")

    with context(customer="A"), pytest.raises(ValueError, match="of A"):
        outer.apply(task_id="one", throw=True)
    columns = (AsyncTask.customer_key, AsyncTask.name, AsyncTask.status, AsyncTask.error_message)
    assert stored(eager_app, *columns) == [("A", "outer", "FAILURE", "of A"), ("B", "inner", "SUCCESS", None)]


def test_retry_that_propagates(eager_app: Celery) -> None:
    """The tracer raises the Retry to the caller as an internal error, and nothing runs again: it has failed."""
    eager_app.conf.task_eager_propagates = True

    @eager_app.task(shared=False, name="again", bind=True, max_retries=3)
    def again(self: Any) -> str:
        if self.request.retries < 1:
            raise self.retry(exc=KeyError("once"), countdown=0)
        return "done"

    with pytest.raises(Exception, match=r"once|Retry"):
        again.delay()
    columns = (AsyncTask.status, AsyncTask.error_type, AsyncTask.error_message)
    assert stored(eager_app, *columns) == [("FAILURE", "KeyError", "'once'")]


def test_retries_that_were_not_sent(eager_app: Celery) -> None:
    """A body may raise the exception without a retry behind it; and a task class may keep the message."""

    @eager_app.task(shared=False, name="bare")
    def bare() -> None:
        raise Retry("later")

    bare.apply()
    columns = (AsyncTask.status, AsyncTask.error_type, AsyncTask.error_message)
    assert stored(eager_app, *columns) == [("FAILURE", "Retry", "The retry was not sent: later")]


class Own(BaseException):
    """Of the kind that Celery's tracer lets through."""


@pytest.mark.parametrize("propagates", [False, True])
@pytest.mark.parametrize(
    "raised", [asyncio.CancelledError(), SystemExit(3), KeyboardInterrupt("by hand"), GeneratorExit(), Own("mine")]
)
def test_a_body_that_ends_with_no_exception(eager_app: Celery, raised: BaseException, propagates: bool) -> None:
    eager_app.conf.task_eager_propagates = propagates

    @eager_app.task(shared=False, name="end", bind=True)
    def end(self: Any) -> None:
        current().update({"seen": True})
        raise raised

    with pytest.raises(type(raised)):
        end.apply()
    task = (AsyncTask.status, AsyncTask.error_type, AsyncTask.error_message, AsyncTask.content)
    attempt = (AsyncTaskAttempt.outcome, AsyncTaskAttempt.started_at.is_not(None), AsyncTaskAttempt.traceback)
    joined = AsyncTask.celery_task_id == AsyncTaskAttempt.celery_task_id
    [[*seen, traceback]] = stored(eager_app, *task, *attempt, where=joined)
    message = str(raised)
    assert seen == ["FAILURE", type(raised).__name__, message, {"seen": True}, "failed", True]
    assert "raise raised" in traceback


def test_memory_errors_that_propagate(eager_app: Celery) -> None:
    """Celery's tracer calls nobody: not even its internal error."""
    eager_app.conf.task_eager_propagates = True

    @eager_app.task(shared=False, name="fill")
    def fill() -> None:
        raise MemoryError("full")

    with pytest.raises(MemoryError):
        fill.delay()
    columns = (AsyncTask.status, AsyncTask.error_type, AsyncTask.error_message)
    assert stored(eager_app, *columns) == [("FAILURE", "MemoryError", "full")]
