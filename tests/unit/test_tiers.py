"""The rules of `tests.conftest` for every test, tried on tests in another directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pace import patience

pytestmark = pytest.mark.slow

SKIPPED = """
import pytest

def test_skipped(): pytest.skip("no such thing here")

@pytest.mark.skipif(True, reason="nor here")
def test_marked(): pass

@pytest.mark.xfail
def test_known(): assert False
"""


def run(directory: Path, source: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_some.py").write_text(source, encoding="utf-8")
    kept = {key: value for key, value in os.environ.items() if key != "ASYNCTASK_SKIP_NOTHING"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", str(directory)],
        cwd=Path(__file__).parents[2],
        env={**kept, **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=patience(30),
        check=False,
    )


def test_a_skip_is_a_failure_where_nothing_may_be_skipped(tmp_path: Path) -> None:
    ended = run(tmp_path, SKIPPED)
    assert (ended.returncode, "2 skipped, 1 xfailed" in ended.stdout) == (0, True), ended.stdout
    ended = run(tmp_path, SKIPPED, ASYNCTASK_SKIP_NOTHING="1")
    assert (ended.returncode, "1 failed, 1 xfailed, 1 error" in ended.stdout) == (1, True), ended.stdout
    assert "no such thing here" in ended.stdout


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ("faults", "is not in tests/faults"),
        ("browser", "is not in tests/browser"),
        ("slow broker", "more than one tier"),
    ],
)
def test_a_test_that_no_step_would_run_is_refused(tmp_path: Path, marks: str, expected: str) -> None:
    decorators = "\n".join(f"@pytest.mark.{mark}" for mark in marks.split())
    ended = run(tmp_path, f"import pytest\n\n{decorators}\ndef test_it(): pass\n")
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR, ended.stdout
    assert expected in ended.stdout + ended.stderr


def test_half_a_character_does_not_end_the_run(tmp_path: Path) -> None:
    source = r"""
import logging

def test_logged(): logging.getLogger("x").error("\ud800")

def test_failed(): raise ValueError("told: \ud800")
"""
    ended = run(tmp_path, source)
    assert "1 failed, 1 passed" in ended.stdout, ended.stdout
    assert r"told: \ud800" in ended.stdout
