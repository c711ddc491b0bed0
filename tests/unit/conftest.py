"""Checks that hold after every unit test."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _nothing_installed() -> Iterator[None]:
    """No receiver of ours stays connected, and no app stays installed."""
    yield
    hooks = sys.modules.get("celery_asynctask.capture.install")
    if hooks is None:
        return
    ours = set(hooks._RECEIVERS.values())
    connected = {
        receiver.__name__ for signal in hooks._RECEIVERS for _, receiver in signal.receivers if receiver in ours
    }
    assert (set(hooks._installed), connected) == (set(), set())
