"""A task's function that is called directly is no execution: what it does belongs to the task that calls it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from celery import Celery

from celery_asynctask import AsyncTask, AsyncTaskSource, RecordedTask, context, current
from tests.integration.capture.test_eager import stored

ADA = {"customer": 42, "created_by": 7, "created_by_name": "Ada"}
"""The context of a task alone, and not of what it is called by."""


def steps(app: Celery) -> Any:
    @app.task(shared=False, name="child")
    def child() -> Any:
        return current().customer

    @app.task(shared=False, name="step", bind=True, base=RecordedTask)
    def step(self: Any, number: int) -> Any:
        self.asynctask.progress(number, 3)
        child.delay()
        return self.asynctask.customer, current().created_by, child.apply().get()

    @app.task(shared=False, name="outer", bind=True, base=RecordedTask)
    def outer(self: Any, depth: int) -> Any:
        if depth:
            return self(depth - 1)
        self.asynctask.update({"before": 1})
        return [*step(3), *step.run(3), *step.apply((1,)).get()]

    return outer, step


def test_inside_of_an_execution(eager_app: Celery) -> None:
    eager_app.conf.task_always_eager = False
    outer, _ = steps(eager_app)
    assert outer.apply((2,), headers={"asynctask": ADA}).get() == [42, 7, 42] * 3
    progress = {"progress": {"done": 3, "total": 3, "message": None}}
    columns = (AsyncTask.name, AsyncTask.status, AsyncTask.customer, AsyncTask.created_by_name, AsyncTask.content)
    assert stored(eager_app, *columns) == [
        *[("child", "PENDING", 42, "Ada", None)] * 3,
        *[("child", "SUCCESS", 42, "Ada", None)] * 3,
        ("outer", "SUCCESS", 42, "Ada", {"before": 1, **progress}),
        ("step", "SUCCESS", 42, "Ada", {"progress": {**progress["progress"], "done": 1}}),
    ]


def test_outside_of_an_execution(eager_app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """As in a script, or in a unit test: nothing is recorded of it, and the record stays complete."""
    _, step = steps(eager_app)
    with context(customer=1), caplog.at_level(logging.ERROR):
        assert step(1) == (None, None, 1)
    assert "content was updated outside of a task" in caplog.text
    assert stored(eager_app, AsyncTask.name, AsyncTask.customer) == [("child", 1)] * 2


def test_its_events_are_no_trouble(eager_app: Celery) -> None:
    """None is refused, so that the record would never be complete again."""
    outer, step = steps(eager_app)
    step(1)
    outer.apply((1,))
    assert stored(eager_app, AsyncTaskSource.quarantined) == [(0,)]
