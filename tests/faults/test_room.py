"""Little room for the journal, and a database that stores everything: room that is drained is room again at once, so
nothing is ever dropped.

ASYNCTASK_ROOM_EVENTS is the number of events that each of the processes writes.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from celery_asynctask.core.event import encode
from celery_asynctask.journal import Directory, Journal
from celery_asynctask.recorder import Recorder
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.faults.disks import can_mount, on_small_disk
from tests.faults.journals import drain_all, event_of, new_settings
from tests.processes import at_once
from tests.waiting import wait_for

pytestmark = pytest.mark.faults

EVENTS = int(os.environ.get("ASYNCTASK_ROOM_EVENTS", "4000"))
BURST = 500
"""Events that a process writes before it waits for the database, which is about 200 kB."""


def keep_pace(journals: list[Journal], store: Store, burst: int) -> None:
    """Write the events of each process, never far ahead of the database."""
    for number in range(EVENTS):
        for journal in journals:
            journal.append(encode(event_of(journals.index(journal), number + 1)))
        if number % burst == 0:
            wait_for(partial(are_stored, journals, store), 20, "the events to be stored")


def are_stored(journals: list[Journal], store: Store) -> bool:
    return all(store.position(journal.source).last_number == journal.numbered for journal in journals)


def record(settings: Settings, count: int, burst: int) -> list[Journal]:
    """Let processes write while a recorder works; returns their journals."""
    journals = [Journal(settings.directory, settings.store_id, settings.journal_max_bytes) for _ in range(count)]
    recorder, store = Recorder(settings), Store(settings)
    recorder.start()
    try:
        keep_pace(journals, store, burst)
        for journal in journals:
            journal.close()
        wait_for(partial(are_stored, journals, store), 20, "the last events to be stored")
    finally:
        recorder.stop(20)
        store.close()
    return journals


def test_the_limit_is_far_below_what_the_processes_write(tmp_path: Path) -> None:
    settings = new_settings(f"sqlite:///{tmp_path}/x.db", tmp_path, flush_interval=0.05, journal_max_bytes=1_500_000)
    for journal in record(settings, 2, BURST):
        assert (journal.numbered, dict(journal.dropped)) == (EVENTS, {})


def test_the_volume_is_small(tmp_path: Path) -> None:
    """A tmpfs of 2 MiB, as an `emptyDir` in memory is."""
    if not can_mount():
        pytest.skip("this user cannot mount a disk")

    def host(_number: int) -> list[tuple[int, dict[str, int]]]:
        on_small_disk(tmp_path / "disk", 2)
        settings = new_settings(f"sqlite:///{tmp_path}/x.db", tmp_path / "disk", flush_interval=0.05)
        return [(journal.numbered, dict(journal.dropped)) for journal in record(settings, 2, BURST)]

    assert at_once(1, host)[0] == [(EVENTS, {})] * 2


def test_drained_room_is_room_again(tmp_path: Path) -> None:
    """The journal is full of what one living process wrote. As soon as that is stored, the process writes again,
    without waiting for anything else."""
    settings = new_settings(f"sqlite:///{tmp_path}/x.db", tmp_path, journal_max_bytes=1_500_000)
    journal = Journal(settings.directory, settings.store_id, settings.journal_max_bytes)
    number = 0
    while not journal.dropped:
        number += 1
        journal.append(encode(event_of(0, number)))
        assert number < 20_000, "the limit is not kept"
    drain_all(settings)
    wait_for(lambda: journal.append(encode(event_of(0, number))), 0.1, "the journal to take events again")
    assert Directory.size(settings.directory) < settings.journal_max_bytes / 4
    journal.close()
