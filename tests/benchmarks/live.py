"""A live prefork worker of one variant, which is fed and watched from here."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery import Celery
from sqlalchemy import create_engine, text

from tests import services
from tests.benchmarks import clock
from tests.benchmarks.app import ARGS, ENVIRONMENT, KWARGS, TASK, build
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
START_SECONDS = 60
TASK_SECONDS = 0.5
"""Longest time of a task, for the slowest variant on a loaded machine."""
WARM_UP = 200
DJANGO = "django-celery-results"
TABLES = {
    "recorded": "async_task",
    "database backend": "celery_taskmeta",
    DJANGO: "django_celery_results_taskresult",
}
"""The table in which a variant keeps a row of each task."""


@dataclass
class Worker:
    """A running worker and its producer.

    The producer is recorded elsewhere: messages to a recorded worker carry our header, but the events of publishing
    them are not in its journal.
    """

    variant: str
    app: Celery
    queue: str
    url: str
    journal: Path
    main: subprocess.Popen[bytes]
    done: int
    """The pipe that gets one byte for each execution."""
    fed: int = 0
    processes: list[int] = field(default_factory=list)

    def feed(self, count: int) -> None:
        """Send ``count`` tasks."""
        with self.app.producer_or_acquire() as producer:
            for _ in range(count):
                headers = {}
                if self.variant == "recorded":
                    now = time.time_ns() // 1000
                    headers["asynctask"] = {"created": now, "sent": now}
                self.app.send_task(TASK, ARGS, KWARGS, headers=headers, producer=producer)
        self.fed += count

    def finish(self, count: int) -> None:
        """Wait until ``count`` executions have ended."""
        deadline = time.monotonic() + START_SECONDS + count * TASK_SECONDS
        while count:
            ready, _, _ = select.select([self.done], [], [], 1)
            if ready:
                count -= len(os.read(self.done, count))
            elif self.main.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the {self.variant} worker (exit code {self.main.poll()}) left {count} tasks")

    def turn(self, count: int) -> None:
        """Run ``count`` tasks."""
        self.feed(count)
        self.finish(count)

    def burst(self, count: int) -> float:
        """Seconds for ``count`` tasks that wait at the broker when the worker begins."""
        self._signal(signal.SIGSTOP)
        try:
            self.feed(count)
        finally:
            self._signal(signal.SIGCONT)
        began = time.perf_counter()
        self.finish(count)
        return time.perf_counter() - began

    def cpu_ns(self) -> int:
        """CPU time of all its processes so far."""
        return clock.cpu_ns(self.processes)

    def settle(self) -> None:
        """Wait until the row of every task says that it succeeded, if the variant keeps rows."""
        if self.variant not in TABLES:
            return
        engine = create_engine(self.url)
        count = text(f"SELECT count(*) FROM {TABLES[self.variant]} WHERE status = 'SUCCESS'")

        def stored() -> bool:
            with engine.connect() as connection:
                return bool(connection.scalar(count) == self.fed)

        wait_for(stored, START_SECONDS, f"{self.fed} rows in {TABLES[self.variant]}")
        engine.dispose()

    def _signal(self, number: int) -> None:
        for pid in self.processes:
            os.kill(pid, number)


@contextmanager
def worker(variant: str, broker: str, concurrency: int) -> Iterator[Worker]:
    """A warm worker with a queue and a database of its own, removed at the end."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(services.fresh_database(services.postgresql_url()))
        pipe = directory / "done"
        os.mkfifo(pipe)
        done = os.open(pipe, os.O_RDWR)  # opened for writing too: otherwise it ends while a child has yet to open it
        stack.callback(os.close, done)
        queue = f"benchmark-{uuid.uuid4().hex[:8]}"
        about = {"variant": variant, "broker": broker, "url": url, "queue": queue, "pipe": str(pipe)}
        about["journal"] = str(directory / "journal")
        app = build("plain", broker, queue=queue)
        stack.callback(_forget, app, queue)
        process = _start(about, concurrency)
        stack.callback(_stop, process)
        found = Worker(variant, app, queue, url, Path(about["journal"]), process, done)
        found.turn(WARM_UP)
        found.processes = clock.tree(process.pid)
        assert len(found.processes) == concurrency + 1, f"not a main process and {concurrency} children"
        yield found
        found.settle()
        assert clock.tree(process.pid) == found.processes, "a process ended, and took its clock with it"


def _start(about: dict[str, Any], concurrency: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", ENVIRONMENT: json.dumps(about)}  # a warning about root
    if about["variant"] == DJANGO:
        environment["DJANGO_SETTINGS_MODULE"] = "tests.benchmarks.django_settings"
        migrate = [sys.executable, "-m", "django", "migrate", "-v0"]
        subprocess.run(migrate, cwd=ROOT, env=environment, check=True)
    command = [sys.executable, "-m", "celery", "-A", "tests.benchmarks.app", "worker", "-P", "prefork", "-l", "ERROR"]
    command += ["-c", str(concurrency), "-n", f"{about['queue']}@%h", "--without-gossip", "--without-mingle"]
    command += ["--without-heartbeat"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


def _stop(process: subprocess.Popen[bytes]) -> None:
    children = clock.tree(process.pid) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(START_SECONDS)
    except subprocess.TimeoutExpired:
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _forget(app: Celery, queue: str) -> None:
    with app.connection_for_write() as connection:
        connection.default_channel.queue_delete(queue)
    app.close()
