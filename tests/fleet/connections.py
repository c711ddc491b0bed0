"""More nodes than the database has connections, and nodes behind a pooler."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import Session

from celery_asynctask.store.models import AsyncTask
from tests import services
from tests.faults.server import Server, free_port, own_server, server_user
from tests.fleet.freezes import watching
from tests.fleet.nodes import Fleet, running
from tests.pace import patience
from tests.waiting import wait_for

SECONDS = 60
"""Within these, each node stores something on the reference machine of `tests.pace`."""
STORING = "SELECT count(DISTINCT journal) FROM async_task_source WHERE stored > 0"
START_SECONDS = 10


def connections(directory: Path, *, nodes: int = 40, most: int = 20, rate: float = 2) -> dict[str, Any]:
    """Each node stores, though there are fewer connections than nodes."""
    with own_server(max_connections=str(most)) as server:
        server.ask("CREATE DATABASE fleet")
        fleet = Fleet(directory, server.url("fleet"), nodes, rate=rate)
        with watching(fleet.url) as connection:
            with running(fleet):
                began = time.monotonic()
                while time.monotonic() < began + patience(SECONDS) / 2:  # twice is the pace of that machine
                    storing = connection.scalar(text(STORING)) or 0
                    if storing == nodes:
                        break
                    time.sleep(0.25)
                took = time.monotonic() - began
                fleet.stop()
            fleet.drain()
        figures = {"storing": storing, "of": nodes, "seconds": round(took, 1), **_missing(fleet, fleet.url)}
    assert storing == nodes, f"{nodes - storing} of {nodes} nodes have stored nothing: {figures}"
    assert not figures["missing"], figures
    return figures


def pooler(directory: Path, *, nodes: int = 40, pool: int = 8, seconds: float = 60, rate: float = 5) -> dict[str, Any]:
    """Behind PgBouncer, which gives a session's connection to others after each transaction, all is as without."""
    with own_server() as server, pgbouncer(server, pool) as port:
        server.ask("CREATE DATABASE fleet")
        fleet = Fleet(directory, f"postgresql+psycopg://postgres@127.0.0.1:{port}/fleet", nodes, rate=rate)
        with watching(server.url("fleet")) as connection, running(fleet):
            wait_for(lambda: connection.scalar(text(STORING)) == nodes, SECONDS, f"{nodes} nodes to store")
            time.sleep(seconds)
            fleet.stop()
        figures = {"log lines": len(fleet.log.splitlines()), **_missing(fleet, server.url("fleet"))}
        assert not fleet.log, f"{figures}\n{fleet.log[:5000]}"
        fleet.drain()
        figures |= _missing(fleet, server.url("fleet"))
    assert not figures["missing"], figures
    return figures


@contextmanager
def pgbouncer(server: Server, pool: int) -> Iterator[int]:
    """The port of a PgBouncer in front of the server, with so many connections to it. It does not run as root."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    services.need(program, "no PgBouncer: install it, on Debian with `apt-get install pgbouncer`")
    with tempfile.TemporaryDirectory(prefix="asynctask-pgbouncer-") as name:
        directory, port, log = Path(name), free_port(), Path(name) / "log"
        directory.chmod(0o755)
        configuration = directory / "pgbouncer.ini"
        configuration.write_text(
            f"""
[databases]
* = host=127.0.0.1 port={server.port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {pool}
max_client_conn = 1000
""",
            encoding="utf-8",
        )
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(program), str(configuration)], stdout=output, stderr=subprocess.STDOUT, **server_user()
            )
        try:
            url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
            wait_for(lambda: _answers(process, url, log), START_SECONDS, "PgBouncer to answer")
            yield port
        finally:
            process.kill()
            process.wait()


def _answers(process: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    assert process.poll() is None, log.read_text(encoding="utf-8")
    engine = create_engine(url, connect_args={"connect_timeout": round(patience(5))})
    try:
        with engine.connect():
            return True
    except Exception:  # noqa: BLE001 - not yet, whatever the reason
        return False
    finally:
        engine.dispose()


def _missing(fleet: Fleet, url: str) -> dict[str, int]:
    """How many tasks have ended, and of how many there is no row that says so."""
    ended = fleet.ended()
    engine = create_engine(url)
    with Session(engine) as session:
        stored = set(session.scalars(select(AsyncTask.celery_task_id).where(AsyncTask.completed_at.is_not(None))))
    engine.dispose()
    return {"ended": len(ended), "missing": len(ended - stored)}
