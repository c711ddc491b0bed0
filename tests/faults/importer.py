"""A process that publishes for the first time, and forks children while its recorder's thread begins to work.

Each child imports the modules that the thread imports, as the body of a task may, and reports the result in its exit
code.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from typing import NoReturn

from tests.faults import app as tasks
from tests.pace import patience

CHILDREN = 60
SECONDS = 5
"""A child that takes longer, on the reference machine of `tests.pace`, hangs."""


def child() -> NoReturn:
    signal.alarm(round(patience(SECONDS)))  # kills
    try:
        from sqlalchemy import create_engine

        import celery_asynctask.recorder.drain  # noqa: F401

        create_engine("sqlite://").connect().close()
    except BaseException as exc:  # noqa: BLE001 - told to the parent
        os.write(2, f"{type(exc).__name__}: {exc}\n".encode())
        os._exit(1)
    os._exit(0)


def main() -> int:
    tasks.early.apply_async((0,))
    pids = []
    for _ in range(CHILDREN):
        pid = os.fork()
        if not pid:
            child()
        pids.append(pid)
        time.sleep(0.01)  # so that the forks are spread over all imports of the thread
    codes = Counter(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)
    print({{0: "imported", 1: "raised", -signal.SIGALRM: "hung"}.get(code, code): codes[code] for code in codes})
    return 0 if set(codes) == {0} else 1


if __name__ == "__main__":
    sys.exit(main())
