"""Nodes that freeze while others record into the same database."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, text

from celery_asynctask.store.schema import create_tables
from tests.faults.proc import send
from tests.faults.server import own_server
from tests.fleet.nodes import FREEZE, Fleet, running
from tests.waiting import wait_for

SECONDS = 2.0
"""For which a node is frozen."""
SETTLE_SECONDS = 0.3
"""From a freeze to the first look: what was on its way is over by then."""
FREEZE_SECONDS = 20
STORED = "SELECT journal, sum(last_number) FROM async_task_source GROUP BY journal"
COMMITS = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


@contextmanager
def watching(url: str) -> Iterator[Connection]:
    """A connection that was there before the nodes; the tables are, too."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    create_tables(engine)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def freezes(
    directory: Path, *, nodes: int = 16, times: int = 50, rate: float = 10, worst: bool = False
) -> dict[str, Any]:
    """While one node is frozen, all others go on. ``worst``: it freezes where it holds all its locks."""
    chance = random.Random(nodes * times)
    stopped, waited = [], []
    with own_server() as server:
        server.ask("CREATE DATABASE fleet")
        fleet = Fleet(directory, server.url("fleet"), nodes, rate=rate)
        with watching(fleet.url) as connection, running(fleet):
            wait_for(lambda: len(_stored(connection)) == nodes, FREEZE_SECONDS, "all nodes to store")
            pids, began, commits = fleet.pids, time.monotonic(), connection.scalar(text(COMMITS)) or 0
            for turn in range(times):
                pid = pids[turn % nodes] if worst else chance.choice(pids)
                send([pid], FREEZE if worst else signal.SIGSTOP)
                wait_for(partial(_is_frozen, pid), FREEZE_SECONDS, f"node {pid} to freeze")
                time.sleep(SETTLE_SECONDS)
                before = _stored(connection)
                time.sleep(SECONDS - SETTLE_SECONDS)
                after = _stored(connection)
                waited.append(connection.scalar(text(WAITING)) or 0)
                send([pid], signal.SIGCONT)
                stopped.append(sum(after[journal] == before[journal] for journal in before) - 1)
                time.sleep(chance.uniform(0.2, 0.8))
            rate = ((connection.scalar(text(COMMITS)) or 0) - commits) / (time.monotonic() - began)
            fleet.stop()
    figures = {"freezes": times, "commits/s": round(rate), "stopped": stopped, "sessions waiting": waited}
    assert not any(stopped), f"other nodes stopped: {figures}"
    return figures


def held(directory: Path, *, nodes: int = 4, seconds: float = 15, rate: float = 10) -> dict[str, Any]:
    """All go on while somebody holds the rows that say what has changed, but for a few: longer than between two looks
    of a recorder."""
    with own_server() as server:
        server.ask("CREATE DATABASE fleet")
        fleet = Fleet(directory, server.url("fleet"), nodes, rate=rate)
        with watching(fleet.url) as connection, running(fleet), watching(fleet.url) as holder:
            wait_for(lambda: len(_stored(connection)) == nodes, FREEZE_SECONDS, "all nodes to store")
            stopped = []
            with holder.execution_options(isolation_level="READ COMMITTED").begin():
                holder.execute(text("SELECT 1 FROM async_task_revision FOR UPDATE"))
                holder.execute(text("SELECT 1 FROM async_task_change WHERE slot > 8 FOR UPDATE SKIP LOCKED"))
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    before = _stored(connection)
                    time.sleep(SECONDS)
                    after = _stored(connection)
                    stopped.append(sum(after[journal] == before[journal] for journal in before))
            fleet.stop()
    figures = {"seconds": seconds, "stopped": stopped}
    assert not any(stopped), f"nodes stopped: {figures}"
    return figures


def _stored(connection: Connection) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(text(STORED))}


def _is_frozen(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2][:1] == "T"
