"""Doubles of packages that run tasks past Celery's own tracer, with what these do and no more: coroutine pools whose
tracers share the stacks of one thread, or run bodies in another (celery-aio-pool 0.1), and tasks that a worker collects
(celery-batches 0.11)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

from celery import Celery, Task, signals, states
from celery._state import _task_stack
from celery.app.task import Context
from celery.worker.request import Request, create_request_cls


async def trace(task: Any, task_id: str, request: dict[str, Any], *args: Any) -> None:
    """A tracer that awaits its body. All coroutines of a thread push to, and pop from, the same stacks."""
    context = Context(request, id=task_id, args=args, kwargs={}, called_directly=False)
    _task_stack.push(task)
    task.request_stack.push(context)
    result, state = None, None
    about = {"sender": task, "task_id": task_id, "task": task}
    try:
        signals.task_prerun.send(**about, args=args, kwargs={})
        task.app.loader.on_task_init(task_id, task)
        try:
            result, state = await task.run(*args), states.SUCCESS
        except Exception as exc:  # noqa: BLE001 - as Celery's tracer does
            state = states.FAILURE
            signals.task_failure.send(sender=task, task_id=task_id, exception=exc, args=args, kwargs={})
    finally:
        signals.task_postrun.send(**about, args=args, kwargs={}, retval=result, state=state)
        _task_stack.pop()
        task.request_stack.pop()


def trace_elsewhere(pool: ThreadPoolExecutor, task: Any, task_id: str, request: dict[str, Any], *args: Any) -> None:
    """A tracer that calls the loader in one thread and the body in the loop of another, each with a copy of its own
    context, and puts the request where a task without one finds it."""
    context = Context(request, id=task_id, args=args, kwargs={}, called_directly=False)
    task.request.update(context.__dict__)
    _task_stack.push(task)
    task.request_stack.push(context)
    about = {"sender": task, "task_id": task_id, "task": task, "args": args, "kwargs": {}}
    result = None
    try:
        signals.task_prerun.send(**about)
        pool.submit(copy_context().run, task.app.loader.on_task_init, task_id, task).result()
        result = pool.submit(copy_context().run, lambda: asyncio.run(task.run(*args))).result()
    finally:
        signals.task_postrun.send(**about, retval=result, state=states.SUCCESS)
        _task_stack.pop()
        task.request_stack.pop()


class Batches(Task):
    """Collects requests and runs its body for all of them at once, with a request that has no id."""

    abstract = True
    typing = False
    flush_every = 3

    def Strategy(self, task: Any, app: Celery, consumer: Any) -> Callable[..., None]:
        buffer: SimpleQueue[Any] = SimpleQueue()
        request_class = create_request_cls(
            Request, task, consumer.pool, consumer.hostname, consumer.event_dispatcher, app=app
        )

        def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **_: Any) -> None:
            request = request_class(
                message,
                on_ack=ack,
                on_reject=reject,
                app=app,
                hostname=consumer.hostname,
                eventer=consumer.event_dispatcher,
                task=task,
                body=message.body,
                headers=message.headers,
                decoded=False,
                utc=True,
                connection_errors=consumer.connection_errors,
            )
            buffer.put(request)
            signals.task_received.send(sender=consumer, request=request)
            if buffer.qsize() < self.flush_every:
                return
            requests = [buffer.get() for _ in range(self.flush_every)]
            consumer.pool.apply_async(
                run_batch,
                (self, [simple(one) for one in requests]),
                accept_callback=lambda *_: [one.acknowledge() for one in requests],
            )

        return handle


def simple(request: Any) -> Any:
    """What a batch gets of a worker's request."""
    args, kwargs, _ = request._payload
    names = ("id", "name", "delivery_info", "hostname", "request_dict")
    return SimpleNamespace(args=args, kwargs=kwargs, **{name: getattr(request, name) for name in names})


def run_batch(task: Any, requests: list[Any]) -> None:
    about = {"sender": task, "task_id": "batch", "task": task, "args": (requests,), "kwargs": {}}
    _task_stack.push(task)
    task.request_stack.push(Context())
    state, result = states.FAILURE, None
    try:
        signals.task_prerun.send(**about)
        result = task(requests)
        state = states.SUCCESS
    except Exception:  # noqa: BLE001 - logged, there
        pass
    finally:
        signals.task_postrun.send(**about, retval=result, state=state)
        _task_stack.pop()
        task.request_stack.pop()
