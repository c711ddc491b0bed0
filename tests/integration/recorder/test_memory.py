"""Recording without a usable journal directory: from the memory of one process into the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from celery_asynctask.core.event import encode
from celery_asynctask.journal import Journal
from celery_asynctask.recorder import memory
from celery_asynctask.recorder.recorder import Recorder
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.histories import published
from tests.integration.draining import source_of
from tests.integration.rows import stored
from tests.pace import patience


def test_the_log_says_that_events_are_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And not in the directory, which nobody can look into."""
    (tmp_path / "journal").touch()
    settings = Settings(url="postgresql+psycopg://u@127.0.0.1:9/d", journal_dir=tmp_path / "journal")
    journal = Journal(settings.directory, settings.store_id)
    assert not journal.append(encode(published()))
    recorder = Recorder(settings, journal)
    recorder.start(once=True)
    recorder.stop(patience(30))
    [line] = [record.getMessage() for record in caplog.records if "cannot store events" in record.getMessage()]
    assert "Their events are kept in memory, and stored when" in line
    journal.close()


def test_processes_are_noted_as_alive_while_poison_is_searched_for(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take long, and other nodes would take it for gone."""
    path = tmp_path / "journal"
    path.touch()
    journal = Journal(path, store.settings.store_id)
    drain = memory.MemoryDrain(journal, Settings(url=store.settings.url, journal_dir=path))
    assert not journal.append(encode(published()))
    drain.work()
    noted: list[object] = []
    monkeypatch.setattr(Store, "note_alive", lambda _, sources: noted.append(sources))
    monkeypatch.setattr(memory, "LOOK_SECONDS", 0)
    for event in (b"no event", encode({**published(), "id": "another"})):
        assert not journal.append(event)
    drain.look_at = 0
    drain.work()
    assert len(noted) > 2
    assert len(stored(store)) == 2
    source = source_of(store, journal.source)
    assert (source.stored, source.quarantined) == (2, 1)
    drain.close()
