"""Microseconds that recording adds to a ``delay()``: the header, and the published event in the journal.

It is measured with kombu's transport in memory, where a publish is cheapest, and with Redis. The producer runs no
recorder, whose cost is in `drain`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests import services
from tests.benchmarks.app import ARGS, KWARGS, TASK, build
from tests.benchmarks.figure import Figure, Options, skipping
from tests.benchmarks.turns import Block, compare, timed

SIZE = 4
"""Publishes per turn: a millisecond."""
REDIS_DATABASE = 13


def measure(options: Options) -> Iterator[Figure]:
    rounds = 200 if options.quick else 2000
    yield from _figures("memory transport", "memory://", rounds)
    yield from skipping(_redis(rounds), "publish: Redis")


def _redis(rounds: int) -> Iterator[Figure]:
    yield from _figures("Redis", services.redis_url(REDIS_DATABASE), rounds)


def _figures(title: str, broker: str, rounds: int) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as directory:
        plain, recorded = (partial(sending, variant, broker, directory) for variant in ("plain", "recorded"))
        yield Figure(f"publish: plain against plain, {title}", "µs", compare(plain, plain, rounds, SIZE))
        interval = compare(plain, recorded, rounds, SIZE)
        assert any(Path(directory, "journal").iterdir()), "nothing was recorded"
    yield Figure(f"publish: added to a delay(), {title}", "µs", interval, at_most=10)


def sending(variant: str, broker: str, directory: str) -> Block:
    """A block of publishes by a variant's app, to a queue that is emptied after each block."""
    queue = f"benchmark-publish-{variant}"
    app = build(variant, broker, f"sqlite:///{directory}/rows.db", f"{directory}/journal", queue)
    task = app.tasks[TASK]

    def run(size: int) -> None:
        for _ in range(size):
            task.delay(*ARGS, **KWARGS)

    def block(size: int) -> int:
        took = timed(lambda: run(size))
        with app.producer_pool.acquire(block=True) as producer:
            producer.channel.queue_purge(queue)
        return took

    return block
