"""What runs here: the execution that content, context and new tasks belong to.

Celery's current task is another thing: a task's function that is called directly is one, too. Its request has no id or,
where an execution of the same task is around it, is a copy of that one's. It is no execution, and belongs to the one
that calls it.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Any, NamedTuple

from celery_asynctask.capture.celery_private import executions_here, get_current_task

Running = tuple[Any, Any]
"""A task, and the request that it runs for."""


class Followed(NamedTuple):
    """An execution that a context variable follows."""

    run: Running
    outer: Followed | None
    """The one that it is nested in."""


_followed: ContextVar[Followed | None] = ContextVar("celery_asynctask_running", default=None)
"""The innermost execution of this coroutine or `record_run`, where Celery's stacks, which belong to threads, do not
have it; None: they do. What is nested in such an execution is followed, too."""


def running() -> Running | None:
    """The innermost execution in this thread or coroutine; None: there is none."""
    followed = _followed.get()
    if followed is not None:
        return followed.run
    task = get_current_task()
    if task is None:
        return None
    requests = task.request_stack.stack
    if len(requests) == 1 and requests[0].id is not None:
        return task, requests[0]
    return next(executions_here(), None)


def caller(request: Any) -> Running | None:
    """The execution that the innermost one, which runs eagerly for ``request``, is nested in; None: there is none."""
    followed = _followed.get()
    if followed is not None and followed.run[1] is request:
        followed = followed.outer
    if followed is not None:
        return followed.run
    return next((run for run in executions_here() if run[1] is not request), None)


def is_nested(request: Any) -> bool:
    """Whether `follow` holds here for the execution around the one with this request, and not for this one."""
    followed = _followed.get()
    return followed is not None and followed.run[1] is not request


def follow(task: Any, request: Any) -> Token[Followed | None]:
    """Make this the innermost execution of the coroutine or thread, until `leave`."""
    return _followed.set(Followed((task, request), _followed.get()))


def leave(token: Token[Followed | None]) -> None:
    """Undo `follow`; elsewhere than in its coroutine or thread, there is nothing to undo."""
    try:
        _followed.reset(token)
    except (ValueError, RuntimeError):
        return
