"""The second place of a journal: where events go while the disk takes none, and how they come home."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_asynctask.errors import JournalError
from celery_asynctask.journal import Directory, Journal, spare, writer
from celery_asynctask.journal.files import is_being_written
from tests.integration.journals import STORE, events_in


class Disk:
    """A disk that is full, except in the second place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        self.is_full = False
        self.home = home
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, handle: int, data: bytes) -> int:
        if self.is_full and Path(f"/proc/self/fd/{handle}").readlink().is_relative_to(self.home):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._write(handle, data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, path: Path) -> Disk:
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0)
    return Disk(monkeypatch, path)


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    made = Journal(path, STORE)
    yield made
    made.close()
    if (second := spare.spare_of(path, STORE)) is not None:
        shutil.rmtree(second, ignore_errors=True)


def second_place(path: Path) -> Path:
    second = spare.spare_of(path, STORE)
    assert second is not None
    return second


def test_events_go_on_in_the_second_place_and_come_home(
    journal: Journal, path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    assert journal.append(b"1")
    disk.is_full = True
    assert journal.append(b"2")
    assert journal.append(b"3")
    directory = Directory(path, STORE)
    assert [segment.path.parent for segment in directory.segments()][-1] == second_place(path)
    assert caplog.text.count("cannot write to its journal in this process") == 1
    assert f"Events are kept in {second_place(path)}, 16 MiB of all processes" in caplog.text
    assert sum(is_being_written(segment.path) for segment in directory.segments()) == 1
    disk.is_full = False
    assert journal.append(b"4")
    assert {segment.path.parent for segment in directory.segments()} == {path}
    assert journal.append(b"5")
    assert events_in(path) == {journal.source: [(number, b"%d" % number) for number in range(1, 6)]}
    assert "writes to its journal again in this process" in caplog.text
    assert journal.dropped == {}


def test_what_a_process_that_was_killed_wrote_there_is_read(path: Path, journal: Journal, disk: Disk) -> None:
    journal.append(b"1")
    disk.is_full = True
    journal.append(b"2")
    assert journal._handle is not None
    os.close(journal._handle)  # as the kernel does
    journal._handle = None
    assert events_in(path)[journal.source] == [(1, b"1"), (2, b"2")]
    view = Directory(path, STORE).view(journal.source)
    assert view is not None
    assert view.numbered == 2


def test_a_disk_that_is_full_from_the_beginning(journal: Journal, path: Path, disk: Disk) -> None:
    disk.is_full = True
    assert journal.append(b"1")
    directory = Directory.usable(path, STORE)
    assert [segment.source for segment in directory.segments()] == [journal.source]


def test_a_directory_that_cannot_be_used_is_replaced_by_its_second_place(journal: Journal, path: Path) -> None:
    path.touch()
    assert journal.append(b"1")
    assert journal.append(b"2")
    directory = Directory.usable(path, STORE)
    assert (directory.path, directory.spare) == (second_place(path), None)
    assert [segment.source for segment in directory.segments()] == [journal.source]
    assert directory.view(journal.source) is not None
    with pytest.raises(JournalError, match="File exists"):
        Directory(path, STORE)


def test_another_store_has_another_second_place(path: Path) -> None:
    assert spare.spare_of(path, STORE) != spare.spare_of(path, "mysql://h/other")


def test_each_process_has_room_for_two_megabytes_and_all_for_sixteen(
    journal: Journal, path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "KEPT_EVENTS", 0)
    monkeypatch.setattr("celery_asynctask.journal.waiting.KEPT_EVENTS", 0)
    disk.is_full = True
    event = b"x" * 10_000
    written = sum(journal.append(event) for _ in range(2000))
    assert spare.SPARE_BYTES <= written * len(event) <= spare.SPARE_BYTES + writer.CHECK_BYTES + len(event)
    assert journal.dropped == {"ENOSPC": 2000 - written}
    other = Journal(path, STORE)
    written = sum(other.append(event) for _ in range(500))
    other.close()
    assert spare.OWN_BYTES <= written * len(event) <= spare.OWN_BYTES + writer.CHECK_BYTES + len(event)
    assert spare.OWN_BYTES > 1000 * 2_000, "1,000 events of 2 kB"


@pytest.mark.parametrize("keeps", [False, True], ids=["removed", "kept"])
def test_what_is_stored_is_room_again(
    journal: Journal, path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, keeps: bool
) -> None:
    """A disk may be full for hours, while the database takes everything."""
    monkeypatch.setattr("celery_asynctask.journal.waiting.KEPT_EVENTS", 0)
    journal.append(b"first")
    directory = Directory(path, STORE)
    disk.is_full = True
    for number in range(2 * spare.SPARE_BYTES // 10_000):
        journal.append(b"x" * 10_000)
        if number % 20:
            continue
        stored = [segment for segment in directory.segments() if not is_being_written(segment.path)]
        for segment in stored:
            directory.keep(segment)
            if not keeps:
                segment.path.with_suffix(".kept").unlink()
    assert journal.dropped == {}
    there = sum(file.stat().st_size for file in second_place(path).iterdir())
    assert there <= spare.SPARE_BYTES + spare.SEGMENT_BYTES + writer.CHECK_BYTES


def test_a_segment_that_is_removed_meanwhile_takes_no_room(
    path: Path, disk: Disk, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.is_full = True
    journal.append(b"1")
    there = Path.iterdir

    def with_one_more(directory: Path) -> Iterator[Path]:
        yield from there(directory)
        yield directory / "gone.000001.events"

    monkeypatch.setattr(Path, "iterdir", with_one_more)
    assert spare.make_room(second_place(path), journal.source)


def test_a_second_place_that_cannot_be_read_is_not_used(
    path: Path, disk: Disk, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Path) -> Iterator[Path]:
        raise OSError(errno.EIO, "broken")

    journal.append(b"1")
    disk.is_full = True
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", broken)
        assert not journal.append(b"2")
    assert journal.append(b"3")
    assert events_in(path)[journal.source] == [(1, b"1"), (2, b"2"), (3, b"3")]


def test_a_place_that_is_not_private_is_not_used(path: Path, disk: Disk, journal: Journal) -> None:
    second_place(path).mkdir(mode=0o755)
    second_place(path).chmod(0o755)
    journal.append(b"1")
    disk.is_full = True
    assert not journal.append(b"2")
    assert list(second_place(path).iterdir()) == []


def test_what_is_kept_goes_first(journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments that are stored already, and kept for a failover, make room for new events."""
    journal.append(b"1")
    journal.close()
    directory = Directory(path, STORE)
    [segment] = directory.segments()
    directory.keep(segment)
    journal.append(b"2")
    write = os.write

    def full_while_something_is_kept(handle: int, data: bytes) -> int:
        if directory.kept():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data)

    monkeypatch.setattr(os, "write", full_while_something_is_kept)
    assert journal.append(b"3")
    assert directory.kept() == []
    assert not second_place(path).exists()


def test_what_is_kept_at_home_goes_before_events_stay_in_the_second_place(
    journal: Journal, path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fills the disk is stored, and kept, while the process is in the second place."""
    journal.append(b"1")
    disk.is_full = True
    journal.append(b"2")
    directory = Directory(path, STORE)
    stored = [segment for segment in directory.segments() if not is_being_written(segment.path)]
    for segment in stored:
        directory.keep(segment)

    def full_while_something_is_kept(handle: int, data: bytes) -> int:
        disk.is_full = bool(directory.kept())
        return disk.write(handle, data)

    monkeypatch.setattr(os, "write", full_while_something_is_kept)
    assert journal.append(b"3")
    assert {segment.path.parent for segment in directory.segments()} == {path}
    assert directory.kept() == []


def test_what_is_kept_in_the_second_place_stays_while_there_is_room(journal: Journal, path: Path, disk: Disk) -> None:
    """Each try to come home would let go of it, and a failover would lose it."""
    disk.is_full = True
    journal.append(b"1")
    journal.close()
    directory = Directory(path, STORE)
    [segment] = directory.segments()
    directory.keep(segment)
    assert journal.append(b"2")
    assert journal.append(b"3")
    assert [kept.path.parent for kept in directory.kept()] == [second_place(path)]


def test_a_segment_that_is_being_moved_is_read_once(path: Path, journal: Journal, disk: Disk) -> None:
    disk.is_full = True
    journal.append(b"1")
    journal.close()
    [segment] = Directory(path, STORE).segments()
    shutil.copy(segment.path, path)
    assert [found.path.parent for found in Directory(path, STORE).segments()] == [path]
    spare.bring_home(second_place(path), path)
    assert not list(second_place(path).glob("*.events"))


def test_moving_fails_as_a_whole(path: Path, journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.is_full = True
    journal.append(b"1")
    journal.close()

    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(shutil, "copyfileobj", broken)
    with pytest.raises(OSError, match="broken"):
        spare.bring_home(second_place(path), path)
    assert list(path.glob("*.events*")) == []
    assert len(list(second_place(path).glob("*.events"))) == 1


def test_segments_are_small_where_there_is_little_room(path: Path) -> None:
    directory = Directory(path, STORE)
    assert directory.share(10**9, 1, 2**20) == 2**20
    assert directory.share(16_000_000, 1, 2**20) == 16_000_000 // 4 // 16
    assert directory.share(16_000, 1000, 2**20) == 1000
    for number in range(32):
        (path / f"a.{number:06d}.events").touch()
    assert directory.share(16_000_000, 1, 2**20) == 16_000_000 // 4 // 32


def test_quarantine_goes_there_while_the_disk_is_full(path: Path, journal: Journal, disk: Disk) -> None:
    """Else poison would stop the recorder until somebody makes room."""
    directory = Directory(path, STORE)
    disk.is_full = True
    assert directory.quarantine("a-1-1", b"poison")
    assert [found.parent for found in directory.paths(".quarantine")] == [path, second_place(path)]
    assert (second_place(path) / "a-1-1.quarantine").read_bytes() == b"poison\n"
    assert directory.quarantined() == len(b"poison\n")


def test_a_process_that_cannot_come_home_holds_a_segment_where_it_is(
    journal: Journal, path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be taken for gone while its next task runs."""
    disk.is_full = True
    journal.append(b"1")
    disk.is_full = False

    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(shutil, "copyfileobj", broken)
    assert journal.append(b"2")
    directory = Directory(path, STORE)
    assert [is_being_written(segment.path) for segment in directory.segments()] == [False, True]
    assert directory.segments()[-1].path.parent == second_place(path)
    assert journal.append(b"3")
    monkeypatch.undo()
    assert events_in(path)[journal.source] == [(1, b"1"), (2, b"2"), (3, b"3")]
