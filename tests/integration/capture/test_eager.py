"""Tasks that run eagerly, as in test suites of applications, are recorded like any other, in the calling process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from celery_asynctask import AsyncTask, AsyncTaskAttempt, uninstall

Rows = Callable[[], list[tuple[Any, ...]]]


def stored(app: Celery, *columns: Any) -> list[tuple[Any, ...]]:
    """The chosen columns of every row, sorted, once everything is stored."""
    url = app.conf.asynctask_url
    uninstall(app)
    engine = create_engine(url)
    try:
        with Session(engine) as session:
            return sorted((tuple(row) for row in session.execute(select(*columns))), key=repr)
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


def test_retry_that_propagates(eager_app: Celery) -> None:
    """The tracer raises the Retry to the caller as an internal error, and nothing runs again."""
    eager_app.conf.task_eager_propagates = True

    @eager_app.task(shared=False, name="again", bind=True, max_retries=3)
    def again(self: Any) -> str:
        if self.request.retries < 1:
            raise self.retry(exc=KeyError("once"), countdown=0)
        return "done"

    with pytest.raises(Exception, match=r"once|Retry"):
        again.delay()
    attempts = (AsyncTaskAttempt.run_key, AsyncTaskAttempt.outcome, AsyncTaskAttempt.error_type)
    assert [row[1:] for row in stored(eager_app, *attempts)] == [("retried", "KeyError")]
