"""A worker in a process of its own, the application that talks to it, and the rows that it left."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery import _state
from kombu import pools
from opentelemetry import trace
from sqlalchemy import Engine, create_engine, func, inspect, or_, select
from sqlalchemy.orm import Session

from celery_asynctask import AsyncTask, AsyncTaskAttempt, context
from celery_asynctask.capture import tracing
from tests import services
from tests.pace import patience
from tests.waiting import wait_for

ANY: Any = object()
"""Not checked: a race decides it, or another test checks it."""
START_SECONDS = 40
"""A worker imports Celery and forks. It takes longer only on a machine in trouble."""
STOP_SECONDS = 60
"""Longer than any task of the suite runs, and longer than the 30 s that a child waits for its parent to read a result
that a warm shutdown keeps it from reading (billiard 4.3, pool.py, _ensure_messages_consumed)."""


Shape = Callable[["World"], Any]


@dataclass
class Plan:
    """The broker of a worker, and the store of its rows."""

    broker: str
    backend: str
    store: str
    directory: Path
    transport: str = ""
    tracing: str = ""
    """The state of OpenTelemetry's instrumentation of Celery: off, active before us, after us (in the children, or late
    in the main process), or with span links."""
    queue: str = field(default_factory=lambda: f"shapes-{uuid.uuid4().hex[:12]}")

    def environment(self) -> dict[str, str]:
        return {
            "SHAPES_BROKER": self.broker,
            "SHAPES_BACKEND": self.backend,
            "SHAPES_STORE": self.store,
            "SHAPES_JOURNAL": str(self.directory / "journal"),
            "SHAPES_TRANSPORT": self.transport,
            "SHAPES_QUEUE": self.queue,
            "SHAPES_TRACING": self.tracing,
            "SHAPES_SPANS": str(self.directory / "spans"),
        }


class World:
    """The application in this process, a producer, and a view of the store."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        os.environ.update(plan.environment())
        sys.modules.pop("tests.workers.app", None)
        self._shared = set(_state._on_app_finalizers)
        self.tasks = importlib.import_module("tests.workers.app")
        self.app = self.tasks.app
        self.app.finalize()
        # Not in each thread: a provider changes the filters of warnings, and so does pytest in its own threads.
        self.tracer = trace.get_tracer("tests")
        self.log = plan.directory / "celery.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.workers = 0
        """The number of running worker processes."""
        self.others: list[Any] = []
        """Further applications that a shape created; they are closed with this one."""
        # Few for all shapes: PostgreSQL takes 100 connections, and several of these worlds use one server.
        self.engine: Engine = create_engine(plan.store, pool_size=4, max_overflow=0, pool_timeout=patience(60))

    @property
    def has_native_chords(self) -> bool:
        """Whether the child of the last header task sends a chord's body; otherwise celery.chord_unlock does."""
        return self.plan.backend.startswith("redis")

    def run(self, shape: Shape) -> None:
        """Run a shape in this thread, for a customer and in a trace of its own. It closes the result backend that
        Celery opened, because a backend belongs to a thread."""
        name = getattr(shape, "__name__", "shape")
        customer = zlib.crc32(name.encode())
        try:
            with (
                self.tracer.start_as_current_span(name),
                context(customer=customer, created_by=7, created_by_name=name, content={"shape": name}),
            ):
                shape(self)
        finally:
            self.forget_results()

    def forget_results(self) -> None:
        """Close this thread's open result backend."""
        if self.has_native_chords:
            self.app.backend.result_consumer.stop()
            self.app.backend.client.connection_pool.disconnect()

    def expected_trace(self) -> Any:
        """The trace of the tasks that this thread sends."""
        if self.plan.tracing == "links":
            return ANY  # each attempt begins a trace of its own
        ids = tracing.current()
        return ids.trace if ids is not None else None

    def close(self) -> None:
        from celery_asynctask import uninstall

        uninstall(self.app)
        self.unshare_tasks()
        with self.app.connection_for_write() as connection:
            services.forget(connection, self.plan.queue)
        for app in (self.app, *self.others):
            app.pool.force_close_all()
            app.close()
        pools.reset()  # kombu keeps them by URL, even closed ones
        self.engine.dispose()

    def unshare_tasks(self) -> None:
        """Keep the tasks from later apps of the process, which would get them, too."""
        _state._on_app_finalizers.intersection_update(self._shared)

    @contextmanager
    def worker(self, *options: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """A running worker with its log in ``self.log``. It is stopped warmly at the end, and killed if that fails."""
        log = self.log = self.plan.directory / f"worker-{uuid.uuid4().hex[:6]}.log"
        name = f"{log.stem}@localhost"
        options = ("worker", "-l", "INFO", "-n", name, "--without-gossip", "--without-mingle", *options)
        process = self.process = self.celery(*options, **environment)
        self.workers += 1
        try:
            wait_for(lambda: ready(process, log), START_SECONDS, f"the worker to be ready; its log is {log}")
            if not environment:
                wait_for(lambda: inspect(self.engine).has_table("async_task_version"), START_SECONDS, "the tables")
            yield process
        finally:
            self.process = None
            self.workers -= 1
            stop(process)

    def celery(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """A ``celery`` command for the application, with its output in ``self.log``."""
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "tests.workers.app", *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.plan.environment(), **environment},
            )

    def wait_until_idle(self) -> None:
        """Wait until the worker has read its children's messages. A result is visible elsewhere earlier; see
        `STOP_SECONDS`."""
        name = f"{self.log.stem}@localhost"
        inspect_ = self.app.control.inspect([name], timeout=patience(5), limit=1)
        wait_for(lambda: inspect_.active() == {name: []}, 20, "the worker to be idle")

    # -- rows ------------------------------------------------------------------

    def row(self, task_id: str) -> AsyncTask | None:
        with Session(self.engine, expire_on_commit=False) as session:
            return session.scalar(select(AsyncTask).where(AsyncTask.celery_task_id == task_id))

    def attempts(self, task_id: str) -> Sequence[AsyncTaskAttempt]:
        with Session(self.engine, expire_on_commit=False) as session:
            query = select(AsyncTaskAttempt).where(AsyncTaskAttempt.celery_task_id == task_id)
            return session.scalars(query.order_by(AsyncTaskAttempt.run_key)).all()

    def check_worker(self) -> None:
        """Fail at once, rather than at a deadline, if the worker is gone."""
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"the worker ended with {self.process.returncode}; its log is {self.log}")

    def workflow(self, task_ids: list[str]) -> Sequence[AsyncTask]:
        """Rows that have one of the ids as their id, root or parent."""
        with Session(self.engine, expire_on_commit=False) as session:
            columns = (AsyncTask.celery_task_id, AsyncTask.root_task_id, AsyncTask.parent_task_id)
            return session.scalars(select(AsyncTask).where(or_(*(column.in_(task_ids) for column in columns)))).all()

    def wait(self, task_id: str, status: str, seconds: float = 30) -> AsyncTask:
        """The row, once it has the status."""

        def there() -> Any:
            self.check_worker()
            row = self.row(task_id)
            return row if row is not None and row.status == status else None

        matching: AsyncTask = wait_for(there, seconds, f"{task_id} to be {status}; it is {self.row(task_id)}")
        return matching

    def count(self) -> int:
        with Session(self.engine) as session:
            return session.scalar(select(func.count()).select_from(AsyncTask)) or 0


def ready(process: subprocess.Popen[bytes], log: Path) -> bool:
    text = log.read_text(errors="replace", encoding="utf-8")
    if process.poll() is not None:
        raise AssertionError(f"the worker ended with {process.returncode} before it was ready:\n{text}")
    return " ready." in text


def stop(process: subprocess.Popen[bytes], signum: int = signal.SIGTERM) -> int:
    """End the worker and wait for it; returns its exit code. One that does not end is killed, and that is an error."""
    if process.poll() is None:
        process.send_signal(signum)
    try:
        return process.wait(patience(STOP_SECONDS))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError(
            f"the worker did not end within {patience(STOP_SECONDS):.0f} s of signal {signum}"
        ) from None
