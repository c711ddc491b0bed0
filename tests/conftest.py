"""Fixtures for all tests, and what a run says at its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import services

settings.register_profile("asynctask", deadline=None, print_blob=True)
settings.load_profile("asynctask")


@pytest.fixture(params=services.DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database of the test's own: the test runs once on every kind of database."""
    with services.new_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture(autouse=True, scope="session")
def _state_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Journals that are not told where to be are kept out of the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for reason in sorted(services.unreachable):
        terminalreporter.write_line(f"skipped: {reason}", yellow=True)
