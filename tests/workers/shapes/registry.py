"""The shapes by name, and the pools that can run them."""

from __future__ import annotations

from collections.abc import Callable

from tests.workers.harness import World

SHAPES: dict[str, Callable[[World], None]] = {}
PREFORK_ONLY: set[str] = set()

ENDS_SOLO = {"result_backend_down"}
"""In a solo worker, these end Celery itself: it stops with an unrecoverable error (5.7)."""


def shape(function: Callable[[World], None]) -> Callable[[World], None]:
    """Add a shape."""
    SHAPES[function.__name__] = function
    return function


def prefork_only(function: Callable[[World], None]) -> Callable[[World], None]:
    """Other pools have no children to kill, and ignore time limits and termination."""
    PREFORK_ONLY.add(function.__name__)
    return function
