"""A web server that loads its application before it forks, as gunicorn does with ``preload_app``.

The parent publishes, so that its recorder runs when it forks, early or on a signal. It prints the ids of its children
and leaves them running. They publish until SIGTERM and end normally.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from uuid import uuid4

from tests.faults import app as tasks
from tests.faults.notes import Notebook
from tests.faults.proc import holder
from tests.faults.signaled import signaled
from tests.waiting import wait_for


def publish(asks: Notebook) -> None:
    task_id = str(uuid4())
    asks.write("asking", task_id, "preload")
    tasks.early.apply_async((0,), task_id=task_id)
    asks.write("asked", task_id, "preload")


def serve(asks: Notebook) -> None:
    ended = signaled()
    while not ended():
        publish(asks)
        time.sleep(0.02)


def main(when: str, count: int) -> None:
    to_fork = signaled(signal.SIGUSR1)
    asks = Notebook(Path(os.environ["FAULTS_ASKS"]))
    for _ in range(5):
        publish(asks)
    lock = Path(os.environ["FAULTS_JOURNAL"]) / "drain.lock"
    wait_for(lambda: holder(lock) == os.getpid(), 10, "the parent to record")
    if when == "late":
        wait_for(to_fork, 30, "the word to fork")
    for _ in range(count):
        if not os.fork():
            serve(asks)
            return
    for _ in range(20):
        publish(asks)
        time.sleep(0.05)
    print(*_children(), sep="\n", flush=True)


def _children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="utf-8").split()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
