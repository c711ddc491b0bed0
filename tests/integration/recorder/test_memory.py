"""Recording without a usable journal directory: from the memory of one process into the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from celery_asynctask.core.event import encode
from celery_asynctask.journal import Journal
from celery_asynctask.recorder import memory
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.histories import published
from tests.integration.draining import source_of
from tests.integration.rows import stored


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
