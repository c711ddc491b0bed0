"""An upgrade node by node, and back, under load: this release and its predecessor on one database and one queue, on
nodes of their own and in one journal directory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_asynctask.journal.names import OLD_SUFFIX, SUFFIX
from celery_asynctask.operations.migrate import upgrade
from celery_asynctask.operations.session import Writer
from celery_asynctask.settings import Settings
from celery_asynctask.store.tables import SCHEMA_VERSION
from tests import services
from tests.faults.truth import judge, runs_of
from tests.faults.world import Worker
from tests.pace import patience
from tests.releases.rig import NEW, Rig
from tests.waiting import wait_for

pytestmark = pytest.mark.broker

BODIES = int(os.environ.get("ASYNCTASK_RELEASES_BODIES", "15"))
"""Of each step, at least."""
HOLD = float(os.environ.get("ASYNCTASK_RELEASES_HOLD", "0"))
"""Length of some long tasks, which recorders of both releases must not take for lost; 0: there are none."""
PAUSE = 0.2
"""Seconds between two shapes that a producer sends."""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with services.new_database("postgresql", tmp_path) as store:
        rig = Rig(tmp_path, store)
        try:
            yield rig
        finally:
            rig.close()


def test_an_upgrade_and_back_under_load(rig: Rig) -> None:
    old, new = rig.old, NEW
    workers: dict[str, Worker] = {}
    rig.replace(workers, "a", "shared", by=old)
    rig.leave(old, "b")
    assert rig.left("b", OLD_SUFFIX)

    with rig.load(old, "a", PAUSE):
        rig.ran(BODIES)
        rig.replace(workers, "b", "shared too", by=new)
        rig.ran(BODIES)  # what this release records waits for its tables
        assert rig.left("b", SUFFIX)
        assert rig.left("b", OLD_SUFFIX)
        writer = Writer(Settings(url=rig.store))
        upgraded = upgrade(writer)
        writer.close()
        assert (upgraded.before, upgraded.after) == ("0003", SCHEMA_VERSION)
        with rig.load(new, "b", PAUSE), rig.load(new, "shared", PAUSE), rig.load(old, "shared", PAUSE):
            rig.ran(BODIES)  # two workers of each, two of them in one directory
            assert rig.left("shared", OLD_SUFFIX)
            assert rig.left("shared", SUFFIX)
            if HOLD:
                rig.hold(HOLD, 6)
            rig.replace(workers, "a", "shared", by=new)
            rig.ran(BODIES)
        wait_for(lambda: not rig.left("b", OLD_SUFFIX), 30, "what the predecessor has left to be stored")
        wait_for(lambda: not rig.left("shared", OLD_SUFFIX), 30, "what the predecessor has left to be stored")
        rig.replace(workers, "a", "shared", by=old)
        rig.ran(BODIES)
        if HOLD:
            rig.hold(HOLD, 6)
        rig.replace(workers, "b", "shared too", by=old)
        rig.leave(new, "a")
        rig.ran(BODIES)
    wait_for(lambda: not rig.waiting(), 40, "all messages to be taken")
    rig.end(workers.values())
    assert rig.left("a", SUFFIX), "the predecessor leaves alone what it does not know"
    for node in ("a", "b", "shared"):
        rig.drain(node)

    runs = runs_of(rig.runs.read(), {})
    verdict = judge(rig.asks.read(), runs, rig.rows(), rig.attempts(), {})
    print(f"\n{len(runs)} runs, {verdict.statuses}")
    assert not verdict.wrong, "\n".join(verdict.wrong[:40])
    assert verdict.never_run == verdict.unnoted == 0
    assert all(source.quarantined == 0 and not source.dropped for source in rig.check_ledger())
    code, total = verified(rig, "shared")
    assert (code, total["missing"], total["quarantined"]) == (0, 0, 0), total


def verified(rig: Rig, node: str) -> tuple[int, dict[str, int]]:
    """What this release says on a node about the whole record."""
    process, log = rig.run(NEW, node, "verify", "celery", "-A", "tests.faults.app", "asynctask", "verify", "--json")
    code = process.wait(patience(30))
    printed = log.read_text(encoding="utf-8")
    total = next((line for line in printed.splitlines() if line.startswith('{"')), None)
    assert total is not None, printed
    return code, json.loads(total)
