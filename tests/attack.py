"""`celery asynctask serve` under attack, with readers who ask on while it lasts. Server, readers and attacker are a
process each (`tests.attackers`) and share the machine. The server may open 256 files."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.attackers import TOKEN
from tests.integration.oracle import add, row
from tests.pace import patience
from tests.waiting import wait_for

FILES = 256
"""The server's limit of open files."""
ROWS = 200
START_SECONDS = 60
_PROJECT = """
from celery import Celery
app = Celery("proj", broker="memory://")
app.conf.update({settings!r})
"""


@dataclass
class Report:
    """What an attack did to the server and its readers."""

    attack: str
    taken: list[float]
    """Seconds of the readers' requests while it lasted."""
    failures: list[str]
    """What readers got in place of an answer."""
    grown: int
    """Bytes by which the server's memory was larger at its peak."""
    lines: int
    """Lines that the server logged."""
    done: str
    """What the attacker says that it did."""


def p95(seconds: Sequence[float]) -> float:
    """The time within which 95 % were answered."""
    return sorted(seconds)[math.ceil(len(seconds) * 0.95) - 1]


class Server:
    """A running `serve`, with rows to read."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, address: tuple[str, str]) -> None:
        self.process = process
        self.log = log
        self.address = address

    def read(self, seconds: float) -> tuple[list[float], list[str]]:
        """Let the readers ask for so many seconds: the seconds of each answer, and what went wrong."""
        taken, failures = _finished(self._start("readers", seconds), seconds + START_SECONDS)
        return taken, failures

    def attack(self, name: str, seconds: float) -> Report:
        """Attack it for so many seconds, while the readers ask."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", encoding="utf-8")  # its peak is now
        lines, before = self._lines(), self._memory()
        attacker = self._start(name, seconds + 1)
        taken, failures = self.read(seconds)
        done = _finished(attacker, seconds + START_SECONDS)
        assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
        return Report(name, taken, failures, self._memory() - before, self._lines() - lines, str(done))

    def _start(self, name: str, seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.attackers", name, *self.address, str(seconds)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")

    def _memory(self) -> int:
        """Its peak."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def _lines(self) -> int:
        return self.log.read_text(encoding="utf-8").count("\n")


def _finished(process: subprocess.Popen[str], seconds: float) -> Any:
    """What a reader or attacker printed."""
    try:
        out, _ = process.communicate(timeout=patience(seconds))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert process.returncode == 0
    return json.loads(out)


@contextmanager
def server(directory: Path) -> Iterator[Server]:
    """A server in a directory of its own."""
    store = Store(Settings(url=f"sqlite:///{directory / 'rows.db'}"))
    store.prepare()
    add(store, [row(f"task-{number}") for number in range(ROWS)])
    store.close()
    grant = {"sha256": hashlib.sha256(TOKEN.encode()).hexdigest(), "customers": "*", "rights": ["read"]}
    settings = {"asynctask_url": store.settings.url, "asynctask_tokens": {"reader": grant}}
    (directory / "proj.py").write_text(_PROJECT.format(settings=settings), encoding="utf-8")
    limited = ("sh", "-c", f'ulimit -n {FILES} && exec "$0" "$@"')
    log = directory / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*limited, sys.executable, "-m", "celery", "-A", "proj", "asynctask", "serve", "--port", "0"],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def address() -> Any:
        text = log.read_text(encoding="utf-8")
        assert process.poll() is None, text
        return "Started server process" in text and re.search(r"http://([0-9.]+):(\d+)", text)

    try:
        found = wait_for(address, START_SECONDS, f"the server; its log is {log}")
        with urlopen(f"{found[0]}/console/sign-in") as page:  # the first page is compiled
            assert page.status == 200
        yield Server(process, log, (found[1], found[2]))
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(patience(START_SECONDS))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
