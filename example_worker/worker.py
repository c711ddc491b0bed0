"""A Celery worker in a process of its own, for the time of a ``with`` block."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

STOP_SECONDS = 20.0
"""Time for running tasks to finish before the worker is killed."""


class Worker:
    """``celery -A example_worker worker`` with a prefork pool. Its output goes to a log file."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.processes = min(4, os.cpu_count() or 1)

    def __enter__(self) -> Worker:
        command = [sys.executable, "-m", "celery", "-A", "example_worker", "worker"]
        command += ["--pool=prefork", f"--concurrency={self.processes}", f"--hostname=census{os.getpid()}@%h"]
        command += ["--loglevel=INFO", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        project = str(Path(__file__).parent.parent)
        path = os.pathsep.join(filter(None, [project, os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches only this process, which then stops the worker
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        """Let running tasks finish, and kill the worker if it does not end in time."""
        try:
            self._process.terminate()
            self._process.wait(STOP_SECONDS)
        except BaseException as caught:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            if not isinstance(caught, subprocess.TimeoutExpired):
                raise

    def exit_code(self) -> int | None:
        """The exit code of a worker that ended by itself; None while it runs."""
        return self._process.poll()
