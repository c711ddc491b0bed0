"""The application that meets the faults. Every body notes its own attempts in a file. The environment configures it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from celery import Celery, signals

from tests.faults.notes import Notebook
from tests.services import apart

QUEUE = os.environ["FAULTS_QUEUE"]
notebook = Notebook(Path(os.environ["FAULTS_NOTES"]))

app = Celery("faults", task_cls="celery_asynctask:RecordedTask")
app.conf.update(
    broker_url=os.environ["FAULTS_BROKER"],
    result_backend=os.environ["FAULTS_BACKEND"],
    result_expires=600,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    worker_prefetch_multiplier=4,
    asynctask_url=os.environ["FAULTS_STORE"],
    asynctask_journal_dir=os.environ["FAULTS_JOURNAL"],
    asynctask_flush_interval=0.1,
    asynctask_enabled=os.environ.get("FAULTS_ENABLED", "1") == "1",
    asynctask_create_tables=os.environ.get("FAULTS_CREATE_TABLES", "1") == "1",
)
app.conf.update(apart(os.environ["FAULTS_BROKER"], QUEUE))
if os.environ["FAULTS_BROKER"].startswith("redis"):
    app.conf.broker_transport_options |= {
        "visibility_timeout": int(os.environ["FAULTS_VISIBILITY"]),
        "unacked_mutex_expire": 5,  # a worker that is killed while it gives back messages holds it
    }

LATE = {"acks_late": True, "reject_on_worker_lost": True}


def note(task: Any, what: str) -> None:
    request = task.request
    redelivered = bool((request.delivery_info or {}).get("redelivered"))
    notebook.write(what, request.id, task.name.rpartition(".")[2], request.retries or 0, redelivered)


def work(task: Any, seconds: float) -> str:
    note(task, "start")
    time.sleep(seconds)
    note(task, "end")
    return "done"


@app.task(bind=True)
def early(self: Any, seconds: float) -> str:
    return work(self, seconds)


@app.task(bind=True, **LATE)
def late(self: Any, seconds: float) -> str:
    return work(self, seconds)


@app.task(bind=True, ignore_result=True)
def silent(self: Any, seconds: float) -> str:
    return work(self, seconds)


@app.task(bind=True)
def fail(self: Any, seconds: float) -> None:
    note(self, "start")
    time.sleep(seconds)
    note(self, "fail")
    raise ValueError("as designed")


@app.task(bind=True, max_retries=9)
def again(self: Any, seconds: float, times: int) -> str:
    return _again(self, seconds, times)


@app.task(bind=True, max_retries=9, **LATE)
def again_late(self: Any, seconds: float, times: int) -> str:
    return _again(self, seconds, times)


def _again(self: Any, seconds: float, times: int) -> str:
    if self.request.retries >= times:
        return work(self, seconds)
    note(self, "start")
    time.sleep(seconds)
    note(self, "retry")
    raise self.retry(exc=KeyError("again"), countdown=0)


@app.task(bind=True)
def leave(self: Any) -> None:
    """Ends its process without any clean-up code."""
    note(self, "start")
    os._exit(3)


if os.environ.get("FAULTS_THREADS"):

    @signals.worker_init.connect(weak=False)
    def busy_threads(**_: Any) -> None:
        """Threads of the parent that send tasks while it forks, so that locks of every kind are held at a fork."""

        def run() -> None:
            while True:
                early.apply_async((0,), ignore_result=True)
                time.sleep(0.05)

        for _number in range(3):
            threading.Thread(target=run, daemon=True).start()
