"""Nodes: processes that send tasks to themselves and run them as a worker does, until they are told to stop.

One Python that has everything imported forks them all, so that many nodes start at once. As a module, it is that one.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from celery_asynctask.recorder import Recorder
from celery_asynctask.settings import Settings
from tests.faults.proc import fork, kill_tree, reap, send, wait_gone
from tests.faults.signaled import signaled
from tests.pace import patience
from tests.waiting import wait_for

FLUSH = 0.1
"""Seconds between two flushes of a node."""
START_SECONDS = 30
STOP_SECONDS = 30
DRAIN_SECONDS = 30
FREEZE = signal.SIGUSR1
"""Lets a node freeze in its next transaction, once that has counted its change."""


class Fleet:
    """Nodes on one database."""

    def __init__(
        self, directory: Path, url: str, count: int, *, rate: float, processes: int = 1, life: int = 0
    ) -> None:
        """Each process of a node ends ``rate`` tasks a second. With a ``life``, it leaves them to children, which end
        after so many tasks each."""
        self.directory = directory
        self.url = url
        self.count = count
        self.log_path = directory / "log"
        self._arguments = [str(directory), url, str(count), str(rate), str(processes), str(life)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fleet.nodes", *self._arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        def begun() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.log
            return all(_notes(self.directory, node).exists() for node in range(self.count))

        wait_for(begun, START_SECONDS, f"{self.count} nodes to end their first tasks")

    def stop(self) -> None:
        """Let all end as they would with SIGTERM."""
        process, self._process = self._process, None
        assert process is not None
        process.terminate()
        try:
            code = process.wait(patience(STOP_SECONDS))
        finally:
            self._kill(process)
        assert not code, f"{code} nodes failed; their log:\n{self.log}"

    def close(self) -> None:
        """Kill what still runs."""
        if self._process is not None:
            self._kill(self._process)

    @staticmethod
    def _kill(process: subprocess.Popen[bytes]) -> None:
        pids = kill_tree(process.pid) if process.poll() is None else []
        process.wait()
        wait_gone(pids)

    @property
    def pids(self) -> list[int]:
        """The main processes of the nodes."""
        assert self._process is not None
        return [int(_pid(self.directory, node).read_text(encoding="utf-8")) for node in range(self.count)]

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def ended(self) -> set[str]:
        """The ids of the tasks that have ended."""
        texts = (_notes(self.directory, node).read_text(encoding="utf-8") for node in range(self.count))
        return {line for text in texts for line in text.splitlines()}

    def settings(self, node: int) -> Settings:
        return Settings(url=self.url, journal_dir=_journal(self.directory, node), flush_interval=FLUSH)

    def drain(self) -> None:
        """Store what the nodes have left in their journals, as the next recorder of each would."""
        for node in range(self.count):
            recorder = Recorder(self.settings(node), dedicated=True)
            recorder.start(once=True)
            wait_for(partial(_is_over, recorder), DRAIN_SECONDS, f"the journal of node {node} to be drained")
            assert not recorder.in_trouble, f"the journal of node {node} cannot be drained; the log says why"


@contextmanager
def running(fleet: Fleet) -> Iterator[Fleet]:
    """Nodes that run; they are killed at the end, unless they were stopped."""
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.close()


def _is_over(recorder: Recorder) -> bool:
    return not recorder.is_running


def _journal(directory: Path, node: int) -> Path:
    return directory / str(node) / "journal"


def _notes(directory: Path, node: int) -> Path:
    return directory / str(node) / "ended"


def _pid(directory: Path, node: int) -> Path:
    return directory / str(node) / "pid"


def recorded(url: str, journal: Path) -> tuple[Any, Callable[[], str]]:
    """An app of this process, and a function that sends a task, runs it, and returns its id."""
    from celery.app.trace import setup_worker_optimizations

    from tests.benchmarks.app import ARGS, KWARGS, TASK, build
    from tests.benchmarks.journals import run

    app = build("recorded", "memory://", url, str(journal))
    app.conf.asynctask_flush_interval = FLUSH
    setup_worker_optimizations(app, "fleet@host")
    task = app.tasks[TASK]
    channel = app.connection_for_write().channel()
    queue: Any = app.amqp.queues["celery"](channel)
    queue.declare()

    def run_one() -> str:
        task_id: str = task.delay(*ARGS, **KWARGS).id
        run(app, task, queue.get(no_ack=True))
        return task_id

    return app, run_one


def _until(over: Callable[[], bool], notes: Path, rate: float, url: str, journal: Path, most: int = 0) -> None:
    """End ``rate`` tasks a second until it is over, or until there were as many as ``most``."""
    app, run_one = recorded(url, journal)
    handle = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    done, due = 0, time.monotonic()
    while not over() and (not most or done < most):
        os.write(handle, f"{run_one()}\n".encode())
        done += 1
        due = max(due + 1 / rate, time.monotonic() - 1)
        time.sleep(max(0.0, due - time.monotonic()))
    app.close()


def _node(directory: Path, node: int, url: str, rate: float, processes: int, life: int) -> None:
    over = signaled()
    freeze_when_told()
    _pid(directory, node).write_text(str(os.getpid()), encoding="utf-8")
    arguments = (_notes(directory, node), rate, url, _journal(directory, node))
    if processes == 1 and not life:
        _until(over, *arguments)
        return
    recorder = Recorder(Settings(url=url, journal_dir=arguments[-1], flush_interval=FLUSH))
    recorder.start()
    children = [fork(lambda: _until(over, *arguments, most=life)) for _ in range(processes)]
    while children:
        for child in children[:]:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                assert not status, f"a process of node {node} ended with {os.waitstatus_to_exitcode(status)}"
                children.remove(child)
                if not over():
                    children.append(fork(lambda: _until(over, *arguments, most=life)))
        time.sleep(0.01)
        if over():
            send(children, signal.SIGTERM)
    recorder.stop(patience(2))


def counts_change(statement: str) -> bool:
    """Whether the statement says to readers that something has changed."""
    return "UPDATE async_task_change" in statement or "UPDATE async_task_revision" in statement


def freeze_when_told() -> None:
    told = signaled(FREEZE)
    has_frozen = False

    def freeze(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal has_frozen, told
        if told() and not has_frozen and counts_change(statement):
            has_frozen = True
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(0.1)  # another thread takes the signal, a moment later

    event.listen(Engine, "after_cursor_execute", freeze)


def main(directory: Path, url: str, count: int, rate: float, processes: int, life: int) -> int:
    import celery_asynctask.recorder.drain  # noqa: F401
    import tests.benchmarks.journals  # noqa: F401

    over = signaled()
    pids = []
    for node in range(count):
        (directory / str(node)).mkdir(exist_ok=True)
        pids.append(fork(partial(_node, directory, node, url, rate, processes, life)))
    while not over():
        time.sleep(0.05)
    send(pids, signal.SIGTERM)
    return sum(reap(pid, STOP_SECONDS) != 0 for pid in pids)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, kind in (
        ("directory", Path),
        ("url", str),
        ("count", int),
        ("rate", float),
        ("processes", int),
        ("life", int),
    ):
        parser.add_argument(name, type=kind)
    sys.exit(main(**vars(parser.parse_args())))
