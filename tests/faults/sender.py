"""A producer that sends some tasks and then ends. Arguments: task, count, seconds of a body, way to end."""

from __future__ import annotations

import os
import sys

from tests.faults import app as tasks


def main(name: str, count: int, seconds: float, end: str) -> None:
    task = getattr(tasks, name)
    for _ in range(count):
        task.apply_async(() if name == "leave" else (seconds,))
    if end == "_exit":
        os._exit(0)
    if end == "raise":
        raise RuntimeError("the producer fails")


if __name__ == "__main__":
    given = [*sys.argv[1:], *["0", "exit"][len(sys.argv) - 3 :]]
    main(given[0], int(given[1]), float(given[2]), given[3])
