"""Two ways to do the same thing, each in a forked child of its own, in turns on one core: A B B A ...

There are two processes because signal receivers belong to a process: in a single one, plain Celery would pay for ours.
To the package, the children look like those of a prefork pool, so none of them runs a recorder, whose work is not a
hook's.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from billiard.context import ForkContext

from tests.benchmarks.figure import Interval, bootstrap

SECONDS = 120
"""Longest time of a child for one turn."""

Block = Callable[[int], int]
"""Runs something a number of times, and returns the nanoseconds of CPU time that it took."""
_fork = ForkContext()


def compare(plain: Callable[[], Block], other: Callable[[], Block], rounds: int, size: int) -> Interval:
    """Microseconds by which one execution of ``other`` takes longer than one of ``plain``: the median of the
    differences within the rounds.

    A round has four turns, A B B A, of ``size`` executions each. Both are created in their children. A round is the
    least that can be compared: a turn right after another of the same child finds warm caches.
    """
    with ExitStack() as stack:
        sides = [_start(stack, make) for make in (plain, other)]
        differences = []
        for number in range(-3, rounds):
            took = [0, 0]
            for side in (0, 1, 1, 0):
                took[side] += _turn(sides[side], size)
            if number >= 0:  # the rounds before warm up
                differences.append((took[1] - took[0]) / (2 * size) / 1000)
    return bootstrap([differences], statistics.median)


def in_child(function: Callable[[], Any]) -> Any:
    """The function's result, computed in a forked child."""

    def run(_size: int) -> Any:
        return function()

    with ExitStack() as stack:
        return _turn(_start(stack, lambda: run), 0)


def _start(stack: ExitStack, make: Callable[[], Callable[[int], Any]]) -> Any:
    ours, theirs = _fork.Pipe()
    child = _fork.Process(target=_serve, args=(theirs, make))
    child.start()
    theirs.close()
    stack.callback(child.join, SECONDS)
    stack.callback(ours.send, None)
    return ours


def _serve(pipe: Any, make: Callable[[], Callable[[int], Any]]) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    block = make()
    while (size := pipe.recv()) is not None:
        pipe.send(block(size))
    os._exit(0)  # no exit handlers: nothing must be stored


def _turn(side: Any, size: int) -> Any:
    side.send(size)
    if not side.poll(SECONDS):
        raise TimeoutError(f"a turn took more than {SECONDS} s")
    return side.recv()


def timed(function: Callable[[], None]) -> int:
    """Nanoseconds of CPU time of the process while the function runs."""
    began = time.process_time_ns()
    function()
    return time.process_time_ns() - began
