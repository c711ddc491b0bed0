"""A disk that takes nothing, and the end of a process meanwhile: what it accepted is stored up to the stated bound, and
beyond it, it is in the ledger.

Each test has a small disk of its own, in a mount namespace of a forked child, the host. The process that writes is
another child, which the host kills; then the host mends the disk and does the work of the next recorder.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from celery_asynctask.core.accounting import Ledger
from celery_asynctask.core.event import Event, Kind, encode
from celery_asynctask.journal import Directory, Journal
from celery_asynctask.journal.survey import survey_of
from celery_asynctask.queries.completeness import completeness
from celery_asynctask.queries.reader import Reader
from celery_asynctask.settings import Settings
from celery_asynctask.store import Position, Store
from tests.faults.disks import Cause, can_mount, full, mend, no_new_files, on_small_disk, read_only
from tests.faults.journals import Life, check, drain_all, event_of, new_settings
from tests.faults.proc import fork, reap
from tests.processes import at_once

pytestmark = pytest.mark.faults

BEFORE = 100
EVENTS = 1000
"""The least number of events of a process that survive it while the disk takes nothing."""
BYTES = 2 * 1024 * 1024
"""The least number of bytes of a process's events that do."""
ALL_BYTES = 16 * 1024 * 1024
"""And of those of all processes together."""
CAUSES: dict[str, Cause] = {"full": full, "no inodes": no_new_files, "read-only": read_only}
Script = Callable[[Journal], int]
"""Uses the journal; returns the number of events that it appended."""


def event_of_size(life: int, number: int, size: int) -> Event:
    at = time.time_ns() // 1000
    return {
        "id": f"life{life}-{number}",
        "kind": Kind.PUBLISHED.value,
        "at": at,
        "name": "x" * 100,
        "args": ["y" * size],
    }


class Victim:
    """A process that plays a script on the disk while it takes nothing, then waits to be killed, or ends."""

    def __init__(self, settings: Settings, script: Script, *, ends: bool = False) -> None:
        reading, telling = os.pipe()

        def body() -> None:
            journal = Journal(settings.directory, settings.store_id)
            accepted = script(journal)
            os.write(telling, f"{journal.source} {accepted}\n".encode())
            if not ends:
                signal.pause()

        self.pid = fork(body)
        self.ends = ends
        os.close(telling)
        with os.fdopen(reading, encoding="ascii") as file:
            said = file.readline().split()
        assert said, "the process has died"
        self.source, self.accepted = said[0], int(said[1])

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *_: object) -> None:
        """Let it end, or kill it."""
        if not self.ends:
            os.kill(self.pid, signal.SIGKILL)
        assert reap(self.pid) == (0 if self.ends else -signal.SIGKILL)


def on_disk(disk: Path, megabytes: int, play: Callable[[], Any]) -> Any:
    """What ``play`` returns in a host with a disk of its own."""
    if not can_mount():
        pytest.skip("this user cannot mount a disk")

    def host(_number: int) -> Any:
        on_small_disk(disk, megabytes)
        return play()

    return at_once(1, host)[0]


def position_of(settings: Settings, source: str) -> Position:
    store = Store(settings)
    try:
        return store.position(source)
    finally:
        store.close()


def ledger_of(settings: Settings) -> Ledger:
    reader = Reader(settings.url)
    try:
        return completeness(reader, survey_of(settings.directory)).ledger
    finally:
        reader.close()


def write_both(disk: Path, cause: Cause, before: int, during: int, journal: Journal) -> int:
    """Append events before and while the disk takes nothing."""
    for number in range(1, before + 1):
        assert journal.append(encode(event_of(0, number)))
    fault = cause(disk)
    fault.__enter__()  # this process does not see its end
    for number in range(before + 1, before + during + 1):
        journal.append(encode(event_of(0, number)))
    return before + during


@pytest.mark.parametrize("before", [BEFORE, 0], ids=["running", "starting"])
@pytest.mark.parametrize("cause", CAUSES.values(), ids=CAUSES)
def test_a_kill_while_the_disk_takes_nothing(tmp_path: Path, cause: Cause, before: int) -> None:
    """All events of a child are stored. One that starts has no file on the disk yet, but others were there before."""

    def play() -> None:
        settings = new_settings(f"sqlite:///{tmp_path}/x.db", tmp_path / "disk")
        Directory(settings.directory, settings.store_id)
        with Victim(settings, partial(write_both, tmp_path / "disk", cause, before, EVENTS)) as victim:
            pass
        mend(tmp_path / "disk")
        drain_all(settings)
        check(settings, [Life(f"0 {victim.source} {'.' * victim.accepted}".encode())])

    on_disk(tmp_path / "disk", 4, play)


@pytest.mark.parametrize("cause", CAUSES.values(), ids=CAUSES)
def test_a_disk_that_never_took_anything(tmp_path: Path, cause: Cause) -> None:
    """There is no journal directory yet, and none can be made: the first process after the fault drains what was
    kept."""

    def play() -> None:
        settings = new_settings(f"sqlite:///{tmp_path}/x.db", tmp_path / "disk")
        with Victim(settings, partial(write_both, tmp_path / "disk", cause, 0, EVENTS)) as victim:
            pass
        mend(tmp_path / "disk")
        drain_all(settings)
        check(settings, [Life(f"0 {victim.source} {'.' * victim.accepted}".encode())])

    on_disk(tmp_path / "disk", 4, play)


def test_no_file_can_be_made_while_segments_end(tmp_path: Path) -> None:
    """An open segment can be written to, but not be followed by another one."""

    def play() -> None:
        settings = new_settings(f"sqlite:///{tmp_path}/x.db", tmp_path / "disk")
        with Victim(settings, partial(write_both, tmp_path / "disk", no_new_files, BEFORE, 8 * EVENTS)) as victim:
            pass
        mend(tmp_path / "disk")
        drain_all(settings)
        check(settings, [Life(f"0 {victim.source} {'.' * victim.accepted}".encode())])

    on_disk(tmp_path / "disk", 8, play)


def write_much(disk: Path, cause: Cause, count: int, size: int, journal: Journal) -> int:
    fault = cause(disk)
    fault.__enter__()
    for number in range(count):
        journal.append(encode(event_of_size(0, number, size)))
    return count


def test_many_processes_die_on_a_full_disk(tmp_path: Path) -> None:
    """Each has 2 MiB for sure, and all together have 16 MiB."""
    size = BYTES // EVENTS
    count = ALL_BYTES // BYTES

    def fill(victim: int, journal: Journal) -> int:
        return write_much(tmp_path / "disk", full, EVENTS - 100, size, journal)

    def play() -> None:
        settings = new_settings(f"sqlite:///{tmp_path}/x.db", tmp_path / "disk")
        with ExitStack() as living:
            victims = [living.enter_context(Victim(settings, partial(fill, number))) for number in range(count)]
        mend(tmp_path / "disk")
        drain_all(settings)
        positions = [position_of(settings, victim.source) for victim in victims]
        assert [(at.stored, at.missing, at.dropped) for at in positions] == [(EVENTS - 100, 0, {})] * count
        assert ledger_of(settings).complete is True

    on_disk(tmp_path / "disk", 4, play)


@pytest.mark.parametrize("end", ["killed", "ended"])
@pytest.mark.parametrize("cause", [full, read_only], ids=["full", "read-only"])
def test_beyond_the_bound(tmp_path: Path, cause: Cause, end: str) -> None:
    """What fits nowhere waits in memory. If the process is killed, it is missing, by number; if it ends, it is dropped.
    Neither is forgotten, and the record is not complete."""
    size = 20_000
    count = ALL_BYTES // size + 500

    def script(journal: Journal) -> int:
        accepted = write_much(tmp_path / "disk", cause, count, size, journal)
        if end == "ended":
            journal.close()
            journal.abandon()
        return accepted

    def play() -> tuple[int, int, int]:
        settings = new_settings(f"sqlite:///{tmp_path}/x.db", tmp_path / "disk")
        Directory(settings.directory, settings.store_id)
        with Victim(settings, script, ends=end == "ended") as victim:
            if cause is full:  # `read_only` takes its locks from a process
                assert ledger_of(settings).accepted == count
        assert ledger_of(settings).accepted == count
        mend(tmp_path / "disk")
        drain_all(settings)
        at = position_of(settings, victim.source)
        dropped = sum((at.dropped or {}).values())
        print(f"{count} accepted: {at}")
        assert at.stored + at.missing + dropped == count
        assert at.stored > ALL_BYTES // size * 0.9
        assert ledger_of(settings).complete is not True
        return at.stored, at.missing, dropped

    stored, missing, dropped = on_disk(tmp_path / "disk", 4, play)
    print(f"\n{count} accepted, {stored} stored, {missing} missing, {dropped} dropped")
    assert (missing > 0, dropped > 0) == (end == "killed", end == "ended")
