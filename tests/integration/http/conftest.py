"""What the tests of the API share."""

from __future__ import annotations

import pytest

from celery_asynctask.web import attempts


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong tokens are sent by the dozen here; `console.test_sign_in` and `unit.http.test_attempts` test the delays."""
    monkeypatch.setattr(attempts, "FREE", 10_000)
