"""A task that is registered with two recorded apps, and belongs to the second."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, Task
from redis import Redis
from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import OperationalError

from celery_asynctask import install, uninstall
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt, AsyncTaskSource
from tests import services
from tests.integration.commands import SECONDS
from tests.pace import patience
from tests.waiting import wait_for
from tests.workers import harness

PROJECT = """
from celery import Celery, Task
from celery_asynctask import install

class Shared(Task):
    name = "shared"

    def run(self, number):
        return number

shared = Shared()
first, second = Celery("first"), Celery("second")
for app in (first, second):
    app.conf.update({settings!r})
    install(app)
    app.register_task(shared)
"""
WITHOUT = ("--without-gossip", "--without-mingle", "--without-heartbeat")


def rows(url: str) -> list[Any]:
    """Status, arguments and result of each task that has ended, and its attempts' starts, ends and workers."""
    engine = create_engine(url)
    columns = (AsyncTask.status, AsyncTask.task_args, AsyncTask.result, AsyncTask.started_at)
    attempt = (AsyncTaskAttempt.started_at, AsyncTaskAttempt.ended_at, AsyncTaskAttempt.worker)
    joined = select(*columns, *attempt).join(
        AsyncTaskAttempt, AsyncTaskAttempt.celery_task_id == AsyncTask.celery_task_id
    )
    try:
        with engine.connect() as connection:
            return list(connection.execute(joined.where(AsyncTask.completed_at.is_not(None))).all())
    except OperationalError:  # the recorder has not created the tables yet
        return []
    finally:
        engine.dispose()


@pytest.mark.broker
@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_a_worker_of_the_first_records_it_whole(tmp_path: Path, pool: str) -> None:
    broker, queue, url = services.redis_url(7), f"apps-{uuid.uuid4().hex[:12]}", f"sqlite:///{tmp_path / 'rows.db'}"
    settings = {
        "broker_url": broker,
        "task_default_queue": queue,
        "asynctask_url": url,
        "asynctask_journal_dir": str(tmp_path / "journal"),
        "asynctask_flush_interval": 0.05,
    }
    (tmp_path / "proj.py").write_text(PROJECT.format(settings=settings), encoding="utf-8")
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "celery", "-A", "proj:first", "worker", "-P", pool, "-c", "1", "-l", "INFO"]
        process = subprocess.Popen([*command, *WITHOUT], cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: harness.ready(process, log), harness.START_SECONDS, f"the worker; its log is {log}")
        send = [sys.executable, "-c", "from proj import shared; shared.delay(7)"]
        subprocess.run(send, cwd=tmp_path, check=True, timeout=patience(SECONDS))
        [row] = wait_for(lambda: rows(url), SECONDS, "the task's end")
        assert row[:3] == ("SUCCESS", [7], 7)
        assert None not in row[3:]
    finally:
        harness.stop(process)
        with Redis.from_url(broker) as redis:
            redis.delete(queue, f"_kombu.binding.{queue}")


class Nothing(Task):
    """The tasks that are registered with both."""

    name = "nothing"

    def run(self) -> None: ...


def test_a_loader_that_they_share_records_a_start_once(tmp_path: Path) -> None:
    """It calls for each of them."""
    url = f"sqlite:///{tmp_path / 'rows.db'}"
    first, second = (Celery(name, broker="memory://", set_as_current=False) for name in ("first", "second"))
    second.loader = first.loader
    task = Nothing()
    for app in (first, second):
        app.conf.update(asynctask_url=url, asynctask_journal_dir=tmp_path / "journal")
        install(app)
        app.register_task(task)
    task.apply()
    for app in (first, second):
        uninstall(app)
        app.close()
    [row] = rows(url)
    assert (row[0], None in row[3:6]) == ("SUCCESS", False)
    engine = create_engine(url)
    with engine.connect() as connection:
        assert connection.scalar(select(func.sum(AsyncTaskSource.stored))) == 1, "an end, which carries one start"
    engine.dispose()
