"""`celery asynctask recorder`: a normal daemon, which takes recording over and gives it back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import OperationalError

from celery_asynctask.core.event import encode
from celery_asynctask.journal import Directory, Journal
from celery_asynctask.recorder import Recorder
from celery_asynctask.settings import Settings
from celery_asynctask.store.models import AsyncTask, AsyncTaskSource
from tests.histories import published
from tests.pace import patience
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

PROJECT = """
from celery import Celery
app = Celery("proj", broker="memory://", task_cls="celery_asynctask:RecordedTask")
app.conf.update({settings!r})
"""
SECONDS = 30


class Host:
    """A directory with a project in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings = Settings(url=f"sqlite:///{path / 'rows.db'}", journal_dir=path / "journal", flush_interval=0.05)
        self.configure(
            asynctask_url=self.settings.url, asynctask_journal_dir=str(path / "journal"), asynctask_flush_interval=0.05
        )
        self.journal = Journal(self.settings.directory, self.settings.store_id)
        self.running: list[subprocess.Popen[str]] = []

    def configure(self, **settings: object) -> None:
        (self.path / "proj.py").write_text(PROJECT.format(settings=settings), encoding="utf-8")

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "celery", "-A", "proj", "asynctask", "recorder", *options]
        self.running.append(
            subprocess.Popen(command, cwd=self.path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
        )
        return self.running[-1]

    def run(self, *options: str) -> tuple[int, str]:
        process = self.start(*options)
        _, log = process.communicate(timeout=patience(SECONDS))
        return process.returncode, log

    def record(self, count: int) -> None:
        for _ in range(count):
            assert self.journal.append(encode({**published(), "id": f"task-{self.journal._number}"}))

    def stored(self) -> int:
        engine = create_engine(self.settings.url)
        try:
            with engine.connect() as connection:
                return connection.scalar(select(func.count()).select_from(AsyncTask)) or 0
        except OperationalError:  # no tables yet
            return 0
        finally:
            engine.dispose()

    def wait_for(self, count: int) -> None:
        wait_for(lambda: self.stored() == count, SECONDS, f"{count} rows")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.journal.close()
    for process in made.running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def is_claimed(host: Host) -> Callable[[], bool]:
    return lambda: Directory.is_claimed(host.settings.directory)


def test_once(host: Host) -> None:
    host.record(5)
    assert host.run("--once")[0] == 0
    assert host.stored() == 5
    host.record(1)
    host.journal.close()
    assert host.run("--once")[0] == 0
    assert host.stored() == 6
    assert host.run("--once")[0] == 0, "with nothing to do"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_when_all_is_stored(host: Host, number: int) -> None:
    process = host.start()
    wait_for(is_claimed(host), SECONDS, "the recorder")
    host.record(3)
    process.send_signal(number)
    _, log = process.communicate(timeout=patience(SECONDS))
    assert process.returncode == 0, log
    assert host.stored() == 3
    assert "celery-asynctask stores events from " in log


def test_wrong_settings(host: Host) -> None:
    host.configure(asynctask_urll="sqlite://")
    code, log = host.run()
    assert (code, "Unknown setting 'asynctask_urll'" in log) == (2, True), log
    host.configure(asynctask_enabled=False)
    code, log = host.run()
    assert (code, "asynctask_enabled is False" in log) == (2, True), log


def test_a_directory_that_cannot_be_used(host: Host) -> None:
    (host.path / "file").touch()
    host.configure(asynctask_journal_dir=str(host.path / "file"))
    code, log = host.run()
    assert (code, "The journal directory" in log) == (1, True), log


def test_a_database_that_does_not_answer(host: Host) -> None:
    """``--once`` says that something is left; the daemon waits for it."""
    host.configure(asynctask_url="postgresql+psycopg://u@127.0.0.1:9/d", asynctask_journal_dir=str(host.path / "other"))
    settings = Settings(url="postgresql+psycopg://u@127.0.0.1:9/d", journal_dir=host.path / "other")
    journal = Journal(settings.directory, settings.store_id)
    journal.append(encode(published()))
    journal.close()
    code, log = host.run("--once")
    assert code == 1
    assert "cannot store events in postgresql+psycopg://u@127.0.0.1:9/d" in log
    assert "bytes are left in" in log
    process = host.start()
    wait_for(lambda: Directory.is_claimed(settings.directory), SECONDS, "the recorder")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=patience(SECONDS))
    assert process.returncode == 0, "what is left is safe in the journal"


def test_it_takes_over_and_gives_back_without_a_gap(host: Host) -> None:
    """From the recorder of another process, while events keep coming; and back when it is killed."""
    inside = Recorder(host.settings)
    inside.start()
    stop = threading.Event()
    count = 0

    def produce() -> None:
        nonlocal count
        while not stop.wait(0.001):
            host.record(1)
            count += 1

    thread = threading.Thread(target=produce)
    thread.start()
    try:
        wait_for(lambda: inside.is_elected and host.stored() > 10, SECONDS, "the recorder inside to work")
        process = host.start()
        wait_for(lambda: not inside.is_elected and is_claimed(host)(), SECONDS, "the dedicated one to take over")
        before = host.stored()
        wait_for(lambda: host.stored() > before + 10, SECONDS, "the dedicated one to store")
        assert not inside.is_elected
        reserve = host.start()
        process.kill()
        process.communicate()
        wait_for(lambda: not inside.is_elected and is_claimed(host)(), SECONDS, "the one in reserve")
        before = host.stored()
        wait_for(lambda: host.stored() > before + 10, SECONDS, "the one in reserve to store")
        reserve.kill()
        reserve.communicate()
        wait_for(lambda: inside.is_elected, SECONDS, "the one inside to take over again")
    finally:
        stop.set()
        thread.join()
        host.journal.close()
        inside.stop(SECONDS)
    assert host.stored() == count
    engine = create_engine(host.settings.url)
    with engine.connect() as connection:
        [source] = connection.execute(select(AsyncTaskSource.stored, AsyncTaskSource.last_number)).all()
    engine.dispose()
    assert tuple(source) == (count, count)


def test_a_recorder_whose_directory_was_deleted_leaves_it(host: Host) -> None:
    """It holds a lock that nobody sees any longer; another could be elected in a new directory."""
    first, second = Recorder(host.settings), Recorder(host.settings)
    first.start()
    try:
        wait_for(lambda: first.is_elected, SECONDS, "the election")
        os.rename(host.settings.directory, host.path / "gone")  # noqa: PTH104
        for file in (host.path / "gone").iterdir():
            file.unlink()
        wait_for(host.settings.directory.exists, SECONDS, "the recorder to make a new one")
        second.start()
        host.record(3)
        host.wait_for(3)
        assert first.is_elected
        assert not second.is_elected
    finally:
        first.stop(SECONDS)
        second.stop(SECONDS)
