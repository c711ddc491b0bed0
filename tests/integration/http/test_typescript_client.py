"""A client as users have it: generated from the document, compiled by TypeScript, run by Node, for the rows of a real
worker."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from sqlalchemy import create_engine, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from celery_asynctask import AsyncTask
from tests import services
from tests.integration.commands import Project
from tests.integration.generator import generate
from tests.integration.http.client import grant
from tests.pace import patience
from tests.tokens import token_of
from tests.waiting import wait_for

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).parent / "data" / "client.ts"
PACKAGES = {"axios": "1.18.0", "typescript": "5.9.3", "@types/node": "20.19.43"}
SINGLE = "--additional-properties=useSingleRequestParameter=true"
"""Parameters by name: the list has 25."""
SECONDS = 120
SOURCE = """
from celery import Celery

app = Celery("proj", task_cls="celery_asynctask:RecordedTask")
app.conf.update({settings!r})


@app.task
def add(x, y):
    return x + y


@app.task(bind=True, max_retries=1)
def fail(self, order):
    if not self.request.retries:
        raise self.retry(exc=KeyError("once more"), countdown=0)
    raise ValueError("no stock")
"""
SEND = """
from celery import chain
from celery_asynctask import context
from proj import add, fail

with context(customer=42, created_by=7, created_by_name="Ada", content={"order": 1}):
    failed = fail.delay({"id": 2**53 - 1})
chained = chain(add.s(1, 2), add.s(3)).delay()
print(failed.id, chained.id)
"""


def need_node() -> None:
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    services.need(not missing, f"{' and '.join(missing)} not on the PATH")


@contextmanager
def process(project: Project, *arguments: str) -> Iterator[Callable[[], str]]:
    """``celery -A proj <arguments>`` while the block runs, then stopped warmly; yields its output so far."""
    log = project.path / f"{arguments[0]}-{arguments[1]}.log"
    with log.open("wb") as output:
        running = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "proj", *arguments],
            cwd=project.path,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def printed() -> str:
        text = log.read_text(errors="replace", encoding="utf-8")
        assert running.poll() is None, text
        return text

    try:
        yield printed
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            assert running.wait(patience(30)) in (0, -signal.SIGTERM), log.read_text(errors="replace", encoding="utf-8")
        finally:
            running.kill()
            running.wait()


@pytest.fixture
def url() -> Iterator[str]:
    with services.fresh_database(services.postgresql_url()) as made:
        yield made


@pytest.fixture
def project(url: str, tmp_path: Path) -> Iterator[Project]:
    """Its tasks go through Redis, its rows to PostgreSQL."""
    broker, queue = services.redis_url(), f"client-{uuid.uuid4().hex[:12]}"
    yield Project(
        tmp_path,
        SOURCE,
        broker_url=broker,
        result_backend=broker,
        task_default_queue=queue,
        asynctask_url=url,
        asynctask_journal_dir=str(tmp_path / "journal"),
        asynctask_flush_interval=0.1,
        asynctask_tokens={"admin": grant("admin")},
    )
    with Connection(broker) as connection:  # the worker's bindings and remaining messages
        connection.default_channel.queue_delete(queue)


def rows(url: str) -> list[AsyncTask]:
    engine = create_engine(url)
    try:
        with Session(engine) as session:
            return list(session.scalars(select(AsyncTask)))
    except SQLAlchemyError:  # no tables yet
        return []
    finally:
        engine.dispose()


def record(project: Project, url: str) -> list[str]:
    """Run some tasks; returns the ids of a failed one and of the last one of a chain."""
    with process(project, "worker", "-c2", "-l", "INFO", "--without-gossip", "--without-mingle") as printed:
        wait_for(lambda: " ready." in printed(), SECONDS, "the worker")
        sent = subprocess.run(
            [sys.executable, "-c", SEND],
            cwd=project.path,
            capture_output=True,
            encoding="utf-8",
            check=True,
            timeout=patience(SECONDS),
        )

        def all_over() -> bool:
            printed()
            return [task.completed_at is not None for task in rows(url)] == [True] * 3

        wait_for(all_over, SECONDS, "three tasks to be over")
    return sent.stdout.split()


def compiled(project: Project) -> Path:
    """The program, with a client for the output of ``celery asynctask openapi``."""
    printed = project.run("openapi")
    assert printed.code == 0, printed.err
    client = generate(json.loads(printed.out), project.path, SINGLE)
    directory = project.path / "program"
    shutil.copytree(client, directory / "client", ignore=lambda _, names: {"package.json", "tsconfig.json", "docs"})
    shutil.copy(PROGRAM, directory / "main.ts")
    (directory / "package.json").write_text(json.dumps({"private": True, "dependencies": PACKAGES}), encoding="utf-8")
    run(directory, "npm", "install", "--no-audit", "--no-fund", "--ignore-scripts")
    options = ["--strict", "--target", "es2020", "--module", "commonjs", "--types", "node", "--outDir", "built"]
    run(directory, str(directory / "node_modules" / ".bin" / "tsc"), *options, "main.ts")
    return directory / "built" / "main.js"


def run(directory: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=directory, capture_output=True, encoding="utf-8", timeout=patience(SECONDS), check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def test_the_generated_client_reads_what_a_worker_wrote(project: Project, url: str, tmp_path: Path) -> None:
    need_node()
    failed, chained = record(project, url)
    program = compiled(project)
    with process(project, "asynctask", "serve", "--port", "0") as printed:
        match = wait_for(lambda: re.search(r"http://[0-9.:]+", printed()), SECONDS, "the server")
        output = json.loads(run(tmp_path, "node", str(program), match[0], token_of("admin"), failed, chained))
    check(output, {task.celery_task_id: task for task in rows(url)}, failed, chained)


def check(output: dict[str, Any], stored: dict[str, AsyncTask], failed: str, chained: str) -> None:
    [failure] = output["failures"]["results"]
    assert failure == output["detail"] == output["byNumber"]
    row = stored[failed]
    assert (failure["id"], failure["celeryTaskId"], failure["name"]) == (row.id, failed, "proj.fail")
    assert (failure["status"], failure["errorType"], failure["errorMessage"]) == ("FAILURE", "ValueError", "no stock")
    assert (failure["customer"], failure["createdBy"], failure["createdByName"]) == (42, 7, "Ada")
    assert (failure["taskArgs"], failure["content"]) == ([{"id": 2**53 - 1}], {"order": 1})
    assert failure["createdAt"] == f"{row.created_at:%Y-%m-%dT%H:%M:%S.%f}Z"
    oldest = [one.celery_task_id for one in sorted(stored.values(), key=lambda one: (one.created_at, one.id))]
    assert (output["oldest"], output["newest"]) == (oldest, oldest[::-1])
    assert output["unchanged"]["status"] == 304
    attempts = output["attempts"]["results"]
    assert [(one["attempt"], one["outcome"], one["errorType"]) for one in attempts] == [
        (1, "retried", "KeyError"),
        (2, "failed", "ValueError"),
    ]
    first, second = output["workflow"]["results"]
    assert (second["celeryTaskId"], second["parentTaskId"]) == (chained, first["celeryTaskId"])
    assert (first["depth"], second["depth"], output["workflow"]["complete"]) == (0, 1, True)
    counted = {one["name"]: (one["tasks"], one["failed"], one["retries"]) for one in output["stats"]["results"]}
    assert counted == {"proj.add": (2, 0, 0), "proj.fail": (1, 1, 1)}
    assert output["health"]["ledger"]["complete"] is True
    assert output["badCursor"]["status"] == 422
    assert output["badCursor"]["problem"]["parameter"] == "cursor"
    assert output["badCursor"]["problem"]["type"] == "urn:problem-type:celery-asynctask:invalid-parameter"
    assert (output["notThere"]["status"], output["noToken"]["status"]) == (404, 401)
    assert output["preview"]["rerunOf"] == failed
    assert output["preview"]["celeryTaskId"] is None
    assert output["counted"] == {"due": 0, "tasks": 0, "attempts": 0, "complete": True}
