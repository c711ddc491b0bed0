"""How long pure work takes, as far as a machine with other things to do can tell: for tests that tell work which is
bounded from work that grows without end. How fast something is, benchmarks say."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any


def seconds(work: Callable[[], Any], enough: float) -> float:
    """Seconds of processor time that ``work`` takes: the least of five times, or the first below ``enough``."""
    took = float("inf")
    for _ in range(5):
        began = time.process_time()
        work()
        took = min(took, time.process_time() - began)
        if took < enough:
            break
        gc.collect()  # else it may be collected meanwhile, and a test run has many objects
    return took
