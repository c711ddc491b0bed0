"""A hostile disk: a process that appends neither fails nor waits, counts the events that it cannot keep, and resumes by
itself.

A full disk, one without inodes and a read-only one are real where the tests can mount a small file system (as root, in
a mount namespace of a forked child), and patched functions of `os` elsewhere. The limit on file sizes, the deleted
directory and the full journal are real everywhere; the clock is patched.
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
from celery_asynctask.journal import Directory, Journal, frame, spare, waiting
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
"""Longest time of one append on the reference machine: far less than any wait."""
RESUME_SECONDS = 5.0
FAULT_SECONDS = 2.0
STORE = "sqlite:///unused"


class Report(NamedTuple):
    """The observations of a process on a hostile disk, which it sends to the test."""

    appended: int
    longest: float
    resumed: float
    """Seconds from the end of the fault to the next event in the journal."""
    failed: int
    dropped: dict[str, int]
    numbers: list[int]
    """The events in all segments, in order."""
    damaged: int
    log: list[str]


class Appending:
    """Appends an event when called, and measures the time."""

    def __init__(self, journal: Journal, number: int = 0) -> None:
        self.journal = journal
        self.number = number
        """Number of events appended."""
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
    """The numbers of all events in a journal, and the number of damaged lines."""
    numbers, damaged = [], 0
    for segment in Directory(directory, STORE).segments():
        data = segment.path.read_bytes()
        scanned = frame.scan(data, len(data))
        numbers += scanned.numbers[1:]
        damaged += len(scanned.damaged) + (scanned.consumed < len(data))
    return numbers, damaged


def live_through(disk: Path, cause: Cause, kept: int = waiting.KEPT_EVENTS) -> Report:
    """Append before, during and after the fault, where there is no second place for the journal."""
    spare.spare_of = lambda *_: None
    waiting.KEPT_EVENTS = kept
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
    return Report(
        append.number, append.longest, resumed, append.failed, dict(journal.dropped), numbers, damaged, log.lines
    )


def in_child(disk: Path, cause: Cause, small: bool, **options: Any) -> Report:
    def run(_number: int) -> Report:
        if small:
            on_small_disk(disk)
        return live_through(disk, cause, **options)

    disk.mkdir(exist_ok=True)
    report: Report = at_once(1, run)[0]
    return report


def check_report(report: Report) -> None:
    print(
        f"\n{report.appended} appended, longest {report.longest * 1000:.2f} ms, resumed after {report.resumed:.2f} s, ",
        end="",
    )
    print(f"{report.failed} while it failed, dropped {report.dropped}")
    assert report.longest < patience(WAIT)
    assert not report.damaged
    assert report.numbers == sorted(set(report.numbers))
    assert len(report.numbers) + sum(report.dropped.values()) == report.appended
    assert [line for line in report.log if "cannot write" in line][1:] == []
    assert len([line for line in report.log if "writes to its journal again" in line]) == 1, report.log


@pytest.mark.parametrize("kept", [waiting.KEPT_EVENTS, 50], ids=["kept", "dropped"])
@pytest.mark.parametrize("name", [*REAL, "limit"])
def test_a_disk_that_takes_nothing(tmp_path: Path, name: str, kept: int) -> None:
    """Events that fit into memory are in the journal afterwards, in order; the others are counted."""
    if name == "limit":
        report = in_child(tmp_path / "disk", file_too_large, small=False, kept=kept)
    else:
        real = can_mount()
        report = in_child(tmp_path / "disk", (REAL if real else PATCHED)[name], small=real, kept=kept)
    if name == "no inodes":  # its segment was deleted with its events
        first = report.numbers[0]
        report = report._replace(
            numbers=[*range(1, first), *report.numbers], log=[line for line in report.log if "dele" not in line]
        )
    check_report(report)
    if kept == waiting.KEPT_EVENTS:
        assert not report.dropped
    else:
        assert sum(report.dropped.values()) == report.failed - kept


def test_the_directory_is_deleted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Events that were not stored are lost with it, which is logged once; after a moment, everything is recorded
    again."""
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
    segments = sorted(settings.directory.glob("*.events"))
    assert [number for segment in segments for number in _numbers(segment)] == list(range(first, append.number + 1))
    journal.close()
    drain_all(settings)


def _numbers(segment: Path) -> list[int]:
    data = segment.read_bytes()
    return frame.scan(data, len(data)).numbers[1:]


def test_the_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock jumps by an hour, during attempts and the recorder's work: everything is stored at once, and no task is
    lost."""
    settings = new_settings(f"sqlite:///{tmp_path}/x.db", tmp_path, flush_interval=0.05)
    journal = Journal(settings.directory, settings.store_id)
    recorder = Recorder(settings, journal)
    recorder.start()
    store = Store(settings)

    def tell(kind: Kind, **extra: Any) -> None:
        for task in range(20):
            run = {"run": f"{started:014x}{task:06x}"} if extra else {}
            event: dict[str, Any] = {"id": f"task{task}", **run, "kind": kind.value, "at": time.time_ns() // 1000}
            complete: Event = {**event, "name": "shop.charge", **extra}  # type: ignore[typeddict-item]
            assert journal.append(encode(complete))

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
    """Beyond its limit, events are dropped and counted; once a recorder has stored some, recording goes on by
    itself."""
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
