"""Celery's own unit tests, run with every app recorded: tests that pass without us must pass with us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import celery
import pytest
from sqlalchemy import create_engine, func, select

import celery_asynctask
from celery_asynctask import AsyncTaskSource
from tests.pace import patience

pytestmark = pytest.mark.slow

SUITE = Path(__file__).parents[1] / "celery_suite"
STAMPING = "t/unit/tasks/test_stamping.py"
"""A third of the time: thousands of canvases and their headers."""
IS_WHOLE = "ASYNCTASK_CELERY_SUITE" in os.environ
"""All that create, send and run tasks, as `tests.soak` runs them; otherwise most of them."""
WAITING = (
    "t/unit/worker/test_native_delayed_delivery.py",
    "t/unit/worker/test_worker.py::test_WorkController::test_with_autoscaler_file_descriptor_safety",
    "t/unit/worker/test_worker.py::test_WorkController::test_with_file_descriptor_safety",
)
"""Tests that really wait."""
TESTS = (
    ["t/unit/tasks", "t/unit/app", "t/unit/worker"]
    if IS_WHOLE
    else ["t/unit/tasks", "t/unit/worker/test_request.py", "t/unit/worker/test_strategy.py"]
)
LEFT_OUT = WAITING if IS_WHOLE else (*WAITING, STAMPING)
WAYS = ("install", "task_cls") if IS_WHOLE else ("install",)
"""The ways to switch recording on."""
ENDS = {"succeeded", "failed", "retried", "revoked", "rejected", "ignored", "lost"}


class Run(NamedTuple):
    """One run of Celery's tests."""

    way: str
    """The way in which recording was switched on; see the plugin."""
    source: Path
    """The directory of Celery's tests."""
    directory: Path
    """The directory with the plugin's journal, database and summary."""
    summary: dict[str, Any]
    """The plugin's `Summary`."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests of the installed Celery, from its source distribution. Celery itself is left out, because it would be
    imported instead of the installed one."""
    directory = tmp_path_factory.mktemp("celery")
    wanted = f"celery=={celery.__version__}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "celery", wanted]
    subprocess.run(pip, cwd=directory, check=True)
    (archive,) = directory.glob("celery-*.tar.gz")
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            _, _, member.name = member.name.partition("/")
            if member.name == "pyproject.toml" or member.name.startswith("t/"):
                tar.extract(member, directory, filter="data")
    return directory


def run(source: Path, directory: Path, way: str, *tests: str) -> dict[str, Any]:
    """Run some of Celery's tests with recording switched on in this way."""
    directory.mkdir()
    plugins = ["-p", "no:cacheprovider", "-p", "celery.contrib.pytest", "-p", "plugin"]
    options = [f"--asynctask={way}", f"--asynctask-dir={directory}", "--quiet", "--disable-warnings"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "CELERY_"))}
    environment |= {
        "C_FORCE_ROOT": "1",  # otherwise many tests of workers fail for root
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join([str(SUITE), str(Path(celery_asynctask.__file__).parents[1])]),
    }
    command = [sys.executable, "-m", "pytest", *plugins, *options, *tests]
    ended = subprocess.run(command, cwd=source, env=environment, check=False, timeout=patience(1200))
    assert ended.returncode in (0, 1), "Celery's tests could not be run"
    summary: dict[str, Any] = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    return summary


@pytest.fixture(scope="module", params=[pytest.param(way, marks=pytest.mark.xdist_group(way)) for way in WAYS])
def recorded(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Celery's tests with recording switched on, once for each way."""
    directory = tmp_path_factory.mktemp("suite") / request.param
    summary = run(source, directory, request.param, *TESTS, *(f"--deselect={test}" for test in LEFT_OUT))
    return Run(request.param, source, directory, summary)


def known(way: str) -> set[str]:
    """The tests that ``known.txt`` excuses for this way."""
    lines = (SUITE / "known.txt").read_text(encoding="utf-8").splitlines()
    entries = [line.partition("#")[0].split() for line in lines]
    return {entry[1] for entry in entries if entry and entry[0] == way}


def test_what_passes_plain_passes_recorded(recorded: Run, tmp_path: Path) -> None:
    suspects = set(recorded.summary["failed"]) - known(recorded.way)
    if suspects:  # do they also fail without us?
        suspects -= set(run(recorded.source, tmp_path / "off", "off", *suspects)["failed"])
    assert suspects == set()


def test_no_excuse_is_stale(recorded: Run) -> None:
    assert set(recorded.summary["passed"]) & known(recorded.way) == set()


def test_the_suite_was_run_and_recorded(recorded: Run) -> None:
    """An empty collection, or a plugin that does nothing, would prove nothing."""
    summary = recorded.summary
    assert len(summary["passed"]) > (1500 if IS_WHOLE else 1000)
    assert summary["apps"] > (1500 if IS_WHOLE else 1000)
    assert summary["runs"] > 200
    assert summary["events"].keys() >= {"published", "planned", "received", "unsent", *ENDS}


def test_no_hook_raises(recorded: Run) -> None:
    assert recorded.summary["raised"].keys() - known("hooks") == set()


def test_all_that_was_recorded_is_accounted_for(recorded: Run) -> None:
    """Celery's tests create strange tasks; none of their events may be lost or hold up others."""
    assert list((recorded.directory / "journal").glob("*.events")) == []
    table = AsyncTaskSource.__table__
    engine = create_engine(f"sqlite:///{recorded.directory / 'store.db'}")
    with engine.connect() as connection:
        kept = connection.execute(select(func.sum(table.c.stored + table.c.quarantined))).scalar_one()
    engine.dispose()
    assert kept == sum(recorded.summary["events"].values())
