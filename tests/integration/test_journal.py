"""The journal: what processes append is there, whatever becomes of them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import signal
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_asynctask.journal import Directory, Journal, Segment, frame, writer
from celery_asynctask.journal.directory import is_being_written
from celery_asynctask.journal.reader import Chunk, describe, read
from tests.processes import at_once
from tests.waiting import wait_for

STORE = "postgresql://h/shop"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    made = Journal(path, STORE)
    yield made
    made.close()


def segments(path: Path) -> list[Segment]:
    return Directory(path, STORE).segments()


def events_in(path: Path) -> dict[str, list[tuple[int, bytes]]]:
    """Number and data of every event in the directory, by source."""
    found: dict[str, list[tuple[int, bytes]]] = {}
    for segment in segments(path):
        chunk = Chunk([], [], [], 0, 0, 0, whole=False)
        while not chunk.whole:
            chunk = read(segment, chunk.end, 1_000_000, ended=True)
            assert chunk.damaged == []
            found.setdefault(segment.source, []).extend(zip(chunk.numbers, chunk.events, strict=True))
    return found


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


def test_threads_share_a_segment(journal: Journal, path: Path) -> None:
    def append(name: int) -> None:
        for number in range(200):
            assert journal.append(b"%d.%d" % (name, number))

    threads = [threading.Thread(target=append, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [found] = events_in(path).values()
    assert [number for number, _ in found] == list(range(1, 1601))
    assert {data for _, data in found} == {b"%d.%d" % (name, number) for name in range(8) for number in range(200)}


def test_forked_children_write_segments_of_their_own(journal: Journal, path: Path) -> None:
    journal.append(b"parent")

    def child(number: int) -> str:
        for count in range(100):
            assert journal.append(b"%d.%d" % (number, count))
        return journal.source

    sources = at_once(4, child)
    journal.append(b"parent again")
    assert len({journal.source, *sources}) == 5
    found = events_in(path)
    assert found[journal.source] == [(1, b"parent"), (2, b"parent again")]
    for number, source in enumerate(sources):
        assert found[source] == [(count + 1, b"%d.%d" % (number, count)) for count in range(100)]


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
    assert sum(data == b"child" for found in events_in(path).values() for _, data in found) == 10


def test_appending_inside_of_append(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler that publishes a task may run anywhere, also here; it must not wait for itself."""
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
    thread.join(20)
    assert not thread.is_alive()
    [found] = events_in(path).values()
    assert sorted(found) == [(1, b"interrupted"), (2, b"from the handler")]
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
    found = segments(path)
    assert [segment.number for segment in found] == list(range(1, len(found) + 1))
    assert len(found) > 3
    assert events_in(path) == {journal.source: list(enumerate(data, 1))}
    assert [is_being_written(segment.path) for segment in found] == [False] * (len(found) - 1) + [
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
    """A lock lives as long as any copy of its descriptor: a forked child must have given its copy up."""
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


# -- what cannot be written ----------------------------------------------------------


def test_an_unusable_directory_is_logged_once_and_what_waits_is_written_later(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0)
    path.parent.mkdir()
    path.touch()  # something else is there
    assert [journal.append(b"waits") for _ in range(3)] == [False] * 3
    [message] = [record.getMessage() for record in caplog.records]
    assert "celery-asynctask cannot write to its journal in this process (producer, pid" in message
    assert f"The journal directory {path} cannot be used: File exists." in message
    assert "asynctask_journal_dir" in message

    path.unlink()
    caplog.clear()
    assert journal.append(b"written")
    assert [record.getMessage() for record in caplog.records] == [
        "celery-asynctask records again; 0 events of this process were not kept."
    ]
    assert events_in(path) == {journal.source: [(1, b"waits"), (2, b"waits"), (3, b"waits"), (4, b"written")]}
    assert journal.dropped == {}


@pytest.mark.parametrize(("limit", "value"), [("KEPT_EVENTS", 2), ("KEPT_BYTES", 20)])
def test_memory_has_a_bound(
    journal: Journal,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    limit: str,
    value: int,
) -> None:
    """Beyond, events are dropped and counted; the next segment says how many."""
    monkeypatch.setattr(writer, limit, value)
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0)
    path.parent.mkdir()
    path.touch()
    assert [journal.append(b"x%d" % number) for number in range(5)] == [False] * 5
    assert journal.dropped == {"unusable directory": 3}
    path.unlink()
    assert journal.append(b"last")
    assert "3 events of this process were not kept" in caplog.text
    [found] = events_in(path).values()
    assert found == [(1, b"x0"), (2, b"x1"), (3, b"last")]
    assert describe(segments(path)[-1])["dropped"] == {"unusable directory": 3}


def test_what_waits_can_be_taken_and_given_back(journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0)
    path.parent.mkdir()
    path.touch()
    for data in (b"a", b"b"):
        journal.append(data)
    taken = journal.take()
    assert [frame.unpack(line[:-1]) for line in taken] == [(1, b"a"), (2, b"b")]
    assert journal.take() == []
    journal.append(b"c")
    journal.give_back(taken)
    path.unlink()
    assert journal.retry()
    assert events_in(path) == {journal.source: [(1, b"a"), (2, b"b"), (3, b"c")]}


def test_what_waits_at_the_end_is_counted_as_dropped(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0)
    path.parent.mkdir()
    path.touch()
    journal.append(b"a")
    journal.close()
    assert journal.dropped == {}
    journal.abandon()
    assert journal.dropped == {"unusable directory": 1}
    assert "1 events of this process" in caplog.text
    path.unlink()
    assert journal.retry()
    assert journal.append(b"b")
    assert events_in(path) == {journal.source: [(1, b"b")]}, "what is dropped has no number"


def test_a_deleted_directory_is_noticed(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "CHECK_SECONDS", 0)
    journal.append(b"a")
    shutil.rmtree(path)
    journal.append(b"b")
    assert "was deleted; events in it that were not stored yet are lost" in caplog.text
    journal.append(b"c")
    assert events_in(path) == {journal.source: [(3, b"c")]}


def test_a_journal_has_a_bound(path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(writer, "CHECK_BYTES", 1000)
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0)
    journal = Journal(path, STORE, max_bytes=5000)
    kept = [journal.append(b"x" * 100) for _ in range(100)]
    assert kept == [True] * (n := sum(kept)) + [False] * (100 - n)
    assert 5000 < Directory.size(path) < 7000
    assert journal.dropped == {"journal_max_bytes": 100 - n}
    assert caplog.text.count("has reached asynctask_journal_max_bytes (5000)") == 1
    for segment in segments(path):
        segment.path.write_bytes(b"")  # stored meanwhile
    assert journal.append(b"y")
    assert describe(segments(path)[-1])["dropped"] == journal.dropped == {"journal_max_bytes": 100 - n}
    journal.close()


def test_a_segment_that_cannot_be_followed_grows(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where there are no inodes left."""
    monkeypatch.setattr(writer, "SEGMENT_BYTES", 400)
    monkeypatch.setattr(writer, "CHECK_BYTES", 100)
    journal.append(b"first")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOSPC, "no inodes")))
        assert all(journal.append(b"x" * 100) for _ in range(10))
    assert len(segments(path)) == 1
    assert journal.append(b"x" * 100)
    assert len(segments(path)) == 2
    assert caplog.text == "", "nothing is wrong yet"
    assert sum(map(len, events_in(path).values())) == 12


def test_a_process_always_holds_a_segment(journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By which the recorder knows that it lives: also between two segments, and while the disk is full."""
    monkeypatch.setattr(writer, "SEGMENT_BYTES", 400)
    for number in range(20):
        journal.append(b"x" * 100)
        assert sum(is_being_written(segment.path) for segment in segments(path)) == 1, number
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        journal.append(b"x")
        assert sum(is_being_written(segment.path) for segment in segments(path)) == 1


def test_an_unusable_directory_is_tried_once_a_second(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(writer.time, "monotonic", lambda: clock[0])
    path.parent.mkdir()
    path.touch()
    assert not journal.append(b"1")
    path.unlink()
    clock[0] += writer.RETRY_SECONDS - 0.1
    assert not journal.append(b"2")
    clock[0] += 0.2
    assert journal.append(b"3")


def test_a_directory_without_rights(caplog: pytest.LogCaptureFixture) -> None:
    """As any user but root: root may do everything."""
    directory = Path(tempfile.mkdtemp())
    nobody = 65534

    def child(_number: int) -> tuple[list[bool], dict[str, int], str]:
        if os.geteuid() == 0:
            os.chown(directory, nobody, -1)
            os.seteuid(nobody)
        writer.RETRY_SECONDS = 0
        directory.chmod(0o500)
        mine = Journal(directory, STORE)
        kept = [mine.append(b"no")]
        directory.chmod(0o700)
        kept.append(mine.append(b"yes"))
        return kept, dict(mine.dropped), caplog.text

    try:
        [(kept, dropped, logged)] = at_once(1, child)
    finally:
        shutil.rmtree(directory)
    assert kept == [False, True]
    assert dropped == {}
    assert "Permission denied. Make it writable or set asynctask_journal_dir" in logged


def test_a_full_disk(path: Path) -> None:
    """A write that fails, and one that succeeds in part: both events wait, and what is there is whole."""

    def child(_number: int) -> tuple[list[bool], dict[str, int]]:
        writer.RETRY_SECONDS = 0
        mine = Journal(path, STORE)
        kept = [mine.append(b"a")]
        size = segments(path)[0].path.stat().st_size
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        for room in (0, 10):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, limit[1]))
            kept.append(mine.append(b"x" * 1000))
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            kept.append(mine.append(b"b"))
        return kept, dict(mine.dropped)

    [(kept, dropped)] = at_once(1, child)
    assert kept == [True, False, True, False, True]
    assert dropped == {}
    [found] = events_in(path).values()
    assert found == [(1, b"a"), (2, b"x" * 1000), (3, b"b"), (4, b"x" * 1000), (5, b"b")]


def test_appending_never_raises(journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0)

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for module, name in ((os, "open"), (os, "write"), (fcntl, "flock")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            assert not journal.append(b"x"), name
        assert journal.append(b"x"), name
        journal.close()
    assert journal.dropped == {}
    [found] = events_in(path).values()
    assert [number for number, _ in found] == [1, 2, 3, 4, 5, 6]
