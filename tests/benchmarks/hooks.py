"""Microseconds that recording adds to one execution in the process of the body, whose start and end go to the journal.

It runs Celery's own tracer on a request as a prefork child gets it from a recorded producer, with and without
recording. There is no OpenTelemetry SDK and no result backend, and caches are warm: a live worker has colder ones (see
`worker`).
"""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from celery.app.trace import build_tracer, setup_worker_optimizations

from tests.benchmarks.app import ARGS, KWARGS, TASK, build
from tests.benchmarks.figure import Figure, Options
from tests.benchmarks.turns import Block, compare, timed

SIZE = 20
"""Executions per turn: a few milliseconds, less than the machine takes to change its speed."""


def measure(options: Options) -> Iterator[Figure]:
    rounds = 200 if options.quick else 2000
    with tempfile.TemporaryDirectory() as directory:
        plain, recorded = (partial(tracing, variant, directory) for variant in ("plain", "recorded"))
        yield Figure("hooks: plain against plain", "µs", compare(plain, plain, rounds, SIZE))
        interval = compare(plain, recorded, rounds, SIZE)
        assert any(Path(directory, "journal").iterdir()), "nothing was recorded"
    yield Figure("hooks: added to an execution", "µs", interval, at_most=15)


def tracing(variant: str, directory: str) -> Block:
    """A block of executions by a variant's tracer."""
    app = build(variant, "memory://", f"sqlite:///{directory}/rows.db", f"{directory}/journal")
    setup_worker_optimizations(app, "benchmark@host")
    task = app.tasks[TASK]
    trace = build_tracer(TASK, task, app.loader, "benchmark@host", app=app)

    def block(size: int) -> int:
        requests = [_request(variant) for _ in range(size)]

        def run() -> None:
            for request in requests:
                trace(request["id"], request["args"], request["kwargs"], request)

        return timed(run)

    return block


def _request(variant: str) -> dict[str, Any]:
    """The content of a message of protocol 2, as a child gets it."""
    task_id = str(uuid.uuid4())
    request = {
        "lang": "py",
        "task": TASK,
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task_id,
        "parent_id": None,
        "argsrepr": repr(ARGS),
        "kwargsrepr": repr(KWARGS),
        "origin": "gen1@host",
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        "properties": {"correlation_id": task_id, "delivery_mode": 2, "priority": 0, "body_encoding": "base64"},
        "reply_to": str(uuid.uuid4()),
        "correlation_id": task_id,
        "hostname": "benchmark@host",
        "delivery_info": {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False},
        "args": list(ARGS),
        "kwargs": dict(KWARGS),
        "is_eager": False,
        "callbacks": None,
        "errbacks": None,
        "chain": None,
        "chord": None,
    }
    if variant == "recorded":
        at = time.time_ns() // 1000
        run = f"{at:014x}{os.urandom(3).hex()}"
        request["asynctask"] = {"created": at, "sent": at, "run": run, "delivered": True, "here": ()}
    return request
