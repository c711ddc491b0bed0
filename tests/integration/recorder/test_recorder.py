"""The recorder's thread: when it works, when it records which processes live, and how it ends."""

from __future__ import annotations

import datetime as dt
import fcntl
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from celery_asynctask.core.event import encode
from celery_asynctask.errors import StoreError
from celery_asynctask.journal import Directory, Journal
from celery_asynctask.journal.files import is_being_written
from celery_asynctask.recorder import liveness, memory
from celery_asynctask.recorder import recorder as module
from celery_asynctask.recorder.drain import Drain
from celery_asynctask.recorder.recorder import Recorder
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.histories import published
from tests.integration.draining import sources
from tests.integration.rows import stored
from tests.pace import patience
from tests.processes import at_once
from tests.waiting import wait_for

SECONDS = 10
MULTI_THREADED = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
SELDOM = 3600
"""Seconds between two flushes that nobody waits for."""


class Host:
    """A journal directory, what one process writes to it, and recorders."""

    def __init__(self, store: Store, path: Path) -> None:
        self.store = store
        self.path = path
        self.journal = Journal(path, store.settings.store_id)
        self.made: list[Recorder] = []

    def recorder(self, **settings: Any) -> Recorder:
        chosen = Settings(url=self.store.settings.url, journal_dir=self.path, **settings)
        self.made.append(Recorder(chosen, self.journal))
        return self.made[-1]

    def record(self, task_id: str) -> None:
        self.journal.append(encode({**published(), "id": task_id}))

    def seen(self) -> dt.datetime:
        """When the process was last noted as alive."""
        [source] = sources(self.store)
        return source.last_seen_at

    def wait_for(self, *tasks: str) -> None:
        wait_for(lambda: sorted(stored(self.store)) == sorted(tasks), SECONDS, "the tasks to be stored")


@pytest.fixture
def host(store: Store, tmp_path: Path) -> Iterator[Host]:
    made = Host(store, tmp_path / "journal")
    yield made
    for recorder in made.made:
        recorder.stop(SECONDS)
    made.journal.close()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks come as often as flushes are rare."""
    monkeypatch.setattr(liveness, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(memory, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(module, "ELECTION_SECONDS", 0.05, raising=False)


def is_later(host: Host, than: dt.datetime) -> Callable[[], bool]:
    return lambda: host.seen() > than


@pytest.mark.usefixtures("often")
def test_it_notes_life_between_two_flushes(host: Host) -> None:
    """Flushes may be so far apart that other nodes would take its processes for gone."""
    host.record("first")
    host.recorder(flush_interval=SELDOM).start()
    host.wait_for("first")
    host.record("second")
    for _ in range(3):
        wait_for(is_later(host, host.seen()), SECONDS, "life to be noted")
    assert sorted(stored(host.store)) == ["first"], "that was no flush"


@pytest.mark.usefixtures("often")
def test_it_notes_life_where_there_is_no_directory(host: Host) -> None:
    host.path.touch()
    host.record("first")
    host.recorder(flush_interval=SELDOM).start()
    host.wait_for("first")
    for _ in range(3):
        wait_for(is_later(host, host.seen()), SECONDS, "life to be noted")


@pytest.mark.usefixtures("often")
def test_it_takes_over_between_two_flushes(host: Host) -> None:
    """And stores waiting events at once."""
    held = Directory(host.path, host.store.settings.store_id).elect()
    assert held is not None
    recorder = host.recorder(flush_interval=SELDOM)
    recorder.start()
    host.record("first")
    assert not recorder.is_elected
    os.close(held)
    wait_for(lambda: recorder.is_elected, SECONDS, "it to take over")
    host.wait_for("first")


class Slow:
    """Batches that take as long as the test wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.running = self.limit = self.begun = 0
        batch = Drain.batch

        def slow(drain: Drain, **options: Any) -> int:
            self.begun += 1
            self.running += 1
            self.limit = max(self.limit, self.running)
            try:
                assert self.go.wait(patience(SECONDS))
                return batch(drain, **options)
            finally:
                self.running -= 1

        monkeypatch.setattr(Drain, "batch", slow)


@pytest.fixture
def slow(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    made = Slow(monkeypatch)
    yield made
    made.go.set()


def threads() -> int:
    return sum(thread.name == "celery-asynctask-recorder" for thread in threading.enumerate())


def test_one_that_does_not_stop_in_time_and_is_started_again(host: Host, slow: Slow) -> None:
    """The new thread waits for the old one: they share a drain and an election."""
    recorder = host.recorder(flush_interval=0.01)
    recorder.start()
    wait_for(lambda: slow.begun == 1, SECONDS, "a batch to begin")
    recorder.stop(0.01)
    assert recorder.is_running
    recorder.start()
    recorder.start()
    assert threads() == 2
    host.record("first")
    slow.go.set()
    host.wait_for("first")
    wait_for(lambda: threads() == 1, SECONDS, "the old thread to end")
    assert recorder.is_running
    host.record("second")
    host.wait_for("first", "second")
    assert slow.limit == 1
    recorder.stop(SECONDS)
    assert (recorder.is_running, recorder.is_elected, threads()) == (False, False, 0)


def test_one_that_is_started_and_stopped_often_while_it_works(host: Host, slow: Slow) -> None:
    """One thread waits for the one that works, not many."""
    recorder = host.recorder(flush_interval=0.01)
    recorder.start()
    wait_for(lambda: slow.begun == 1, SECONDS, "a batch to begin")
    for _ in range(10):
        recorder.stop(0.01)
        recorder.start()
        assert threads() == 2
    host.record("first")
    slow.go.set()
    host.wait_for("first")
    wait_for(lambda: threads() == 1, SECONDS, "the first thread to end")
    assert recorder.is_running
    recorder.stop(SECONDS)
    assert threads() == 0


def test_who_waits_for_a_thread_that_is_started_again_does_not_wait_for_its_end(host: Host, slow: Slow) -> None:
    recorder = host.recorder(flush_interval=0.01)
    recorder.start()
    wait_for(lambda: slow.begun == 1, SECONDS, "a batch to begin")
    recorder.stop(0.01)
    recorder.start()
    host.record("first")
    waits = [recorder.end() for _ in range(2)]
    recorder.start()
    slow.go.set()
    began = time.monotonic()
    for wait in waits:
        wait(patience(SECONDS))
    assert time.monotonic() - began < patience(SECONDS)
    assert sorted(stored(host.store)) == ["first"]
    assert recorder.is_running


def test_a_flush_stores_what_was_there(host: Host) -> None:
    recorder = host.recorder(flush_interval=SELDOM)
    host.record("first")
    recorder.start()
    host.wait_for("first")
    for name in ("second", "third"):
        host.record(name)
        assert recorder.flush()(patience(SECONDS))
        assert name in stored(host.store)
    assert threads() == 1


def test_a_flush_ends_when_it_cannot_store(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Drain) -> None:
        raise StoreError("It is away.")

    monkeypatch.setattr(Drain, "work", fail)
    recorder = host.recorder(flush_interval=SELDOM)
    recorder.start()
    wait_for(lambda: recorder.in_trouble, SECONDS, "it to fail")
    assert recorder.flush()(patience(SECONDS))


def test_a_flush_of_one_that_does_not_run(host: Host) -> None:
    recorder = host.recorder()
    recorder.flush()(patience(SECONDS))
    recorder.start()
    recorder.stop(SECONDS)
    recorder.flush()(patience(SECONDS))
    assert threads() == 0


def test_its_own_thread_does_not_wait_for_itself(host: Host) -> None:
    """Whatever a finalizer that happens to run there closes."""
    recorder = host.recorder()
    waited: list[object] = []

    def close() -> None:
        waited.append(recorder.flush()(patience(SECONDS)))
        waited.append(recorder.end()(patience(SECONDS)))

    recorder.before_work = close
    recorder.start()
    wait_for(lambda: not recorder.is_running, SECONDS, "it to end")
    assert waited == [None, None]


def test_one_that_is_stopped_twice_is_waited_for(host: Host, slow: Slow) -> None:
    recorder = host.recorder(flush_interval=0.01)
    recorder.start()
    wait_for(lambda: slow.begun == 1, SECONDS, "a batch to begin")
    host.record("first")
    recorder.stop(0.01)
    recorder.start()
    recorder.stop(0.01)
    slow.go.set()
    recorder.stop(SECONDS)
    assert not recorder.is_running
    assert sorted(stored(host.store)) == ["first"]
    assert slow.limit == 1


def test_one_that_has_ended_by_itself_starts_again(host: Host) -> None:
    recorder = host.recorder()
    for name in ("first", "second"):
        host.record(name)
        recorder.start(once=True)
        wait_for(lambda: not recorder.is_running, SECONDS, "it to end")
        assert name in stored(host.store)


def test_threads_that_start_it_at_once_start_one(host: Host, slow: Slow) -> None:
    recorder = host.recorder(flush_interval=0.01)
    gate = threading.Barrier(8)

    def start() -> None:
        gate.wait()
        recorder.start()

    starting = [threading.Thread(target=start) for _ in range(8)]
    for thread in starting:
        thread.start()
    for thread in starting:
        thread.join()
    assert threads() == 1


@MULTI_THREADED
def test_a_child_of_one_that_ends_has_its_own(host: Host, slow: Slow) -> None:
    """Whatever the parent's threads held when it forked."""
    recorder = host.recorder(flush_interval=0.01)
    recorder.start()
    wait_for(lambda: slow.begun == 1, SECONDS, "a batch to begin")
    recorder.stop(0.01)
    recorder.start()

    def child(_: int) -> tuple[bool, bool]:
        before = recorder.is_running
        slow.go.set()
        recorder.start()
        recorder.stop(patience(SECONDS))
        return before, recorder.is_running

    assert at_once(1, child) == [(False, False)]


def test_it_says_what_to_do_where_tables_cannot_be_made(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a sentence, without a traceback."""

    def prepare(_: Store) -> None:
        raise StoreError("Its tables are not made: try again.")

    monkeypatch.setattr(Store, "prepare", prepare)
    recorder = host.recorder(flush_interval=0.01)
    recorder.start()
    wait_for(lambda: recorder.in_trouble, SECONDS, "it to fail")
    recorder.stop(SECONDS)
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "Its tables are not made: try again. Tasks are not affected" in record.getMessage()
    assert record.exc_info is None


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Callable[[], object]], None]]:
    """Calls something in a thread, and forks a child that lives on, just after the thread has locked a file whose name
    ends like this."""
    flock = fcntl.flock
    children: list[int] = []

    def fork(name: str, action: Callable[[], object]) -> None:
        locked, is_forked = threading.Event(), threading.Event()

        def slow(handle: int, lock: int) -> None:
            flock(handle, lock)
            path = Path(f"/proc/self/fd/{handle}").readlink()
            if path.name.endswith(name) and not locked.is_set():
                locked.set()
                is_forked.wait(0.3)  # not forever: the fork waits for us

        monkeypatch.setattr(fcntl, "flock", slow)
        thread = threading.Thread(target=action)
        thread.start()
        assert locked.wait(patience(SECONDS))
        child = os.fork()
        if not child:
            signal.alarm(120)
            signal.pause()
        children.append(child)
        is_forked.set()
        thread.join()
        monkeypatch.setattr(fcntl, "flock", flock)

    yield fork
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


Forked = Callable[[str, Callable[[], object]], None]


@MULTI_THREADED
def test_a_child_does_not_keep_what_a_thread_was_just_looking_at(host: Host, forked: Forked) -> None:
    """Otherwise the child would be taken for a process that is gone."""
    host.record("first")
    host.journal.close()
    [segment] = Directory(host.path, host.store.settings.store_id).segments()
    forked(".events", partial(is_being_written, segment.path))
    assert not is_being_written(segment.path)


@MULTI_THREADED
def test_a_child_does_not_keep_a_segment_that_was_just_begun(host: Host, forked: Forked) -> None:
    forked(".events-new", partial(host.record, "first"))
    [segment] = Directory(host.path, host.store.settings.store_id).segments()
    assert is_being_written(segment.path)
    host.journal.close()
    wait_for(lambda: not is_being_written(segment.path), SECONDS, "the child to give its copy up")


@MULTI_THREADED
def test_a_child_does_not_keep_an_election(host: Host, forked: Forked) -> None:
    recorder = host.recorder()
    forked("drain.lock", recorder.start)
    wait_for(lambda: recorder.is_elected, SECONDS, "the election")
    recorder.stop(SECONDS)
    elect = Directory(host.path, host.store.settings.store_id).elect
    os.close(wait_for(elect, SECONDS, "the child to give its copy up"))


@pytest.mark.parametrize("is_raising", [False, True], ids=["logged", "a filter raises"])
def test_it_goes_on_where_sqlalchemy_cannot_be_imported(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, is_raising: bool
) -> None:
    """What names the remedy needs SQLAlchemy, too."""

    def refuse(_: logging.LogRecord) -> bool:
        if is_raising:
            raise RuntimeError("a fault of the user's")
        return True

    logger = logging.getLogger("celery_asynctask.recorder")
    monkeypatch.setattr(logger, "filters", [refuse])
    recorder = host.recorder(flush_interval=0.05)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "celery_asynctask.recorder.drain", None)
        patched.setitem(sys.modules, "celery_asynctask.store.remedies", None)
        recorder.start()
        wait_for(lambda: recorder.in_trouble, SECONDS, "it to fail")
        recorder.flush()(SECONDS)
        assert recorder.is_running
    assert is_raising or "cannot store events" in caplog.text
    host.record("a")
    host.wait_for("a")
