"""The speed of this machine. Deadlines of tests are in proportion to it.

It is measured once for a test run, by the first process that needs it; the other processes get it through the
environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import cache

REFERENCE_SECONDS = 0.45
"""Duration of the measured work on two idle cores of an AMD EPYC of 2026."""
VARIABLE = "ASYNCTASK_TEST_PACE"
_IMPORTS = "import celery.app.base, celery.concurrency.prefork, celery.worker.worker, celery_asynctask.store"


def measure(at_once: int = 1) -> float:
    """The time that a worker's Python takes to start, in units of the reference; at least 2. Tests wait while others
    run: ``at_once`` of them share the machine's cores."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", _IMPORTS], check=True)
    took = time.monotonic() - began
    return 2 * max(1.0, took / REFERENCE_SECONDS) * max(1.0, at_once / (os.cpu_count() or 1))


@cache
def pace(at_once: int = 1) -> float:
    """The factor by which a deadline here exceeds the longest time on the reference machine."""
    if VARIABLE not in os.environ:
        os.environ[VARIABLE] = f"{measure(at_once):.1f}"
    return float(os.environ[VARIABLE])


def patience(seconds: float) -> float:
    """Seconds to wait here for something that takes at most ``seconds`` on the reference machine."""
    return seconds * pace()
