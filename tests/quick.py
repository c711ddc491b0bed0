"""Measures pure work, as well as a busy machine allows, for tests that tell bounded work from work that grows without
end. Benchmarks measure how fast something is."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any


def seconds(work: Callable[[], Any], enough: float) -> float:
    """Seconds of processor time that ``work`` takes: the least of five measurements, or the first one below
    ``enough``."""
    took = float("inf")
    for _ in range(5):
        began = time.process_time()
        work()
        took = min(took, time.process_time() - began)
        if took < enough:
            break
        gc.collect()  # otherwise the collector may run meanwhile, and a test run has many objects
    return took
