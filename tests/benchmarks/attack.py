"""The time that readers wait while somebody attacks the server: each attack of `tests.attack` in turn, and before it as
many seconds without."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.attack import Report, p95, server
from tests.attackers import ATTACKS
from tests.benchmarks.figure import Figure, Interval, Options, bootstrap

SECONDS = 15.0
QUICK_SECONDS = 4.0
AT_MOST = 100
"""Milliseconds."""
TIMES_AT_MOST = 3
MEGABYTES_AT_MOST = 20
LINES_AT_MOST = 100


def measure(options: Options) -> Iterator[Figure]:
    with TemporaryDirectory() as directory, server(Path(directory)) as running:
        for name in ATTACKS:
            seconds = QUICK_SECONDS if options.quick else SECONDS
            quiet, failures = running.read(seconds)
            assert not failures
            yield from _figures(running.attack(name, seconds), p95(quiet))


def _figures(report: Report, quiet: float) -> Iterator[Figure]:
    name = f"attack: {report.attack}"
    middle = statistics.median(report.taken) * 1000
    note = f"p50 {middle:.1f} ms; {len(report.taken)} answers, {len(report.failures)} failures; {report.done}"
    times = bootstrap([report.taken], p95)
    yield Figure(f"{name}, p95", "ms", Interval(*(part * 1000 for part in times)), at_most=AT_MOST, note=note)
    yield Figure(
        f"{name}, p95 against that without", "times", Interval(*(part / quiet for part in times)), at_most=TIMES_AT_MOST
    )
    yield Figure(f"{name}, memory", "MB", _exact(report.grown / 1e6), at_most=MEGABYTES_AT_MOST)
    yield Figure(f"{name}, log", "lines", _exact(report.lines), at_most=LINES_AT_MOST)


def _exact(value: float) -> Interval:
    return Interval(value, value, value)
