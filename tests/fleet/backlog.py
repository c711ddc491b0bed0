"""A node whose processes have written much while nobody stored it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, func, select

from celery_asynctask.store.models import AsyncTask
from tests import services
from tests.benchmarks.app import TASK, build
from tests.benchmarks.turns import in_child

MOST_MEMORY = 80
"""Megabytes of the recorder's process, at most."""
VALUE = 40_000
"""Bytes of the argument of a task."""
SECONDS = 300


def backlog(directory: Path, *, processes: int = 48, megabytes: float = 2) -> dict[str, Any]:
    """A recorder stores it all, and does not grow with it."""
    tasks = round(megabytes * 1_000_000 / VALUE)
    with services.new_database("postgresql", directory) as url:
        app = {"variant": "recorded", "broker": "memory://", "url": url, "journal": str(directory / "journal")}
        for _ in range(processes):
            in_child(lambda: _publish(app, tasks))  # no recorder runs there
        waiting = sum(path.stat().st_size for path in (directory / "journal").iterdir())
        done = subprocess.run(
            [sys.executable, "-m", "tests.fleet.peak", url, str(directory / "journal")],
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=SECONDS,
        )
        assert not done.returncode, done.stderr
        engine = create_engine(url)
        with engine.connect() as connection:
            rows = connection.scalar(select(func.count()).select_from(AsyncTask))
        engine.dispose()
    figures = {"waiting": f"{waiting / 1e6:.0f} MB", "memory": f"{_peak(done.stdout):.0f} MB", "rows": rows}
    assert rows == processes * tasks, figures
    assert _peak(done.stdout) < MOST_MEMORY, figures
    return figures


def _publish(options: dict[str, str], tasks: int) -> None:
    """Write that many events."""
    app = build(**options)
    note = "".join(map(chr, range(33, 127))) * (VALUE // 94)
    for number in range(tasks):
        app.tasks[TASK].delay(number, 2, note=f"{number}{note}")


def _peak(text: str) -> float:
    """Megabytes."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", text, re.MULTILINE)
    assert found, text
    return int(found[1]) / 1000
