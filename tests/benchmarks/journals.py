"""Journals as real hooks write them, which nobody drains."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from celery import signals
from celery.app.trace import setup_worker_optimizations, trace_task_ret
from celery.worker.request import Request
from celery.worker.state import task_ready

from tests.benchmarks.app import ARGS, KWARGS, TASK, build
from tests.benchmarks.turns import in_child

SUFFIX = ".events"


def write(directory: Path, tasks: int, *, apart: bool = False) -> None:
    """A journal of that many tasks that were published, received and run.

    The events are in the order in which they happened, as a recorder that keeps up sees them; or, with ``apart``,
    published events are in one file and the others in another, as processes leave them that no recorder served.
    """
    in_child(lambda: _write(directory, tasks, apart))


def _write(directory: Path, tasks: int, apart: bool) -> None:
    app = build("recorded", "memory://", f"sqlite:///{directory}/none.db", str(directory))
    setup_worker_optimizations(app, "benchmark@host")
    task = app.tasks[TASK]
    with app.connection_for_write() as connection, connection.channel() as channel:
        queue = app.amqp.queues["celery"](channel)
        queue.declare()

        def run_all() -> None:
            while (message := queue.get(no_ack=True)) is not None:
                run(app, task, message)

        for _ in range(tasks):
            task.delay(*ARGS, **KWARGS)
            if not apart:
                run_all()
        if apart:
            in_child(run_all)  # the queue is in memory: a forked child has it as well


def run(app: Any, task: Any, message: Any) -> None:
    """Handle a message as a worker does, in its main process and in its child."""
    request = Request(message, app=app, hostname="benchmark@host", task=task)
    signals.task_received.send(sender=None, request=request)
    request.on_accepted(os.getpid(), time.monotonic())
    trace_task_ret(
        TASK,
        request.id,
        request.request_dict,
        request.body,
        request.content_type,
        request.content_encoding,
        app=app,
    )
    task_ready(request)


def hand_over(source: Path, target: Path) -> list[Path]:
    """Move the contents of one journal into another, where its recorder finds them. Returns the files that disappear
    once they are stored."""
    segments = sorted(source.glob(f"*{SUFFIX}"))
    for segment in segments:
        (target / segment.name).hardlink_to(segment)
    return [target / segment.name for segment in segments]
