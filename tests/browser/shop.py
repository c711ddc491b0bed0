"""A project whose tasks leave all that the console can show, and the processes that run it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from kombu import Connection
from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from celery_asynctask import AsyncTask
from tests import services
from tests.integration.commands import Project
from tests.integration.http.client import OURS, THEIRS, grant
from tests.pace import patience
from tests.waiting import wait_for

SECONDS = 60
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\u202egnp.exe"
SOURCE = """
import time
from pathlib import Path
from celery import Celery, chain, chord, group

app = Celery("proj", task_cls="celery_asynctask:RecordedTask")
app.conf.update({settings!r})
HOSTILE = {hostile!r}


@app.task(name="shop.charge", bind=True, max_retries=1)
def charge(self, order, amount):
    if order == 13:
        raise ValueError(f"card of order {{order}} was refused: {{HOSTILE}}")
    if not self.request.retries and order == 7:
        raise self.retry(exc=TimeoutError("the bank did not answer"), countdown=0.1)
    return {{"order": order, "amount": amount, "receipt": 2**70}}


@app.task(name="shop.pack")
def pack(paid, order=None):
    return {{"packed": order, "note": HOSTILE, "deep": deep(50), "long": "x" * 1_000_000}}


@app.task(name="shop.ship")
def ship(packed):
    return "shipped"


@app.task(name="shop.report")
def report(results):
    return len(results)


@app.task(name="shop.wait")
def wait(until):
    deadline = time.monotonic() + {seconds}
    while not Path(until).exists() and time.monotonic() < deadline:
        time.sleep(0.02)


@app.task(name=HOSTILE[:60])
def hostile(value):
    raise RuntimeError(HOSTILE + "\\0 and NUL")


def deep(levels):
    return levels and {{"level": levels, "below": deep(levels - 1)}}
"""
SEND = """
import sys
from celery import chain, chord, group
from celery_asynctask import context
from proj import *

content = {"order": 1, "number": 12345678901234567890}
with context(customer=42, created_by=7, created_by_name="Ada Lovelace", content=content):
    shipped = chain(charge.s(1, 10), pack.s(order=1), ship.s()).delay()
    print(shipped.parent.parent.id, shipped.parent.id)
    print(chain(charge.s(13, 20), pack.s(order=13), ship.s()).delay().parent.parent.id)
    charge.delay(7, 30)
    print(chord([charge.s(n, n) for n in range(20, 25)])(report.s()).id)
with context(customer=43, created_by_name="Grace Hopper"):
    print(hostile.delay(HOSTILE).id)
"""
SENT = 14
"""Rows that `SEND` leaves: two chains of three, a task, a chord of five with its body, and one more."""


class Shop:
    """The running project and its address."""

    def __init__(self, project: Project, url: str, address: str, ids: list[str]) -> None:
        self.project = project
        self.url = url
        self.address = address
        self.ids = dict(zip(("chain", "pack", "broken", "chord", "hostile"), ids, strict=True))
        self.chain, self.broken = self.ids["chain"], self.ids["broken"]

    def send(self, code: str) -> str:
        """Run a line of Python in the project; what it prints."""
        done = subprocess.run(
            [sys.executable, "-c", f"from proj import *\n{code}"],
            cwd=self.project.path,
            capture_output=True,
            encoding="utf-8",
            check=True,
            timeout=patience(SECONDS),
        )
        return done.stdout.strip()

    def count(self, *conditions: Any) -> int:
        """Rows that match all conditions."""
        return count(self.url, *conditions)


def count(url: str, *conditions: Any) -> int:
    engine = create_engine(url)
    try:
        with Session(engine) as session:
            return session.scalar(select(func.count()).select_from(AsyncTask).where(*conditions)) or 0
    except SQLAlchemyError:  # no tables yet
        return 0
    finally:
        engine.dispose()


@contextmanager
def shop(directory: Path) -> Iterator[Shop]:
    """A worker on Redis that records into PostgreSQL, the tasks that it ran, and a server of the console."""
    queue, broker = f"shop-{uuid.uuid4().hex[:12]}", services.redis_url(6)
    with ExitStack() as stack:
        url = stack.enter_context(services.fresh_database(services.postgresql_url()))
        settings: Mapping[str, Any] = {
            "broker_url": broker,
            "result_backend": broker,
            "task_default_queue": queue,
            "asynctask_url": url,
            "asynctask_journal_dir": str(directory / "journal"),
            "asynctask_flush_interval": 0.1,
            "asynctask_tokens": {
                "admin": grant("admin"),
                "ours": grant("ours", [OURS]),
                "theirs": grant("theirs", [THEIRS], ("read",)),
            },
            "asynctask_trace_url": "https://traces.example/{trace_id}",
        }
        source = SOURCE.replace("{hostile!r}", repr(HOSTILE)).replace("{seconds}", str(patience(SECONDS)))
        project = Project(directory, source, **settings)
        worker = stack.enter_context(running(project, "worker", "-c2", "-l", "INFO", "--without-gossip"))
        stack.callback(forget, broker, queue)
        wait_for(lambda: " ready." in worker.read_text(errors="replace", encoding="utf-8"), SECONDS, "the worker")
        sent = subprocess.run(
            [sys.executable, "-c", SEND],
            cwd=directory,
            capture_output=True,
            encoding="utf-8",
            check=True,
            timeout=patience(SECONDS),
        )
        over = AsyncTask.completed_at.is_not(None)
        wait_for(lambda: count(url, over) >= SENT, SECONDS, f"all tasks to be over; see {worker}")
        server = stack.enter_context(running(project, "asynctask", "serve", "--port", "0"))

        def address() -> Any:
            return re.search(r"http://\S+:[0-9]+", server.read_text(encoding="utf-8"))

        server_url = wait_for(address, SECONDS, f"the server; its log is {server}")[0].replace("127.0.0.1", "localhost")
        wait_for(lambda: answers(server_url), SECONDS, "an answer")
        yield Shop(project, url, server_url, sent.stdout.split())


@contextmanager
def running(project: Project, command: str, *arguments: str) -> Iterator[Path]:
    """``celery <command>`` while the block runs; its log."""
    log = project.path / f"{command}.log"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "proj", command, *arguments],
            cwd=project.path,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield log
        assert process.poll() is None, log.read_text(errors="replace", encoding="utf-8")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(patience(SECONDS))
        finally:
            process.kill()
            process.wait()


def answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health").status_code > 0
    except httpx.TransportError:
        return False


def forget(broker: str, queue: str) -> None:
    with Connection(broker) as connection:  # bindings that the worker made, and what it left
        connection.default_channel.queue_delete(queue)


__all__ = ["HOSTILE", "SECONDS", "Shop", "count", "shop"]
