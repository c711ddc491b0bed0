"""A server in a process of its own, on a free port, which it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.pace import patience
from tests.waiting import wait_for
from tests.workers.harness import START_SECONDS, stop


def client(address: str) -> httpx.Client:
    """A client with patience for a server that other tests slow down."""
    return httpx.Client(base_url=address, timeout=patience(5), follow_redirects=True)


@contextmanager
def serving(directory: Path, *command: str) -> Iterator[str]:
    """Python with these arguments, in a directory with its code; returns where it listens."""
    log = directory / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, *command],
            cwd=directory,
            env={**os.environ, "XDG_STATE_HOME": str(directory / "state")},
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def address() -> Any:
        assert server.poll() is None, log.read_text(encoding="utf-8")
        return re.search(r"http://127\.0\.0\.1:\d+", log.read_text(encoding="utf-8"))

    try:
        yield wait_for(address, START_SECONDS, f"the server to listen; its log is {log}").group()
    finally:
        stop(server)
