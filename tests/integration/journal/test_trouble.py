"""A journal that cannot be written: waiting events are bounded and counted, and nothing is raised."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_asynctask.journal import Directory, Journal, frame, spare, waiting, writer
from celery_asynctask.journal.files import is_being_written
from celery_asynctask.journal.frame import describe
from tests.integration.journals import STORE, events_in, segments
from tests.processes import at_once


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    made = Journal(path, STORE)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _no_second_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "spare_of", lambda *_: None)


def test_an_unusable_directory_is_logged_once_and_what_waits_is_written_later(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0)
    path.parent.mkdir()
    path.touch()  # another file is there
    assert [journal.append(b"waits") for _ in range(3)] == [False] * 3
    [message] = [record.getMessage() for record in caplog.records]
    assert "celery-asynctask cannot write to its journal in this process (producer, pid" in message
    assert f"The journal directory {path} cannot be used: File exists." in message
    assert "asynctask_journal_dir" in message

    path.unlink()
    caplog.clear()
    assert journal.append(b"written")
    assert [record.getMessage() for record in caplog.records] == [
        f"celery-asynctask writes to its journal again in this process (pid {os.getpid()}). Since its start it has "
        "dropped 0 events."
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
    """Further events are dropped and counted; the next segment has their number."""
    monkeypatch.setattr(waiting, limit, value)
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0)
    path.parent.mkdir()
    path.touch()
    assert [journal.append(b"x%d" % number) for number in range(5)] == [False] * 5
    assert journal.dropped == {"unusable directory": 3}
    path.unlink()
    assert journal.append(b"last")
    assert "it has dropped 3 events" in caplog.text
    [written] = events_in(path).values()
    assert written == [(1, b"x0"), (2, b"x1"), (3, b"last")]
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
    assert "was deleted. Events in it that were not stored yet are lost" in caplog.text
    journal.append(b"c")
    assert events_in(path) == {journal.source: [(3, b"c")]}


def test_a_journal_has_a_bound(path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(writer, "CHECK_BYTES", 1000)
    monkeypatch.setattr(writer, "FULL_SECONDS", 0)
    monkeypatch.setattr(writer, "_LEAST_BYTES", 1000)
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
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0)
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
    """So the recorder knows that it lives: also between two segments, and while the disk is full."""
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
    monkeypatch.setattr("celery_asynctask.journal.writer.time.monotonic", lambda: clock[0])
    path.parent.mkdir()
    path.touch()
    assert not journal.append(b"1")
    path.unlink()
    clock[0] += writer.RETRY_SECONDS - 0.1
    assert not journal.append(b"2")
    clock[0] += 0.2
    assert journal.append(b"3")


def test_a_directory_without_rights(caplog: pytest.LogCaptureFixture) -> None:
    """As any user except root, who may do everything."""
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
    """A write that fails, and one that succeeds in part: both events wait, and the journal stays intact."""

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
    [written] = events_in(path).values()
    assert written == [(1, b"a"), (2, b"x" * 1000), (3, b"b"), (4, b"x" * 1000), (5, b"b")]


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
    [written] = events_in(path).values()
    assert [number for number, _ in written] == [1, 2, 3, 4, 5, 6]


def test_what_was_in_a_deleted_segment_is_known_by_number(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the process does nothing more."""
    monkeypatch.setattr(writer, "CHECK_SECONDS", 0)
    journal.append(b"a")
    segments(path)[-1].path.unlink()
    journal.append(b"b")
    view = Directory(path, STORE).view(journal.source)
    assert view is not None
    assert view.numbered == 2
