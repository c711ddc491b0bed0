"""Long proofs, run once for a change that matters: `python -m tests.soak MINUTES`.

It runs the fault and worker tiers again and again until the time is over, with other seeds and under the load that they
are for each other; then it runs each property test at length. It prints every failure, and its exit code says whether
there was one.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import NamedTuple
from xml.etree import ElementTree

from tests.faults.proc import descendants, is_alive, kill_tree, wait_gone
from tests.waiting import wait_for

ROUND_SECONDS = 3600
"""A round that takes longer hangs."""
GRACE_SECONDS = 5
"""Time for interrupted tests to remove what they created."""


class Proof(NamedTuple):
    """Some tests, with the environment that makes them long."""

    tests: tuple[str, ...]
    environment: Mapping[str, str] = MappingProxyType({})


ROUND = Proof(
    ("-m", "broker or faults", "-n", "3"),
    {"ASYNCTASK_SHAPES": "all", "ASYNCTASK_CHAOS_SECONDS": "35", "ASYNCTASK_RECYCLED_CHILDREN": "200"},
)
AT_LENGTH = {
    "10,000 schedules": Proof(
        ("-m", "", "-n", "0", "tests/integration/recorder/test_ledger.py", "-k", "nothing_is_lost"),
        {"ASYNCTASK_SCHEDULES": "10000"},
    ),
    "10,000 payloads": Proof(
        ("-m", "", "-n", "0", "tests/unit/capture/payload/test_payload.py", "-k", "any_value"),
        {"ASYNCTASK_GENERATED": "10000"},
    ),
    "requests of any kind": Proof(
        ("-m", "", "tests/integration/http/test_fuzz.py"),
        {"ASYNCTASK_FUZZED": "30"},
    ),
    "Celery's own tests": Proof(
        ("-m", "", "tests/integration/test_celery_suite.py"),
        {"ASYNCTASK_CELERY_SUITE": "whole"},
    ),
    "every page in every view": Proof(("-m", "", "-n", "0", "tests/browser"), {"ASYNCTASK_BROWSER": "all"}),
    "two releases, with long tasks": Proof(
        ("-m", "", "-n", "0", "tests/releases"),
        {"ASYNCTASK_RELEASES_BODIES": "400", "ASYNCTASK_RELEASES_HOLD": "60"},
    ),
    **{
        f"ten minutes of chaos on {broker}, seed {seed}": Proof(
            ("-m", "", "-n", "0", "tests/faults/test_chaos.py"),
            {
                "ASYNCTASK_CHAOS_SECONDS": "600",
                "ASYNCTASK_CHAOS_BROKER": broker,
                "ASYNCTASK_CHAOS_SEED": str(seed),
            },
        )
        for broker in ("amqp", "redis")
        for seed in (1, 2)
    },
    "94,000 events in 1.5 MB and in 2 MiB": Proof(
        ("-m", "", "-n", "0", "tests/faults/test_room.py"),
        {"ASYNCTASK_ROOM_EVENTS": "47000"},
    ),
}


class Outcome(NamedTuple):
    """The result of a test run."""

    tests: int
    failures: list[str]
    """The output of each failed test."""


def run(proof: Proof, seconds: float = ROUND_SECONDS) -> Outcome:
    """Run the tests to their end in a process of their own. After ``seconds`` it is killed with all its children."""
    with TemporaryDirectory(prefix="asynctask-soak-") as directory:
        report, log = Path(directory) / "report.xml", Path(directory) / "log"
        options = ["-p", "no:cacheprovider", f"--junitxml={report}"]
        options += ["-o", f"faulthandler_timeout={seconds / 2}"]  # so that a test that hangs prints where
        command = [sys.executable, "-m", "pytest", *options, *proof.tests]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **proof.environment},
                cwd=Path(__file__).parents[1],
            )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass  # and there is no report
        finally:  # even if interrupted, it leaves no process behind
            if process.poll() is None:
                end(process)
        if not report.exists():
            return Outcome(0, [log.read_text(encoding="utf-8", errors="replace")])
        outcome = read(report)
        if process.wait() and not outcome.failures:
            outcome.failures.append(log.read_text(encoding="utf-8", errors="replace"))
        return outcome


def end(process: subprocess.Popen[bytes]) -> None:
    """Let the tests clean up after themselves, which they do once pytest has ended, and kill what is left."""
    pids = [process.pid, *descendants(process.pid)]
    process.terminate()
    process.wait()
    with suppress(AssertionError):
        wait_for(lambda: not any(map(is_alive, pids)), GRACE_SECONDS, "the tests to be over")
    killed = [child for pid in pids if is_alive(pid) for child in kill_tree(pid)]
    wait_gone([*pids, *killed])


def read(report: Path) -> Outcome:
    """The outcome in pytest's JUnit report."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    failures = [
        f"{case.get('classname')}::{case.get('name')}\n{problem.text or problem.get('message')}"
        for case in cases
        for problem in (*case.findall("failure"), *case.findall("error"))
    ]
    return Outcome(len(cases), failures)


def show(name: str, outcome: Outcome, seconds: float) -> None:
    print(f"{name}: {outcome.tests} tests, {len(outcome.failures)} failed, {seconds:.0f} s", flush=True)
    for failure in outcome.failures:
        print(failure, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("minutes", type=float, help="how long the tiers are run again; what has begun is ended")
    parser.add_argument("--rounds-alone", action="store_true", help="without the tests at length")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    tests, failures, rounds = 0, 0, 0

    def prove(name: str, proof: Proof) -> None:
        nonlocal tests, failures
        at = time.monotonic()
        outcome = run(proof)
        tests += outcome.tests
        failures += len(outcome.failures)
        show(name, outcome, time.monotonic() - at)

    while time.monotonic() < began + 60 * options.minutes:
        rounds += 1
        prove(f"round {rounds}", ROUND)
    if not options.rounds_alone:
        for name, proof in AT_LENGTH.items():
            prove(name, proof)
    took = (time.monotonic() - began) / 60
    print(f"{rounds} rounds in all, {tests} tests, {failures} failed, {took:.0f} minutes")
    return 1 if failures else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing else interrupts a background job
    sys.exit(main())
