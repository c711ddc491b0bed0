"""A server that forks past Python: ``python -m tests.integration.capture.unhooked DIRECTORY``.

The parent sends and runs tasks, records them, and forks two children with C's ``fork``, so that no hook of Python's
runs: to them, the parent's recorder still seems to run. All three send tasks, then the parent is killed. The children
send more, one of them is the recorder from now on, and they end as a script does. Each prints what it was.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from celery import Celery

from celery_asynctask import install
from celery_asynctask.capture.instrumentation import Instrumentation, instrumentation_of
from tests.waiting import wait_for

CHILDREN = 2


def made(directory: Path) -> tuple[Any, Instrumentation]:
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.update(
        asynctask_url=f"sqlite:///{directory / 'asynctask.db'}",
        asynctask_journal_dir=str(directory / "journal"),
        asynctask_flush_interval=60,  # so that the parent's recorder stands still at the fork
    )
    install(app)
    instrumentation = instrumentation_of(app)
    assert instrumentation is not None

    @app.task(name="proj.work")  # type: ignore[untyped-decorator]
    def work(number: int) -> int:
        return number

    return work, instrumentation


def use(work: Any, count: int) -> None:
    """Twice as many tasks, a half of them sent, a half run here."""
    for number in range(count):
        work.delay(number)
        work.apply((number,))


def child(work: Any, mine: Instrumentation, parent: int, tell: int) -> None:
    before = mine.outlet.recorder._run
    use(work, 3)
    os.write(tell, b"!")
    wait_for(lambda: os.getppid() != parent, 20, "the parent's end")
    use(work, 2)
    mine.outlet.recorder.flush()(20)
    after = mine.outlet.recorder._run
    print(
        json.dumps(
            {
                "source": mine.journal.source,
                "is_elected": mine.outlet.recorder.is_elected,
                "seemed_to_run": before is not None and before is not after,
            }
        ),
        flush=True,
    )


def main(directory: Path) -> None:
    work, mine = made(directory)
    use(work, 2)
    recorder = mine.outlet.recorder
    wait_for(lambda: recorder.is_elected, 20, "the parent to record")
    recorder.flush()(20)
    print(json.dumps({"source": mine.journal.source, "is_elected": recorder.is_elected}), flush=True)
    heard, tell = os.pipe()
    parent = os.getpid()
    # ctypes.CDLL would let go of the interpreter's lock; and nobody may be waiting for it.
    fork = ctypes.PyDLL(None).fork
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    for _ in range(CHILDREN):
        if fork() == 0:
            sys.setswitchinterval(interval)
            child(work, mine, parent, tell)
            return
    sys.setswitchinterval(interval)
    for _ in range(CHILDREN):
        os.read(heard, 1)
    use(work, 2)
    os.kill(parent, signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
