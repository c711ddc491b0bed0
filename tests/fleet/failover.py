"""What a database forgets that it has committed: a failover to a standby that lagged, and crashes of a server that does
not wait for its disk. The journals still have it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session

from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.store.models import AsyncTask
from tests.benchmarks.app import ENVIRONMENT
from tests.faults.proc import send
from tests.faults.server import own_server
from tests.fleet.nodes import Fleet, running
from tests.fleet.standby import own_pair
from tests.waiting import wait_for

LIFE = 20
"""Tasks of a short-lived process."""
RECOVERY_SECONDS = 30
TASK_SECONDS = 300
WAL_WRITER = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"


@contextmanager
def both_kinds(directory: Path, url: str, rate: float) -> Iterator[list[Fleet]]:
    """A node with long-lived processes, and one whose processes are short-lived."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(running(Fleet(directory / "long", url, 1, rate=rate / 2, processes=2))),
            stack.enter_context(running(Fleet(directory / "short", url, 1, rate=rate / 2, processes=2, life=LIFE))),
        ]


def failover(directory: Path, *, tasks: int = 3000, lag: float = 3, rate: float = 200) -> dict[str, Any]:
    """The standby has not heard the last ``lag`` seconds of its primary."""
    with own_pair() as pair:
        pair.primary.ask("CREATE DATABASE fleet")
        with both_kinds(directory, pair.url("fleet"), rate) as fleets:
            _wait_for_tasks(fleets, tasks / 3)
            wait_for(lambda: pair.standby.ask("SELECT 1") == 1, RECOVERY_SECONDS, "the standby to answer")
            pair.standby.cut()
            time.sleep(lag)
            pair.primary.stop(signal.SIGQUIT)
            acknowledged = sum(map(_ended, fleets))
            pair.standby.promote()
            forgotten = acknowledged - _stored(pair.standby.url("fleet"))
            _wait_for_tasks(fleets, tasks)
            for fleet in fleets:
                fleet.stop()
        return {"forgotten": forgotten, **check(fleets, pair.standby.url("fleet"))}


def crashes(directory: Path, *, tasks: int = 3000, times: int = 3, lag: float = 3, rate: float = 200) -> dict[str, Any]:
    """The server has not written the last ``lag`` seconds of its log when it crashes."""
    with own_server(synchronous_commit="off", bgwriter_lru_maxpages="0") as server:
        server.ask("CREATE DATABASE fleet")
        url, forgotten = server.url("fleet"), 0
        with both_kinds(directory, url, rate) as fleets:
            for crash in range(times):
                _wait_for_tasks(fleets, tasks * (crash + 1) / (times + 1))
                send([server.ask(WAL_WRITER)], signal.SIGSTOP)
                time.sleep(lag)
                stored = _stored(url)
                server.kill()
                server.start()
                forgotten += max(0, stored - _stored(url))
            _wait_for_tasks(fleets, tasks)
            for fleet in fleets:
                fleet.stop()
        return {"forgotten": forgotten, **check(fleets, url)}


def check(fleets: list[Fleet], url: str) -> dict[str, Any]:
    """Each task that has ended has its true row, and the ledger adds up."""
    ended = set[str]()
    for fleet in fleets:
        fleet.drain()
        ended |= fleet.ended()
    engine = create_engine(url)
    with Session(engine) as session:
        rows = {row.celery_task_id: row for row in session.scalars(select(AsyncTask))}
    engine.dispose()
    lost = [task_id for task_id in ended if task_id not in rows or not _is_whole(rows[task_id])]
    totals = [verify(fleet) for fleet in fleets]
    figures = {"ended": len(ended), "lost": len(lost), "verify": totals}
    assert not lost, f"{len(lost)} of {len(ended)} tasks are lost: {figures}"
    for code, total in totals:
        assert code == 0, figures
        assert total["complete"], figures
        assert total["accepted"] == total["stored"], figures
    return figures


def verify(fleet: Fleet) -> tuple[int, dict[str, Any]]:
    """What `verify` says on the node of a fleet of one: its exit code, and the total."""
    settings = fleet.settings(0)
    app = {"variant": "recorded", "broker": "memory://", "url": fleet.url, "journal": str(settings.journal_dir)}
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tests.benchmarks.app", "asynctask", "verify", "--json"],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, ENVIRONMENT: json.dumps(app)},
    )
    assert done.stdout, done.stderr
    total: dict[str, Any] = json.loads(done.stdout.splitlines()[0])
    return done.returncode, total


def _is_whole(row: AsyncTask) -> bool:
    return row.status == AsyncTaskStatus.SUCCESS and row.started_at is not None and row.completed_at is not None


def _wait_for_tasks(fleets: list[Fleet], count: float) -> None:
    wait_for(lambda: min(map(_ended, fleets)) >= count, TASK_SECONDS, f"{count:.0f} tasks of each node")


def _ended(fleet: Fleet) -> int:
    return len(fleet.ended())


def _stored(url: str) -> int:
    engine = create_engine(url)
    with Session(engine) as session:
        query = select(func.count()).select_from(AsyncTask).where(AsyncTask.status == AsyncTaskStatus.SUCCESS)
        stored = session.scalar(query) or 0
    engine.dispose()
    return stored
