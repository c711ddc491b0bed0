"""What it costs that all recorders count their changes in one table."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psycopg import ClientCursor
from sqlalchemy import Connection, Engine, event

from celery_asynctask.core.event import encode
from celery_asynctask.journal import Directory, Journal
from celery_asynctask.recorder.drain import Drain
from celery_asynctask.settings import Settings
from tests.faults.server import Server, own_server
from tests.fleet.nodes import counts_change
from tests.histories import HISTORIES, about

LEAST = 0.6
FLUSH = {"fsync": "on", "commit_delay": "10000", "commit_siblings": "1"}
"""A commit takes 10 ms, as where another server must have it too, and many commit together: what holds a lock meanwhile
costs more than the processor does."""
TASK = "fleet-task"
"""How the ids of the tasks begin, in the one transaction that was written."""
SOURCE = "fleet-source"


def changes(
    directory: Path, *, sessions: int = 64, seconds: int = 20, turns: int = 3, tasks: int = 20
) -> dict[str, Any]:
    """Transactions a second of many recorders, with and without counting their changes, in turns. They are the
    statements of a real one, which a light client sends again with other tasks and processes."""
    rates: dict[str, list[float]] = {"with": [], "without": []}
    with own_server(**FLUSH, max_connections=str(sessions + 10)) as server:
        written = _write(directory, server.url(), tasks)
        assert any(map(counts_change, written)), written
        scripts = {"with": written, "without": [one for one in written if not counts_change(one)]}
        for turn in range(turns):
            for kind, found in rates.items():
                path = directory / f"{kind}{turn}.sql"
                path.write_text(_script(scripts[kind], f"{kind}{turn}"), encoding="utf-8")
                found.append(_run(server, path, sessions, seconds))
    ratio = sum(rates["with"]) / sum(rates["without"])
    figures = {**{kind: [round(rate) for rate in found] for kind, found in rates.items()}, "ratio": round(ratio, 2)}
    assert ratio >= LEAST, figures
    return figures


def _write(directory: Path, url: str, tasks: int) -> list[str]:
    """The statements by which a recorder stores these tasks, whose process is there already."""
    settings = Settings(url=url, journal_dir=directory / "journal")
    journal = Journal(settings.directory, settings.store_id)
    drain = Drain(Directory(settings.directory, settings.store_id), settings)
    history = HISTORIES["noted"]()[-1:]
    transaction: list[str] = []
    written: list[str] = []

    def hear(
        connection: Connection, _cursor: object, statement: str, parameters: Any, _context: object, many: bool
    ) -> None:
        raw: Any = connection.connection.dbapi_connection
        client = ClientCursor(raw)
        transaction.extend(
            client.mogrify(statement, one) if one else statement for one in (parameters if many else [parameters])
        )

    def end(_connection: Connection) -> None:
        if any(f"{TASK}-1" in statement for statement in transaction):
            written[:] = transaction
        transaction.clear()

    for turn in range(2):
        for number in range(tasks):
            journal.append(encode(about(history, f"{TASK}-{turn}-{number}")[0]))
        if turn:
            event.listen(Engine, "before_cursor_execute", hear)
            event.listen(Engine, "commit", end)
        assert drain.batch() == tasks
    event.remove(Engine, "before_cursor_execute", hear)
    event.remove(Engine, "commit", end)
    drain.close()
    return [one.replace(journal.source, SOURCE) for one in written]


def _script(statements: Sequence[str], name: str) -> str:
    """For pgbench: each session is a process of its own, and each turn has other tasks."""
    text = ";\n".join(["BEGIN", *statements, "COMMIT"])
    text = text.replace(SOURCE, f"{name}-:client_id").replace(TASK, f"{name}-:turn")
    return f"\\set turn random(1, 9000000000000000000)\n{text};\n"


def _run(server: Server, script: Path, sessions: int, seconds: int) -> float:
    """Transactions a second."""
    place = ("-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres")
    how = ("-n", "-c", str(sessions), "-j", "2", "-T", str(seconds), "-f", str(script))
    done = subprocess.run(
        [str(server.binaries / "pgbench"), *place, *how, "postgres"], capture_output=True, encoding="utf-8", check=False
    )
    found = re.search(r"^tps = ([\d.]+)", done.stdout, re.MULTILINE)
    assert not done.returncode, done.stderr
    assert found, done.stdout
    return float(found[1])
