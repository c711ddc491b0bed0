"""Readers are served while strangers attack. `python -m tests.benchmarks attack` measures it for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attack import p95, server
from tests.attackers import ATTACKS
from tests.pace import patience

pytestmark = pytest.mark.slow

SECONDS = 2


def test_readers_are_served_under_attack(tmp_path: Path) -> None:
    with server(tmp_path) as running:
        for name in ATTACKS:
            report = running.attack(name, SECONDS)
            assert not report.failures, report
            assert p95(report.taken) < patience(1), report
            assert report.grown < 20_000_000, report
            assert report.lines < 25, report
    log = running.log.read_text(encoding="utf-8")
    assert "Refused or cut off" in log
    assert "Traceback" not in log
