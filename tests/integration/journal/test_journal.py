"""The journal keeps the events that processes append, whatever happens to them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_asynctask.journal import Journal, frame, writer
from celery_asynctask.journal.files import is_being_written
from celery_asynctask.journal.frame import describe
from tests.integration.journals import STORE, events_in, segments
from tests.pace import patience
from tests.processes import at_once
from tests.waiting import wait_for


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    made = Journal(path, STORE)
    yield made
    made.close()


# -- writing -------------------------------------------------------------------------


def test_what_is_appended_is_there_at_once(journal: Journal, path: Path) -> None:
    assert journal.append(b"first")
    assert journal.append(b"second")
    assert events_in(path) == {journal.source: [(1, b"first"), (2, b"second")]}


def test_a_segment_says_who_writes_it(journal: Journal, path: Path) -> None:
    journal.append(b"x")
    [segment] = segments(path)
    assert (segment.source, segment.number) == (journal.source, 1)
    about = describe(segment)
    assert (about["source"], about["host"], about["pid"]) == (journal.source, socket.gethostname(), os.getpid())
    assert (about["role"], about["dropped"]) == ("producer", {})


def test_only_the_user_can_read_it(journal: Journal, path: Path) -> None:
    journal.append(b"x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o600}


def test_nothing_is_made_before_the_first_event(path: Path) -> None:
    Journal(path, STORE).close()
    assert not path.exists()


def test_one_that_is_collected_gives_its_segment_back(path: Path) -> None:
    journal = Journal(path, STORE)
    journal.append(b"x")
    [segment] = segments(path)
    assert is_being_written(segment.path)
    del journal
    assert not is_being_written(segment.path)


def test_threads_share_a_segment(journal: Journal, path: Path) -> None:
    def append(name: int) -> None:
        for number in range(200):
            assert journal.append(b"%d.%d" % (name, number))

    threads = [threading.Thread(target=append, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [written] = events_in(path).values()
    assert [number for number, _ in written] == list(range(1, 1601))
    assert {data for _, data in written} == {b"%d.%d" % (name, number) for name in range(8) for number in range(200)}


def test_forked_children_write_segments_of_their_own(journal: Journal, path: Path) -> None:
    journal.append(b"parent")

    def child(number: int) -> str:
        for count in range(100):
            assert journal.append(b"%d.%d" % (number, count))
        return journal.source

    sources = at_once(4, child)
    journal.append(b"parent again")
    assert len({journal.source, *sources}) == 5
    by_source = events_in(path)
    assert by_source[journal.source] == [(1, b"parent"), (2, b"parent again")]
    for number, source in enumerate(sources):
        assert by_source[source] == [(count + 1, b"%d.%d" % (number, count)) for count in range(100)]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_while_a_thread_appends_blocks_nobody(journal: Journal, path: Path) -> None:
    stop = threading.Event()

    def append() -> None:
        while not stop.is_set():
            journal.append(b"x" * 100)

    thread = threading.Thread(target=append)
    thread.start()
    try:
        for _ in range(10):
            assert at_once(1, lambda _number: journal.append(b"child")) == [True]
    finally:
        stop.set()
        thread.join()
    assert sum(data == b"child" for events in events_in(path).values() for _, data in events) == 10


def test_appending_inside_of_append(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler that publishes a task can run anywhere, even here; it must not wait for itself."""
    journal = Journal(path, STORE)
    pack = frame.pack
    handled: list[bool] = []

    def interrupted(number: int, data: bytes) -> bytes:
        if number and not handled:
            handled.append(True)
            journal.append(b"from the handler")
        return pack(number, data)

    monkeypatch.setattr(frame, "pack", interrupted)
    thread = threading.Thread(target=journal.append, args=(b"interrupted",), daemon=True)
    thread.start()
    thread.join(patience(20))
    assert not thread.is_alive()
    [written] = events_in(path).values()
    assert sorted(written) == [(1, b"interrupted"), (2, b"from the handler")]
    journal.close()


def test_what_a_killed_process_appended_is_there(path: Path) -> None:
    with writing_child(path) as pid:
        [segment] = segments(path)
        assert is_being_written(segment.path)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert not is_being_written(segment.path)
        assert events_in(path) == {segment.source: [(1, b"before"), (2, b"the end")]}


@contextlib.contextmanager
def writing_child(path: Path) -> Iterator[int]:
    """A process that has appended two events and waits."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            mine = Journal(path, STORE)
            mine.append(b"before")
            mine.append(b"the end")
            os.write(tell, b"!")
            signal.pause()
        finally:
            os._exit(1)
    os.close(tell)
    try:
        assert os.read(ready, 1) == b"!"
        yield pid
    finally:
        os.close(ready)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


# -- segments ------------------------------------------------------------------------


def test_a_segment_that_has_grown_is_followed_by_another(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SEGMENT_BYTES", 400)
    data = [b"%d" % number * 100 for number in range(10)]
    for one in data:
        journal.append(one)
    begun = segments(path)
    assert [segment.number for segment in begun] == list(range(1, len(begun) + 1))
    assert len(begun) > 3
    assert events_in(path) == {journal.source: list(enumerate(data, 1))}
    assert [is_being_written(segment.path) for segment in begun] == [False] * (len(begun) - 1) + [
        journal._handle is not None
    ]


def test_closing_ends_a_segment(journal: Journal, path: Path) -> None:
    journal.append(b"a")
    [first] = segments(path)
    assert is_being_written(first.path)
    journal.close()
    journal.close()
    assert not is_being_written(first.path)
    journal.append(b"b")
    _, second = segments(path)
    assert is_being_written(second.path)
    assert events_in(path) == {journal.source: [(1, b"a"), (2, b"b")]}


def test_a_child_that_lives_on_does_not_keep_its_parents_segment(path: Path) -> None:
    """A lock lives as long as any copy of its descriptor: a forked child must have closed its copy."""
    read_end, write_end = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            mine = Journal(path, STORE)
            mine.append(b"parent")
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                signal.pause()
            os.write(write_end, b"%d" % child)
        finally:
            os._exit(0)
    os.waitpid(parent, 0)
    child = int(os.read(read_end, 20))
    try:
        [segment] = segments(path)
        wait_for(lambda: not is_being_written(segment.path), 20, "the child to give its copy up")
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(read_end)
        os.close(write_end)
