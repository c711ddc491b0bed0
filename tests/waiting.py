"""Waits for another process or thread, with a deadline that fails loudly."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.pace import patience


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Poll ``condition`` until it is true, and return its value; after a deadline, fail with ``what``.

    The longer it takes, the less often it polls: many polling waiters would take the processor from the processes that
    they wait for. ``seconds`` is the longest time that it takes on the reference machine of `tests.pace`.
    """
    limit = patience(seconds)
    began = time.monotonic()
    while True:
        waited = time.monotonic() - began
        last_try = waited > limit
        value = condition()
        if value:
            return value
        if last_try:
            raise AssertionError(f"waited {limit:.1f} s for {what}; last seen: {value!r}")
        time.sleep(min(max(0.02, waited / 10), 0.25))
