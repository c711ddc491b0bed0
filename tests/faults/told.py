"""Going on until a signal says otherwise."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any


def told(number: int = signal.SIGTERM) -> Callable[[], bool]:
    """Whether the signal has come since, asked at any time; it does nothing else from now on."""
    came = False

    def come(*_: Any) -> None:
        nonlocal came
        came = True

    signal.signal(number, come)
    return lambda: came
