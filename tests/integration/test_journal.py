"""The journal: what processes append is there, whatever becomes of them, and who may use the directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
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

from celery_asynctask.errors import JournalError
from celery_asynctask.journal import Directory, Journal, Segment, frame, reader, writer
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
        chunk = Chunk([], [], 0, whole=False)
        while not chunk.whole:
            chunk = read(segment, chunk.end, 1_000_000, ended=True)
            assert chunk.damaged == []
            found.setdefault(segment.source, []).extend((one.number, one.data) for one in chunk.frames)
    return found


# -- writing ---------------------------------------------------------------------------


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


def test_appending_inside_of_append(journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler that publishes a task may run anywhere, also here; it must not wait for itself."""
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


# -- segments --------------------------------------------------------------------------


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


def test_only_segments_are_listed_in_order(path: Path) -> None:
    directory = Directory(path, STORE)
    for name in ("b.000001.segment", "a.000010.segment", "a.000002.segment"):
        (path / name).touch()
    for name in ("a.000003.new", "recorder.lock", "a.quarantine", "x.segment", "a.x.segment", ".segment"):
        (path / name).touch()
    assert [(one.source, one.number) for one in directory.segments()] == [("a", 2), ("a", 10), ("b", 1)]


# -- what cannot be written ------------------------------------------------------------------


def test_an_unusable_directory_is_counted_logged_once_and_tried_again(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0)
    path.parent.mkdir()
    path.touch()  # something else is there
    assert [journal.append(b"lost") for _ in range(3)] == [False] * 3
    assert journal.dropped == {"unusable directory": 3}
    [message] = [record.getMessage() for record in caplog.records]
    assert "celery-asynctask records nothing in this process (producer, pid" in message
    assert f"The journal directory {path} cannot be used: File exists." in message
    assert "asynctask_journal_dir" in message

    path.unlink()
    caplog.clear()
    assert journal.append(b"kept")
    assert [record.getMessage() for record in caplog.records] == [
        "celery-asynctask records again; 3 events were not kept."
    ]
    assert events_in(path) == {journal.source: [(4, b"kept")]}, "what was dropped was accepted, so it has a number"
    [segment] = segments(path)
    assert describe(segment)["dropped"] == {"unusable directory": 3}


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
    assert dropped == {"unusable directory": 1}
    assert "Permission denied. Make it writable or set asynctask_journal_dir" in logged


def test_a_full_disk(path: Path) -> None:
    """A write that fails, and one that succeeds in part: both are dropped and counted, and what follows is whole."""

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
    assert dropped == {"EFBIG": 1, "ENOSPC": 1}
    [found] = events_in(path).values()
    assert found == [(1, b"a"), (3, b"b"), (5, b"b")]
    assert [describe(segment)["dropped"] for segment in segments(path)] == [{}, {"EFBIG": 1}, {"EFBIG": 1, "ENOSPC": 1}]


def test_appending_never_raises(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0)

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for module, name in ((os, "open"), (os, "write"), (fcntl, "flock")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            assert not journal.append(b"x"), name
        assert journal.append(b"x"), name
        journal.close()
    assert sum(journal.dropped.values()) == 3


# -- who may use the directory -----------------------------------------------------------------


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(JournalError, match=r"symbolic links are not followed.*asynctask_journal_dir"):
        Directory(tmp_path / "link", STORE)


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="cannot be used: File exists"):
        Directory(tmp_path / "file", STORE)


def test_the_directory_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Directory(path, STORE)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(JournalError, match=f"belongs to user id {me}, this process runs as {me + 1};"):
        Directory(path, STORE)


def test_rights_of_others_are_taken_away(path: Path) -> None:
    path.mkdir(parents=True)
    path.chmod(0o777)
    Directory(path, STORE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_another_store_is_refused(path: Path) -> None:
    Directory(path, STORE)
    Directory(path, STORE)
    with pytest.raises(JournalError, match=f"belongs to the store {STORE}, not to mysql://h/other; give each store"):
        Directory(path, "mysql://h/other")


def test_stores_that_come_at_once(path: Path) -> None:
    """One of them gets the directory, whoever is first."""
    path.mkdir(parents=True)

    def claim(number: int) -> bool:
        try:
            Directory(path, f"store-{'x' * number}")
        except JournalError:
            return False
        return True

    assert sorted(at_once(6, claim)) == [False] * 5 + [True]
    shutil.rmtree(path)
    path.mkdir()
    assert at_once(6, lambda _number: claim(1)) == [True] * 6


@pytest.mark.parametrize("content", [b"\xff\xfe", b"two\nlines\n"])
def test_a_damaged_marker_is_refused(path: Path, content: bytes) -> None:
    path.mkdir(parents=True)
    (path / "store").write_bytes(content)
    with pytest.raises(JournalError, match="belongs to the store"):
        Directory(path, STORE)


def test_an_empty_marker_is_nobodys(path: Path) -> None:
    """Its writer died, or the machine, before the name was on the disk."""
    path.mkdir(parents=True)
    (path / "store").touch()
    Directory(path, STORE)
    with pytest.raises(JournalError):
        Directory(path, "other")


def test_a_store_with_an_odd_name(path: Path) -> None:
    name = "sqlite:////home/ü/\udcff/x.db"
    Directory(path, name)
    Directory(path, name)


# -- election ------------------------------------------------------------------------------------


def test_one_recorder_at_a_time(path: Path) -> None:
    directory = Directory(path, STORE)
    held = directory.elect()
    assert held is not None
    assert directory.elect() is None
    assert at_once(3, lambda _number: directory.elect()) == [None] * 3
    os.close(held)
    held = directory.elect()
    assert held is not None
    os.close(held)


def test_the_lock_of_a_killed_recorder_is_free(path: Path) -> None:
    directory = Directory(path, STORE)
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            directory.elect()
            os.write(tell, b"!")
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(ready, 1) == b"!"
    assert directory.elect() is None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    held = directory.elect()
    assert held is not None
    for handle in (held, ready, tell):
        os.close(handle)


# -- reading ---------------------------------------------------------------------------------------


@pytest.fixture
def segment(tmp_path: Path) -> Segment:
    """A segment of five events after its description."""
    description = json.dumps(
        {"format": 1, "source": "s", "host": "h", "pid": 7, "role": "child", "at": 5, "dropped": {}}
    )
    lines = [frame.pack(0, description.encode()), *(frame.pack(number, b"%d" % number) for number in range(1, 6))]
    path = tmp_path / "20260102T030405-4711-abcdef01.000003.segment"
    path.write_bytes(b"".join(lines))
    return Segment("20260102T030405-4711-abcdef01", 3, path)


@pytest.mark.parametrize("most", range(1, 8))
def test_read_on_from_where_it_stopped(segment: Segment, most: int) -> None:
    found: list[int] = []
    position = 0
    while True:
        chunk = read(segment, position, most, ended=True)
        assert len(chunk.frames) == min(most, 5 - len(found)), "the description is not counted as an event"
        found += [one.number for one in chunk.frames]
        position = chunk.end
        if chunk.whole:
            break
    assert found == [1, 2, 3, 4, 5]
    assert position == segment.path.stat().st_size


@pytest.mark.parametrize("size", [1, 7, 100, 101])
def test_read_in_small_parts(segment: Segment, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that is longer than what is read at a time is read whole."""
    monkeypatch.setattr(reader, "READ_BYTES", size)
    found: list[int] = []
    position = 0
    whole = False
    while not whole:
        chunk = read(segment, position, 100, ended=True)
        assert chunk.end > position
        found += [one.number for one in chunk.frames]
        position, whole = chunk.end, chunk.whole
    assert found == [1, 2, 3, 4, 5]


def test_a_last_line_that_is_cut(segment: Segment) -> None:
    whole = segment.path.stat().st_size
    cut = frame.pack(6, b"never finished")[:-5]
    with segment.path.open("ab") as file:
        file.write(cut)
    living = read(segment, 0, 100, ended=False)
    assert (len(living.frames), living.damaged, living.end, living.whole) == (5, [], whole, True)
    dead = read(segment, 0, 100, ended=True)
    assert (len(dead.frames), dead.damaged, dead.end, dead.whole) == (5, [cut], whole + len(cut), True)


def test_a_segment_that_says_nothing_of_itself(segment: Segment) -> None:
    data = segment.path.read_bytes()
    segment.path.write_bytes(b"X" + data[1:])
    about = describe(segment)
    assert (about["source"], about["pid"], about["role"]) == (segment.source, 4711, "unknown")
    assert about["host"] == socket.gethostname()
    assert describe(segment._replace(source="odd"))["pid"] == 0
    segment.path.write_bytes(b"")
    assert describe(segment)["role"] == "unknown"


def test_a_segment_of_a_later_format(segment: Segment) -> None:
    segment.path.write_bytes(frame.pack(0, b'{"format": 2, "role": "something new"}'))
    assert describe(segment)["role"] == "unknown"
    segment.path.write_bytes(frame.pack(0, b"[]"))
    assert describe(segment)["role"] == "unknown"


def test_a_segment_that_was_renamed_is_known_by_its_name(segment: Segment) -> None:
    assert describe(segment)["source"] == segment.source
    assert describe(segment)["role"] == "child"


# -- quarantine ------------------------------------------------------------------------------------


def test_quarantine_keeps_one_entry_a_line(path: Path) -> None:
    directory = Directory(path, STORE)
    directory.quarantine("source", b"first")
    directory.quarantine("source", b"second")
    file = path / "source.quarantine"
    assert file.read_bytes() == b"first\nsecond\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert directory.segments() == []


def test_quarantine_follows_no_link(path: Path, tmp_path: Path) -> None:
    directory = Directory(path, STORE)
    (path / "source.quarantine").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        directory.quarantine("source", b"x")
