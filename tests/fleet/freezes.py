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
START_SECONDS = 20
STORE_SECONDS = 10
STORED = "SELECT journal, sum(last_number) FROM async_task_source GROUP BY journal"
COMMITS = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND query_start < clock_timestamp() - interval '1 second'
"""


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
    took = []
    with own_server() as server:
        server.ask("CREATE DATABASE fleet")
        fleet = Fleet(directory, server.url("fleet"), nodes, rate=rate)
        with watching(fleet.url) as connection, running(fleet):
            wait_for(lambda: len(_stored(connection)) == nodes, START_SECONDS, "all nodes to store")
            pids, began, commits = fleet.pids, time.monotonic(), connection.scalar(text(COMMITS)) or 0
            for turn in range(times):
                pid = pids[turn % nodes] if worst else chance.choice(pids)
                send([pid], FREEZE if worst else signal.SIGSTOP)
                wait_for(partial(_is_frozen, pid), START_SECONDS, f"node {pid} to freeze")
                time.sleep(SETTLE_SECONDS)
                took.append(_all_store(connection, nodes - 1))
                time.sleep(max(0.0, SECONDS - took[-1]))
                send([pid], signal.SIGCONT)
                time.sleep(chance.uniform(0.2, 0.8))
            rate = ((connection.scalar(text(COMMITS)) or 0) - commits) / (time.monotonic() - began)
            fleet.stop()
    return {"freezes": times, "commits/s": round(rate), "longest": f"{max(took):.1f} s"}


def _all_store(connection: Connection, nodes: int) -> float:
    """Seconds until so many nodes have stored something."""
    began, before = time.monotonic(), _stored(connection)

    def growing() -> bool:
        waiting = connection.scalar(text(WAITING))
        assert not waiting, f"{waiting} sessions wait for a lock that somebody holds"
        after = _stored(connection)
        return sum(after[journal] > before[journal] for journal in before) >= nodes

    wait_for(growing, STORE_SECONDS, f"{nodes} nodes to store while one is frozen")
    return time.monotonic() - began


def held(directory: Path, *, nodes: int = 4, seconds: float = 15, rate: float = 10) -> dict[str, Any]:
    """All go on while somebody holds the rows that say what has changed, but for a few: longer than between two looks
    of a recorder."""
    with own_server() as server:
        server.ask("CREATE DATABASE fleet")
        fleet = Fleet(directory, server.url("fleet"), nodes, rate=rate)
        with watching(fleet.url) as connection, running(fleet), watching(fleet.url) as holder:
            wait_for(lambda: len(_stored(connection)) == nodes, START_SECONDS, "all nodes to store")
            took = []
            with holder.execution_options(isolation_level="READ COMMITTED").begin():
                holder.execute(text("SELECT 1 FROM async_task_revision FOR UPDATE"))
                holder.execute(text("SELECT 1 FROM async_task_change WHERE slot > 8 FOR UPDATE SKIP LOCKED"))
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    took.append(_all_store(connection, nodes))
                    time.sleep(SECONDS)
            fleet.stop()
    return {"seconds": seconds, "longest": f"{max(took):.1f} s"}


def _stored(connection: Connection) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(text(STORED))}


def _is_frozen(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2][:1] == "T"
