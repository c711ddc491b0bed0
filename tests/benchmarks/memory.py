"""Megabytes that recording adds to a live worker's pool child, and to its main process while it drains a backlog as
fast as it can: the difference in proportional set size to a plain worker after the same tasks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests import services
from tests.benchmarks import clock, journals
from tests.benchmarks.figure import Figure, Options, bootstrap, skipping
from tests.benchmarks.live import Worker, worker
from tests.waiting import wait_for

REDIS_DATABASE = 14
TASKS = 1000
"""Tasks that a worker has run when it is measured, and a fifth of the backlog."""
SECONDS = 120


def measure(options: Options) -> Iterator[Figure]:
    yield from skipping(_figures(2 if options.quick else 4), "memory")


def _figures(restarts: int) -> Iterator[Figure]:
    broker = services.redis_url(REDIS_DATABASE)
    children, mains = [], []
    for _ in range(restarts):
        with worker("plain", broker, 1) as plain, worker("recorded", broker, 1) as recorded:
            for one in (plain, recorded):
                one.turn(TASKS)
            recorded.settle()
            plain_main, plain_child = map(clock.megabytes, plain.processes)
            children.append(clock.megabytes(recorded.processes[1]) - plain_child)
            mains.append(_most(recorded) - plain_main)
    yield Figure("memory: added to a pool child", "MB", bootstrap([children]), at_most=10)
    yield Figure("memory: added to the main process, at full speed", "MB", bootstrap([mains]), at_most=20)


def _most(recorded: Worker) -> float:
    """The largest size of the main process while it drains a backlog."""
    limit = 0.0
    with tempfile.TemporaryDirectory(dir=recorded.journal.parent) as directory:
        journals.write(Path(directory), 5 * TASKS)
        left = journals.hand_over(Path(directory), recorded.journal)
    recorded.fed += 5 * TASKS

    def drained() -> bool:
        nonlocal limit
        limit = max(limit, clock.megabytes(recorded.main.pid))
        return not any(segment.exists() for segment in left)

    wait_for(drained, SECONDS, "the backlog to be drained")
    return limit
