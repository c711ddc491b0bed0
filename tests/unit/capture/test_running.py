"""What runs here: executions, and not functions of tasks that are called directly."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, _state
from celery.app.task import Context

from celery_asynctask.capture.running import caller, follow, is_nested, leave, running


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("running", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield made
    made.close()


def ids() -> tuple[str | None, str | None]:
    """The id of what runs here, and of what calls it."""
    run = running()
    if run is None:
        return None, None
    outer = caller(run[1])
    return run[1].id, outer[1].id if outer is not None else None


def test_a_task_that_runs(app: Celery) -> None:
    @app.task(shared=False)
    def look() -> Any:
        return ids()

    assert look.apply(task_id="a").get() == ("a", None)
    assert ids() == (None, None)


def test_a_direct_call_is_no_execution(app: Celery) -> None:
    @app.task(shared=False)
    def look() -> Any:
        return ids()

    @app.task(shared=False)
    def call() -> Any:
        return look(), look.run(), look.apply(task_id="inner").get(), call_eagerly()

    @app.task(shared=False)
    def call_eagerly() -> Any:
        return look.apply(task_id="inner").get()

    assert look() == (None, None)
    assert call_eagerly() == ("inner", None)
    own, eager = ("outer", None), ("inner", "outer")
    assert call.apply(task_id="outer").get() == (own, own, eager, eager)


def test_a_task_that_calls_itself(app: Celery) -> None:
    """Each of its calls has the same task on Celery's stack."""

    @app.task(bind=True, shared=False)
    def down(self: Any, depth: int, then: Any = None) -> Any:
        if depth:
            return self(depth - 1, then)
        return then.apply(task_id="inner").get() if then is not None else ids()

    @app.task(shared=False)
    def back() -> Any:
        return down(1)

    assert down.apply((3,), task_id="outer").get() == ("outer", None)
    assert down(3) == (None, None)
    assert down.apply((1, back), task_id="outer").get() == ("inner", "outer")


def test_it_has_its_own_request_and_no_copy(app: Celery) -> None:
    """What is written into the copy that a direct call gets is not at the end of the execution."""

    @app.task(bind=True, shared=False)
    def look(self: Any, depth: int) -> bool:
        if depth:
            return bool(self(depth - 1))
        run = running()
        return run is not None and run[1] is self.request_stack.stack[0] is not self.request

    assert look.apply((2,)).get()


def test_a_request_without_a_task_is_no_execution(app: Celery) -> None:
    """A worker's main process, and tests of users, push requests alone."""

    @app.task(shared=False)
    def look() -> Any:
        return ids()

    look.push_request(id="pushed")
    try:
        assert ids() == (None, None)
    finally:
        look.pop_request()
    _state._task_stack.push(look)  # without a request
    try:
        assert ids() == (None, None)
    finally:
        _state._task_stack.pop()


def test_threads(app: Celery) -> None:
    """A thread of a task runs nothing, unless what runs is followed and the thread has a copy of its context."""
    seen: list[Any] = []

    def in_thread(function: Any) -> None:
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()

    @app.task(bind=True, shared=False)
    def spread(self: Any) -> None:
        in_thread(lambda: seen.append(ids()))
        token = follow(self, self.request)
        copied = contextvars.copy_context()
        in_thread(lambda: copied.run(lambda: seen.append(ids())))
        leave(token)
        in_thread(lambda: copied.run(leave, token))  # another context: nothing to undo, and no error

    spread.apply(task_id="a")
    assert seen == [(None, None), ("a", None)]


def test_followed_executions_are_nested(app: Celery) -> None:
    task, one, two = object(), Context(id="one"), Context(id="two")
    assert not is_nested(one)
    outer = follow(task, one)
    assert (is_nested(one), is_nested(two)) == (False, True)
    inner = follow(task, two)
    assert ids() == ("two", "one")
    leave(inner)
    assert ids() == ("one", None)
    leave(outer)
    assert ids() == (None, None)
