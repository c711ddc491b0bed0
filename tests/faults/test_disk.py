"""A hostile disk: a process that appends neither fails nor waits, counts what it cannot keep, and resumes by itself.

Full, without inodes and read-only are real where the tests may mount a small file system (as root, in a mount
namespace of a forked child), and patched functions of `os` elsewhere; the limit on file sizes, the deleted directory
and the full journal are real everywhere; the clock is patched.
"""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from celery_asynctask.core.event import Event, Kind, encode
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.journal import Directory, Journal, frame, writer
from celery_asynctask.recorder import Recorder
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask
from tests.faults.disks import PATCHED, REAL, Cause, can_mount, file_too_large, on_small_disk
from tests.faults.journals import drain_all, event_of, new_settings, write
from tests.pace import patience
from tests.processes import at_once
from tests.waiting import wait_for

pytestmark = pytest.mark.faults

WAIT = 0.5
"""Seconds that one append may take at the most on the reference machine: far less than anything that waits."""
RESUME_SECONDS = 5.0
FAULT_SECONDS = 2.0
STORE = "sqlite:///unused"


class Told(NamedTuple):
    """What a process that met a hostile disk saw; it sends it to the test."""

    appended: int
    longest: float
    resumed: float
    """Seconds from the end of the cause to an event in the journal again."""
    failed: int
    dropped: dict[str, int]
    numbers: list[int]
    """Of the events in all segments, in their order."""
    damaged: int
    log: list[str]


class Appending:
    """Appends an event when called, and takes the time."""

    def __init__(self, journal: Journal, number: int = 0) -> None:
        self.journal = journal
        self.number = number
        """How many were appended."""
        self.failed = 0
        self.longest = 0.0

    def __call__(self) -> bool:
        self.number += 1
        data = encode(event_of(0, self.number))
        at = time.perf_counter()
        done = self.journal.append(data)
        self.longest = max(self.longest, time.perf_counter() - at)
        self.failed += not done
        return done


class _Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def numbers_in(directory: Path) -> tuple[list[int], int]:
    """The numbers of all events in a journal, and how many lines are damaged."""
    numbers, damaged = [], 0
    for segment in Directory(directory, STORE).segments():
        data = segment.path.read_bytes()
        found = frame.scan(data, len(data))
        numbers += found.numbers[1:]
        damaged += len(found.damaged) + (found.consumed < len(data))
    return numbers, damaged


def live_through(disk: Path, cause: Cause, kept: int = writer.KEPT_EVENTS) -> Told:
    """Append before, during and after."""
    writer.KEPT_EVENTS = kept
    log = _Log()
    logging.getLogger("celery_asynctask.journal").addHandler(log)
    journal = Journal(disk / "journal", STORE)
    append = Appending(journal)
    for _ in range(100):
        assert append()
    with cause(disk):
        until = time.monotonic() + FAULT_SECONDS
        while time.monotonic() < until or append.failed <= 100:
            append()
            time.sleep(0.002)
    over = time.monotonic()
    wait_for(append, RESUME_SECONDS, "an event to be written again")
    resumed = time.monotonic() - over
    assert append()
    numbers, damaged = numbers_in(disk / "journal")
    return Told(
        append.number, append.longest, resumed, append.failed, dict(journal.dropped), numbers, damaged, log.lines
    )


def in_child(disk: Path, cause: Cause, small: bool, **options: Any) -> Told:
    def run(_number: int) -> Told:
        if small:
            on_small_disk(disk)
        return live_through(disk, cause, **options)

    disk.mkdir(exist_ok=True)
    told: Told = at_once(1, run)[0]
    return told


def check_told(told: Told) -> None:
    print(
        f"\n{told.appended} appended, longest {told.longest * 1000:.2f} ms, resumed after {told.resumed:.2f} s, ",
        end="",
    )
    print(f"{told.failed} while it failed, dropped {told.dropped}")
    assert told.longest < patience(WAIT)
    assert not told.damaged
    assert told.numbers == sorted(set(told.numbers))
    assert len(told.numbers) + sum(told.dropped.values()) == told.appended
    assert [line for line in told.log if "cannot write" in line][1:] == []
    assert len([line for line in told.log if "writes to its journal again" in line]) == 1, told.log


@pytest.mark.parametrize("kept", [writer.KEPT_EVENTS, 50], ids=["kept", "dropped"])
@pytest.mark.parametrize("name", [*REAL, "limit"])
def test_a_disk_that_takes_nothing(tmp_path: Path, name: str, kept: int) -> None:
    """What finds room in memory is in the journal afterwards, in its order; the rest is counted."""
    if name == "limit":
        told = in_child(tmp_path / "disk", file_too_large, small=False, kept=kept)
    else:
        real = can_mount()
        told = in_child(tmp_path / "disk", (REAL if real else PATCHED)[name], small=real, kept=kept)
    if name == "no inodes":  # its segment was deleted with what was in it
        first = told.numbers[0]
        told = told._replace(
            numbers=[*range(1, first), *told.numbers], log=[one for one in told.log if "dele" not in one]
        )
    check_told(told)
    if kept == writer.KEPT_EVENTS:
        assert not told.dropped
    else:
        assert sum(told.dropped.values()) == told.failed - kept


def test_the_directory_is_deleted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was not stored is lost with it, which is said once; everything after a moment is recorded again."""
    settings = new_settings(f"sqlite:///{tmp_path}/x.db", tmp_path)
    journal = write(settings, 0, 50)
    shutil.rmtree(settings.directory)
    append = Appending(journal, 50)
    wait_for(lambda: append() and settings.directory.exists(), RESUME_SECONDS, "a new directory")
    first = append.number + 1
    for _ in range(50):
        append()
    assert append.longest < patience(WAIT)
    assert sum("was deleted" in line for line in caplog.messages) == len(caplog.messages) == 1
    found = [one for segment in sorted(settings.directory.glob("*.segment")) for one in _numbers(segment)]
    assert found == list(range(first, append.number + 1))
    journal.close()
    drain_all(settings)


def _numbers(segment: Path) -> list[int]:
    data = segment.read_bytes()
    return frame.scan(data, len(data)).numbers[1:]


def test_the_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour, in the middle of runs and of the recorder's work: all is stored at once, and nobody is lost for it."""
    settings = new_settings(f"sqlite:///{tmp_path}/x.db", tmp_path, flush_interval=0.05)
    journal = Journal(settings.directory, settings.store_id)
    recorder = Recorder(settings, journal)
    recorder.start()
    store = Store(settings)

    def tell(kind: Kind, **more: Any) -> None:
        for task in range(20):
            run = {"run": f"{started:014x}{task:06x}"} if more else {}
            event: dict[str, Any] = {"id": f"task{task}", **run, "kind": kind.value, "at": time.time_ns() // 1000}
            told: Event = {**event, "name": "shop.charge", **more}  # type: ignore[typeddict-item]
            assert journal.append(encode(told))

    def are(status: AsyncTaskStatus) -> bool:
        with Session(store.engine) as session:
            rows = list(session.scalars(select(AsyncTask)))
        return len(rows) == 20 and {row.status for row in rows} == {status}

    real, real_ns = time.time, time.time_ns
    try:
        started = time.time_ns() // 1000
        tell(Kind.PUBLISHED)
        tell(Kind.STARTED, source=journal.source)
        wait_for(lambda: are(AsyncTaskStatus.STARTED), RESUME_SECONDS, "the starts to be stored")
        monkeypatch.setattr(time, "time", lambda: real() - 3600)
        monkeypatch.setattr(time, "time_ns", lambda: real_ns() - 3600 * 10**9)
        tell(Kind.SUCCEEDED, ran=True)
        wait_for(lambda: are(AsyncTaskStatus.SUCCESS), RESUME_SECONDS, "the ends to be stored")
    finally:
        recorder.stop(5)
        journal.close()
        store.close()


def test_the_journal_is_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond its bound events are dropped and counted; when a recorder has stored some, it goes on by itself."""
    settings = new_settings(f"sqlite:///{tmp_path}/x.db", tmp_path)
    dead = Journal(settings.directory, settings.store_id)
    write(settings, 1, 2000, journal=dead)
    dead.close()
    journal = Journal(settings.directory, settings.store_id, max_bytes=1_500_000)
    append = Appending(journal)
    while append():
        assert append.number < 20_000, "the bound is not kept"
    for _ in range(500):
        assert not append()
    assert set(journal.dropped) == {"journal_max_bytes"}
    assert sum(journal.dropped.values()) == append.failed
    drain_all(settings)
    wait_for(append, RESUME_SECONDS, "the journal to take events again")
    assert append.longest < patience(WAIT)
    for _ in range(10):
        assert append()
    journal.close()
    drain_all(settings)
    store = Store(settings)
    position = store.position(journal.source)
    store.close()
    assert (position.last_number, position.missing) == (append.number - append.failed, 0), position
    assert position.dropped == dict(journal.dropped)
    assert sum("cannot write" in line for line in caplog.messages) == 1
    assert sum("writes to its journal again" in line for line in caplog.messages) == 1
    print(f"\n{append.number} appended, {position.dropped} dropped, longest {append.longest * 1000:.2f} ms")
