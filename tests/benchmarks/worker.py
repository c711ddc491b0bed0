"""The cost of recording for a live worker: CPU time of its whole process tree per task, and throughput.

There are two workers, one that records and one that does not, on the same cores. CPU: they are fed in turns of ten
tasks, A B B A and so on, and the clock of each tree is read around each pair of turns, so that the work of a recorder
during the other's turn counts. Throughput: a stopped worker is resumed with a burst waiting at the broker, and the
seconds until its last body has run are measured, again in turns; events that a recorder has not stored by then, at most
half a second's worth, are stored before the next burst and not charged.

Workers are restarted several times, because two processes of the same program differ. The interval is from a bootstrap
over the restarts and, within them, over the turns.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

from tests import services
from tests.benchmarks.figure import Figure, Interval, Options, bootstrap, scaled, skipping
from tests.benchmarks.live import Worker, worker

TURN = 10
"""Tasks per turn."""
PAIRS = 50
"""Pairs of turns in one observation of CPU time: about a second, in which a recorder looks into the journal twice."""
REDIS_DATABASE = 12


class Plan(NamedTuple):
    """The size of one comparison."""

    restarts: int
    observations: int
    """Observations of CPU time per restart."""
    bursts: int
    """Pairs of bursts per restart."""
    burst: int
    """Tasks per burst."""
    pairs: int = PAIRS


FULL = Plan(restarts=6, observations=8, bursts=2, burst=1000)
QUICK = Plan(restarts=1, observations=4, bursts=2, burst=500)


class Difference(NamedTuple):
    """The comparison of another variant with plain Celery."""

    cpu: Interval
    """Microseconds that it takes longer per task."""
    throughput: Interval
    """Its throughput, relative to plain Celery's."""


def measure(options: Options) -> Iterator[Figure]:
    plan = QUICK if options.quick else FULL
    yield from skipping(_validation(plan), "worker: the method")
    for title, broker in (("Redis", lambda: services.redis_url(REDIS_DATABASE)), ("RabbitMQ", services.amqp_url)):
        yield from skipping(_recorded(title, broker, plan), f"worker, {title}")


def _validation(plan: Plan) -> Iterator[Figure]:
    """Plain against plain, and against a task that wastes 20 µs."""
    broker = services.redis_url(REDIS_DATABASE)
    yield from figures("plain against plain, Redis, -c1", compare("plain", broker, 1, plan))
    cpu = compare("dose", broker, 1, plan._replace(bursts=0)).cpu
    yield Figure("worker: a known dose of 20 µs, Redis, -c1: CPU per task", "µs", cpu)


def _recorded(title: str, broker: Callable[[], str], plan: Plan) -> Iterator[Figure]:
    url = broker()
    for concurrency in (1, 2):
        difference = compare("recorded", url, concurrency, plan)
        yield from figures(f"recording, {title}, -c{concurrency}", difference, cpu=25, throughput=0.97)


def figures(
    what: str, difference: Difference, cpu: float | None = None, throughput: float | None = None
) -> Iterator[Figure]:
    """The lines of one comparison, with their targets."""
    yield Figure(f"worker: {what}: CPU per task", "µs", difference.cpu, at_most=cpu)
    yield Figure(f"worker: {what}: throughput", "", difference.throughput, at_least=throughput)


def compare(variant: str, broker: str, concurrency: int, plan: Plan) -> Difference:
    """Measure a variant against plain Celery."""
    cpu: list[list[float]] = []
    throughput: list[list[float]] = []
    for restart in range(plan.restarts):
        with ExitStack() as stack:
            order = ("plain", variant) if restart % 2 else (variant, "plain")
            started = [stack.enter_context(worker(one, broker, concurrency)) for one in order]
            plain, other = started if restart % 2 else started[::-1]
            _pin(plain, other)
            _added(plain, other, PAIRS // 5)
            cpu.append([_added(plain, other, plan.pairs) for _ in range(plan.observations)])
            if plan.bursts:
                throughput.append([_logarithm(plain, other, plan.burst, turn) for turn in range(plan.bursts)])
    ratio = Interval(*map(math.exp, bootstrap(throughput))) if throughput else Interval(1, 1, 1)
    return Difference(scaled(bootstrap(cpu), 1e-3), ratio)


def _pin(*workers: Worker) -> None:
    """Give the workers the same cores and, if there are more than two, not the core of the process that feeds them."""
    cores = sorted(os.sched_getaffinity(0))
    for one in workers:
        for pid in one.processes:
            os.sched_setaffinity(pid, cores[1:] if len(cores) > 2 else cores)


def _added(plain: Worker, other: Worker, pairs: int) -> float:
    """Nanoseconds per task by which ``other`` took longer than ``plain``, over ``count`` pairs of turns."""
    before = (plain.cpu_ns(), other.cpu_ns())
    for number in range(pairs):
        for one in (plain, other) if number % 2 else (other, plain):
            one.turn(TURN)
    after = (plain.cpu_ns(), other.cpu_ns())
    return ((after[1] - before[1]) - (after[0] - before[0])) / (pairs * TURN)


def _logarithm(plain: Worker, other: Worker, size: int, turn: int) -> float:
    """Logarithm of the ratio of the throughputs in one pair of bursts."""
    took = {}
    for one in (plain, other) if turn % 2 else (other, plain):
        one.settle()
        took[one.variant, one.queue] = one.burst(size)
    return math.log(took[plain.variant, plain.queue] / took[other.variant, other.queue])
