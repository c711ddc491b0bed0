"""How slow this machine is: the deadlines of tests are in proportion to it.

Measured once a run, by the first process that asks; the others of the run are told through the environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import cache

REFERENCE_SECONDS = 0.45
"""What is measured takes so long on two cores of an AMD EPYC of 2026 that have nothing else to do."""
VARIABLE = "ASYNCTASK_TEST_PACE"
_IMPORTS = "import celery.app.base, celery.concurrency.prefork, celery.worker.worker, celery_asynctask.store"


def measure(at_once: int = 1) -> float:
    """Seconds that the start of a worker's Python takes, in those of the reference; at least 2.

    Tests wait while others run: ``at_once`` of them share the machine's cores.
    """
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", _IMPORTS], check=True)
    took = time.monotonic() - began
    return 2 * max(1.0, took / REFERENCE_SECONDS) * max(1.0, at_once / (os.cpu_count() or 1))


@cache
def pace(at_once: int = 1) -> float:
    """By how much a deadline is longer here than what it waits for takes on the reference at the most."""
    if VARIABLE not in os.environ:
        os.environ[VARIABLE] = f"{measure(at_once):.1f}"
    return float(os.environ[VARIABLE])


def patience(seconds: float) -> float:
    """Seconds to wait here for what takes ``seconds`` at the most on the reference."""
    return seconds * pace()
