"""`tests.soak` reports every failure, and tests that never end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import soak
from tests.faults.proc import is_alive
from tests.soak import Outcome, Proof, run

pytestmark = pytest.mark.slow

SECONDS = 20.0
"""Within half of it a pytest has begun, even on a busy machine."""


def proof(directory: Path, source: str) -> Proof:
    path = directory / "test_some.py"
    path.write_text(source, encoding="utf-8")
    return Proof(("-n1", str(path)))


def test_failures_and_errors_are_reported(tmp_path: Path) -> None:
    source = """
import pytest

@pytest.fixture
def broken():
    raise KeyError("fixture")

def test_good(): pass
def test_bad(): assert 1 == 2, "arithmetic"
def test_error(broken): pass
"""
    tests, failures = run(proof(tmp_path, source))
    assert tests == 3
    bad, error = failures
    assert "::test_bad\n" in bad
    assert "arithmetic" in bad
    assert "::test_error\n" in error
    assert "KeyError: 'fixture'" in error


def test_what_is_no_test_is_a_failure(tmp_path: Path) -> None:
    tests, (printed,) = run(proof(tmp_path, "import nothing_of_this_name"))
    assert tests == 1
    assert "nothing_of_this_name" in printed


def test_what_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    source = f"""
import pathlib, subprocess

def test_hangs():
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    pathlib.Path({str(tmp_path / "child")!r}).write_text(str(child.pid))
    child.wait()
"""
    tests, (printed,) = run(proof(tmp_path, source), seconds=SECONDS)
    assert tests == 0
    assert "test_some.py" in printed
    assert "in test_hangs" in printed
    assert not is_alive(int((tmp_path / "child").read_text(encoding="utf-8")))


@pytest.mark.parametrize(("failures", "code"), [([], 0), (["one::test\nwhy"], 1)])
def test_rounds_then_proofs(
    failures: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def pretend(proof: Proof) -> Outcome:
        ran.append(proof)
        return Outcome(2, failures)

    monkeypatch.setattr(soak, "run", pretend)
    assert soak.main(["0.0001"]) == code
    rounds = ran.count(soak.ROUND)
    assert rounds
    assert ran == [soak.ROUND] * rounds + list(soak.AT_LENGTH.values())
    printed = capsys.readouterr().out
    assert printed.count("one::test\nwhy") == len(failures) * len(ran)
    assert f"{rounds} rounds in all, {2 * len(ran)} tests, {len(failures) * len(ran)} failed" in printed
