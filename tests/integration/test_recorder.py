"""The recorder's thread: when it works, when it notes who lives, and how it ends."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_asynctask import recorder as module
from celery_asynctask import watch, work
from celery_asynctask.events import encode
from celery_asynctask.journal import Journal
from celery_asynctask.recorder import Recorder
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.histories import published
from tests.integration.draining import sources
from tests.integration.rows import stored
from tests.waiting import wait_for

SECONDS = 10
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
        """When the process was last noted to live."""
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
    """Looks are as near to each other as flushes are seldom."""
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(work, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(module, "ELECTION_SECONDS", 0.05, raising=False)


def is_later(host: Host, than: dt.datetime) -> Callable[[], bool]:
    return lambda: host.seen() > than


@pytest.mark.usefixtures("often")
def test_it_notes_life_between_two_flushes(host: Host) -> None:
    """Which may be so far from each other that other nodes took its processes for gone."""
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
    host.record("first")
    one, other = (host.recorder(flush_interval=SELDOM) for _ in range(2))
    one.start()
    wait_for(lambda: one.is_elected, SECONDS, "the election")
    other.start()
    host.wait_for("first")
    one.stop(SECONDS)
    host.record("second")
    wait_for(lambda: other.is_elected, SECONDS, "the other to take over")
    host.wait_for("first", "second")
