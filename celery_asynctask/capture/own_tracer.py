"""`record_run`: executions that go past Celery's tracer, recorded by who runs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import celery
from celery.app.task import Context

from celery_asynctask.capture import run, start
from celery_asynctask.capture.celery_private import get_current_task, registered_tasks
from celery_asynctask.capture.instrumentation import Instrumentation, instrumentation_of
from celery_asynctask.errors import guard

if TYPE_CHECKING:
    from celery import Celery

_FIELDS = ("id", "args", "kwargs", "delivery_info", "hostname")


class RecordedRun:
    """An execution that `record_run` records."""

    result: Any = None
    """What it returns: set it before the block ends."""


@contextmanager
def record_run(request: Any, *, app: Celery | None = None) -> Iterator[RecordedRun]:
    """Record the block as the execution of ``request``: for tracers of one's own, and for task classes that run many
    messages at once, whose executions Celery tells nobody of.

    It starts when the block begins. It succeeds with the ``result`` that is set on what the block gets, or ends as the
    exception says that leaves the block; the exception passes through. Inside, `current` is this execution, and what is
    sent has its context. A block may contain others.

    ``request`` is a worker's ``Request``, a task's ``Context``, or another object with the attributes ``id``, ``name``
    (of the task), ``args``, ``kwargs``, ``delivery_info``, ``hostname`` and ``request_dict`` (the headers of the
    message, a mapping), of which all but the first two may be missing. ``app``: the one that the task belongs to; None:
    that of the current task, or Celery's current app.

    Raises nothing of its own. What is recorded already, or runs eagerly inside of a recorded execution, is not recorded
    a second time.
    """
    recorded = RecordedRun()
    begun = record_run_begin(request, app)
    if begun is None:
        yield recorded
        return
    try:
        yield recorded
    except BaseException as exc:
        record_run_failure(*begun, exc)
        raise
    else:
        record_run_success(*begun, recorded.result)
    finally:
        start.finish(begun[2])


_Begun = tuple[Instrumentation, Any, Any]
"""The instrumentation, the task and its request."""


@guard
def record_run_begin(request: Any, app: Celery | None) -> _Begun | None:
    """Record the start; None: it is not recorded."""
    context = _context_of(request)
    if not isinstance(context.id, str):
        raise TypeError("record_run needs a request with the id of a task, a string")
    name = getattr(request, "name", None) or context.__dict__.get("task")
    if app is None:
        current = get_current_task()
        app = current.app if current is not None else celery.current_app
    task = registered_tasks(app).get(name) or SimpleNamespace(name=str(name), app=app)
    instrumentation = instrumentation_of(task.app)
    if instrumentation is None or not instrumentation.records(task.name):
        return None
    is_eager = context.is_eager or (context.delivery_info or {}).get("is_eager")
    if is_eager or not start.begin(instrumentation, task, context):
        return None
    return instrumentation, task, context


def _context_of(request: Any) -> Context:
    if isinstance(request, Context):
        return request
    headers = getattr(request, "request_dict", None)
    known = {name: value for name in _FIELDS if (value := getattr(request, name, None)) is not None}
    return Context(headers if isinstance(headers, Mapping) else {}, **known)


@guard
def record_run_success(instrumentation: Instrumentation, task: Any, request: Any, result: Any) -> None:
    run.record_success(instrumentation, task, request, result, instrumentation.policies[task.name].result)


@guard
def record_run_failure(instrumentation: Instrumentation, task: Any, request: Any, exc: BaseException) -> None:
    run.record_exception(instrumentation, task, request, exc)
