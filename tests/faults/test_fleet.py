"""Small forms of the proofs of `tests.fleet`, which says what each is about; those that need a machine of their own are
only there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fleet.backlog import backlog
from tests.fleet.connections import pooler
from tests.fleet.failover import crashes, failover
from tests.fleet.freezes import held

pytestmark = pytest.mark.faults


def test_nothing_is_lost_by_a_failover_to_a_standby_that_lags(tmp_path: Path) -> None:
    print(failover(tmp_path, tasks=150, lag=1, rate=100))


def test_nothing_is_lost_by_crashes_of_a_server_that_does_not_wait_for_its_disk(tmp_path: Path) -> None:
    print(crashes(tmp_path, tasks=150, times=1, lag=1, rate=100))


def test_nobody_waits_for_rows_that_somebody_holds(tmp_path: Path) -> None:
    print(held(tmp_path, nodes=2, seconds=12))


def test_a_pooler_needs_no_options(tmp_path: Path) -> None:
    print(pooler(tmp_path, nodes=8, pool=2, seconds=4))


def test_a_backlog_of_many_processes_does_not_fill_the_memory(tmp_path: Path) -> None:
    print(backlog(tmp_path, processes=6))
