"""Waiting for what another process or thread will do, with a deadline that fails loudly."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_for(condition: Callable[[], Any], timeout: float, what: str) -> Any:
    """Poll ``condition`` until it is true and return its value; fail with ``what`` after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        last_try = time.monotonic() > deadline
        value = condition()
        if value:
            return value
        if last_try:
            raise AssertionError(f"waited {timeout} s for {what}; last seen: {value!r}")
        time.sleep(0.02)
