"""uWSGI, which loads an application and then forks its workers without telling Python."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.proc import descendants, kill_tree, send, wait_gone
from tests.faults.server import free_port
from tests.integration.capture.test_unhooked import stored
from tests.integration.commands import Project
from tests.pace import patience
from tests.waiting import wait_for

APPLICATION = """
import json, os, threading
from celery import Celery
from celery_asynctask import install
from celery_asynctask.capture.instrumentation import instrumentation_of

app = Celery("proj", broker="memory://")
app.conf.update({settings!r})
install(app)

@app.task(name="proj.add")
def add(number):
    return number

add.delay(0)  # where the application is loaded
loader = threading.active_count()

def application(environ, start_response):
    add.delay(int(environ["QUERY_STRING"]))
    mine = instrumentation_of(app)
    start_response("200 OK", [("Content-Type", "application/json")])
    seen = dict(pid=os.getpid(), source=mine.journal.source, runs=mine.outlet.recorder.is_running, loader=loader)
    return [json.dumps(seen).encode()]
"""
SERVE = "import sys, pyuwsgi; pyuwsgi.run(sys.argv[1:])"
WAYS = {
    "preforked": ("--master",),
    "with threads": ("--master", "--enable-threads", "--threads", "2"),
    "without a master": ("--enable-threads",),
    "loaded by each worker": ("--master", "--enable-threads", "--lazy-apps"),
}


@contextmanager
def served(path: Path, *options: str) -> Iterator[int]:
    """The port of a uWSGI with two workers."""
    port, log = free_port(), path / "uwsgi.log"
    given = ("--http-socket", f"127.0.0.1:{port}", "--wsgi", "proj", "--processes", "2", "--need-app", "--die-on-term")
    with log.open("wb") as output:
        command = [sys.executable, "-c", SERVE, *given, *options]
        process = subprocess.Popen(command, cwd=path, stdout=output, stderr=subprocess.STDOUT)
    try:

        def is_ready() -> bool:
            text = log.read_text(encoding="utf-8")
            assert process.poll() is None, text
            return text.count("spawned uWSGI worker ") == 2

        wait_for(is_ready, 30, f"uWSGI; its log is {log}")
        yield port
        workers = descendants(process.pid)
        process.terminate()
        process.wait(patience(20))
        send(workers, signal.SIGTERM)  # without a master, the first worker ends alone
        wait_gone(workers)
    finally:
        if process.poll() is None:
            kill_tree(process.pid)
            process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_each_worker_is_a_process_of_its_own(tmp_path: Path, way: str) -> None:
    url = f"sqlite:///{tmp_path / 'asynctask.db'}"
    settings: dict[str, Any] = {
        "asynctask_url": url,
        "asynctask_journal_dir": str(tmp_path / "journal"),
        "asynctask_flush_interval": 0.05,
    }
    for name in ("server", "operator"):
        (tmp_path / name).mkdir()
    Project(tmp_path / "server", APPLICATION, **settings)
    operator = Project(tmp_path / "operator", **settings)
    seen: list[dict[str, Any]] = []
    with served(tmp_path / "server", *WAYS[way]) as port, ThreadPoolExecutor(4) as threads:

        def ask(number: int) -> dict[str, Any]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/?{number}", timeout=patience(10)) as answer:
                told: dict[str, Any] = json.load(answer)
                return told

        def both() -> bool:
            seen.extend(threads.map(ask, range(12)))
            return len({one["pid"] for one in seen if one["runs"]}) == 2

        wait_for(both, 20, "both workers to answer, and to have a recorder")
    by_worker = {one["pid"]: one["source"] for one in seen}
    assert {(one["pid"], one["source"]) for one in seen} == set(by_worker.items())
    assert len(set(by_worker.values())) == 2
    loads = 2 if way == "loaded by each worker" else 1
    assert all(one["loader"] == 1 for one in seen) or loads == 2, "a thread where uWSGI forks"

    assert operator.run("recorder", "--once").code == 0
    verified = operator.run("verify")
    assert verified.code == 0, verified.out
    processes, statuses = stored(url)
    assert statuses == {"PENDING": len(seen) + loads}
    assert sum(last for last, _, _ in processes.values()) == len(seen) + loads
    assert all(last == kept for last, kept, _ in processes.values()), processes
    assert set(by_worker.values()) <= processes.keys()
    assert len(processes) == (2 if loads == 2 or way == "without a master" else 3)
