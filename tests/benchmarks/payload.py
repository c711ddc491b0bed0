"""Microseconds per call of the encoder of values: ``python -m tests.benchmarks payload``.

It runs in one process with warm caches, to watch the encoder, not to measure what it costs a worker.
"""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable, Iterator
from typing import Any

from celery_asynctask.capture.payload import Encoder
from celery_asynctask.capture.payload.redaction import Redaction
from tests.benchmarks.app import ARGS, KWARGS
from tests.benchmarks.figure import Figure, Interval, Options, bootstrap, scaled

SMALL: dict[str, dict[str, Any]] = {
    "args (1, 2), a kwarg of 100 characters": KWARGS,
    "the same with a colon and an equals sign": {"note": KWARGS["note"][:90] + " a: b = c."},
    "ten short kwargs": {f"field_{number}": "value" for number in range(10)},
}
LARGE: dict[str, Callable[[], Any]] = {
    "100 MB of text": lambda: "x" * 10**8,
    "100 MB of bytes": lambda: b"x" * 10**8,
    "10 million integers": lambda: [1] * 10**7,
    "1,000 rows of 3 fields": lambda: [{"a": number, "b": "text", "c": None} for number in range(1000)],
}


def measure(options: Options) -> Iterator[Figure]:
    repeat = 20 if options.quick else 200
    for title, encoder in (("nothing redacted", Encoder()), ("redacted", Encoder(redaction=Redaction()))):
        for name, kwargs in SMALL.items():
            yield _figure(f"{name}, {title}", "µs", 1e6, _small(encoder, kwargs), 200, repeat)
        for name, make in LARGE.items():
            yield _figure(f"{name}, {title}", "ms", 1e3, _large(encoder, make()), 1, 9)


def _small(encoder: Encoder, kwargs: dict[str, Any]) -> Callable[[], Any]:
    return lambda: encoder.arguments(ARGS, kwargs, ("a", "b"))


def _large(encoder: Encoder, value: Any) -> Callable[[], Any]:
    return lambda: encoder.value(value)


def _figure(what: str, unit: str, factor: float, call: Callable[[], Any], number: int, repeat: int) -> Figure:
    runs = [took / number for took in timeit.repeat(call, number=number, repeat=repeat)]
    interval: Interval = bootstrap([runs], statistics.median)
    return Figure(f"payload: {what}", unit, scaled(interval, factor))
