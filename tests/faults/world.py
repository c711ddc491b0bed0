"""Workers and producers of the application of these tests, each in a process of its own, and their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kombu import Connection
from redis import Redis
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from celery_asynctask.journal import Directory, Segment, frame
from celery_asynctask.journal.names import KEPT, LOCK_NAME, PAGE, SUFFIX
from celery_asynctask.settings import Settings
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt, AsyncTaskSource
from tests import services
from tests.faults.notes import Notebook
from tests.faults.proc import holder, kill_tree, send, session_of, wait_gone
from tests.pace import patience
from tests.services import apart
from tests.waiting import wait_for

START_SECONDS = 60
STOP_SECONDS = 60


class World:
    """Everything that belongs to one test: a queue, a journal, a store, notes, processes."""

    def __init__(
        self, directory: Path, store: str, broker: str = "redis", journal: Path | None = None, **environment: str
    ) -> None:
        self.directory = directory
        self.store = store
        self.queue = f"faults-{uuid.uuid4().hex[:12]}"
        self.broker = services.redis_url(8) if broker == "redis" else services.amqp_url()
        self.runs = Notebook(directory / "runs.txt")
        self.asks = Notebook(directory / "asks.txt")
        self.settings = Settings(url=store, journal_dir=journal or directory / "journal", flush_interval=0.1)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environment = {
            "FAULTS_BROKER": self.broker,
            "FAULTS_BACKEND": services.redis_url(9),
            "FAULTS_STORE": store,
            "FAULTS_JOURNAL": str(self.journal),
            "FAULTS_QUEUE": self.queue,
            "FAULTS_VISIBILITY": "3600",
            "FAULTS_NOTES": str(self.runs.path),
            "FAULTS_ASKS": str(self.asks.path),
            **environment,
        }

    @property
    def journal(self) -> Path:
        return self.settings.directory

    def start(self, name: str, *arguments: str, **environment: str) -> tuple[subprocess.Popen[bytes], Path]:
        """A Python process in a process group of its own, with its log."""
        log = self.directory / f"{name}-{uuid.uuid4().hex[:6]}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **self.environment, **environment},
            )
        self.processes.append(process)
        return process, log

    def worker(self, *options: str, **environment: str) -> Worker:
        """A worker that has begun to start."""
        name = f"faults-{uuid.uuid4().hex[:8]}@localhost"
        arguments = ("-m", "celery", "-A", "tests.faults.app", "worker", "-l", "INFO", "-n", name)
        return Worker(
            *self.start("worker", *arguments, "--without-gossip", "--without-mingle", *options, **environment)
        )

    def elected(self) -> int | None:
        """The process that records at present."""
        return holder(self.journal / LOCK_NAME)

    def segments(self) -> list[Segment]:
        return Directory(self.journal, self.settings.store_id).segments()

    def waiting(self) -> int:
        """Messages in the queue; on Redis, which knows no dead workers, with those that workers hold. Those that are
        held for too long are given back."""
        options = apart(self.broker, self.queue)["broker_transport_options"]
        options["visibility_timeout"] = int(self.environment["FAULTS_VISIBILITY"])
        with Connection(self.broker, transport_options=options) as connection:
            count = int(connection.SimpleQueue(self.queue).queue.queue_declare().message_count)
            if connection.transport.driver_type == "redis":
                channel: Any = connection.default_channel
                channel.qos.restore_visible(num=None, interval=1)
                count += channel.client.hlen(options["unacked_key"])
            return count

    @contextmanager
    def session(self) -> Iterator[Session]:
        engine = create_engine(self.store)
        try:
            with Session(engine, expire_on_commit=False) as session:
                yield session
        finally:
            engine.dispose()

    def rows(self) -> list[AsyncTask]:
        with self.session() as session:
            return list(session.scalars(select(AsyncTask)))

    def attempts(self, of: Collection[str] | None = None) -> list[AsyncTaskAttempt]:
        """The attempts of these tasks; None: of all."""
        query = select(AsyncTaskAttempt).order_by(AsyncTaskAttempt.run_key)
        with self.session() as session:
            return list(session.scalars(query if of is None else query.where(AsyncTaskAttempt.celery_task_id.in_(of))))

    def check_ledger(self) -> list[AsyncTaskSource]:
        """Check that the events of every process are accounted for, and return the processes."""
        with self.session() as session:
            sources = list(session.scalars(select(AsyncTaskSource)))
        wrong = [
            (source.source, source.role, source.last_number, source.stored, source.quarantined, source.dropped)
            for source in sources
            if source.last_number != source.stored + source.quarantined
        ]
        assert not wrong, f"ledgers that do not add up: {wrong}; {[self.files_of(source[0]) for source in wrong]}"
        return sources

    def files_of(self, source: str) -> list[tuple[str, list[int]]]:
        """The files that a process has in the journal, and the numbers of its events in them."""
        directory = Directory(self.journal, self.settings.store_id)
        files = []
        for path in sorted(directory.paths(SUFFIX, KEPT, PAGE)):
            if path.name.startswith(source):
                data = path.read_bytes()
                files.append((str(path), frame.scan(data, len(data)).numbers))
        return files

    def unsettled(self) -> list[tuple[str, str, int, str]]:
        """The processes that have no last word in the ledger, with their files."""
        with self.session() as session:
            sources = list(session.scalars(select(AsyncTaskSource).where(AsyncTaskSource.settled_at.is_(None))))
        return [(one.source, one.role, one.last_number, str(self.files_of(one.source))) for one in sources]

    def close(self) -> None:
        """End everything that still runs, and leave nothing in the broker."""
        for process in self.processes:
            if process.poll() is None:
                kill_tree(process.pid)
                process.wait()
            while left := session_of(process.pid):  # they may fork meanwhile
                send(left, signal.SIGKILL)
                wait_gone(left)
        with Redis.from_url(self.environment["FAULTS_BACKEND"]) as results:
            for task_id in {note.task_id for note in (*self.runs.read(), *self.asks.read())}:
                results.delete(f"celery-task-meta-{task_id}")
        with Connection(self.broker) as connection:
            services.forget(connection, self.queue)


class Worker:
    """A worker process and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self.pid = process.pid

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace", encoding="utf-8")

    def ready(self) -> bool:
        assert self.process.poll() is None, f"the worker ended with {self.process.returncode}:\n{self.text}"
        return " ready." in self.text

    def wait_ready(self) -> Worker:
        wait_for(self.ready, START_SECONDS, f"the worker to be ready; its log is {self.log}")
        return self

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """End it and wait for it. Returns its exit code; one that does not end is an error."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        try:
            return self.process.wait(patience(STOP_SECONDS))
        except subprocess.TimeoutExpired:
            kill_tree(self.pid)
            self.process.wait()
            raise AssertionError(
                f"the worker did not end within {patience(STOP_SECONDS):.0f} s; its log:\n{self.text}"
            ) from None


def by_task(things: Any) -> dict[str, list[Any]]:
    """Notes or attempts by their task, in order."""
    by_id: dict[str, list[Any]] = {}
    for thing in things:
        by_id.setdefault(getattr(thing, "task_id", None) or thing.celery_task_id, []).append(thing)
    return by_id
