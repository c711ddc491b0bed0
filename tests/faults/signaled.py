"""Goes on until a signal says otherwise."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any


def signaled(number: int = signal.SIGTERM) -> Callable[[], bool]:
    """A function that returns whether the signal has come since. From now on, the signal does nothing else."""
    came = False

    def come(*_: Any) -> None:
        nonlocal came
        came = True

    signal.signal(number, come)
    return lambda: came
