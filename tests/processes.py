"""Runs a function in several processes at once."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from typing import Any

from tests.pace import patience

SECONDS = 60
"""Time for the processes on the reference machine of `tests.pace`."""


def at_once(count: int, function: Callable[[int], Any]) -> list[Any]:
    """Call ``function(number)`` in ``count`` forked children, all started together, and return their results by number.
    Fails with the traceback of the first child that raised."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(count)
    pipes = [context.Pipe(duplex=False) for _ in range(count)]

    def run(number: int) -> None:
        try:
            barrier.wait(patience(SECONDS))
            pipes[number][1].send((True, function(number)))
        except BaseException:  # noqa: BLE001 - told to the parent, which fails with it
            pipes[number][1].send((False, traceback.format_exc()))

    children = [context.Process(target=run, args=(number,)) for number in range(count)]
    for child in children:
        child.start()
    results = []
    try:
        for receive, _ in pipes:
            assert receive.poll(patience(SECONDS)), f"a child did not answer within {patience(SECONDS):.0f} s"
            done, result = receive.recv()
            assert done, f"in a child:\n{result}"
            results.append(result)
    finally:
        for child in children:
            child.join(patience(SECONDS))
            if child.is_alive():
                child.kill()
                child.join()
        for pipe in pipes:
            pipe[0].close()
            pipe[1].close()
    return results
