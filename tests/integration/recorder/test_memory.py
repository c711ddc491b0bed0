"""Recording without a usable journal directory: from the memory of one process into the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DatabaseError

from celery_asynctask.core.event import encode
from celery_asynctask.journal import Journal, spare, waiting
from celery_asynctask.recorder import memory
from celery_asynctask.recorder.recorder import Recorder
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.histories import published
from tests.integration.draining import source_of, sources
from tests.integration.rows import stored
from tests.pace import patience


@pytest.fixture(autouse=True)
def _no_second_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "spare_of", lambda *_: None)


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


def drain_of(store: Store, path: Path, **more: Any) -> tuple[Journal, memory.MemoryDrain]:
    path.touch()
    journal = Journal(path, store.settings.store_id)
    return journal, memory.MemoryDrain(journal, Settings(url=store.settings.url, journal_dir=path, **more))


def test_processes_are_noted_as_alive_while_poison_is_searched_for(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take long, and other nodes would take it for gone."""
    journal, drain = drain_of(store, tmp_path / "journal")
    assert not journal.append(encode(published()))
    drain.work()
    noted: list[object] = []
    monkeypatch.setattr(Store, "note_alive", lambda _, sources: noted.append(sources))
    monkeypatch.setattr(memory, "LOOK_SECONDS", 0)
    write = Store.write

    def picky(of: Store, events: Sequence[bytes], *arguments: Any, **options: Any) -> int:
        if any(b'"name":"bad"' in one for one in events):
            raise DatabaseError("INSERT", {}, Exception("no"))
        return write(of, events, *arguments, **options)

    monkeypatch.setattr(Store, "write", picky)
    for number, name in enumerate(("bad", "n", "n", "n")):
        assert not journal.append(encode({**published(), "id": f"another-{number}", "name": name}))
    drain.look_at = 0
    drain.work()
    assert len(noted) > 2
    assert len(stored(store)) == 4
    source = source_of(store, journal.source)
    assert (source.stored, source.quarantined, source.last_number) == (4, 1, 5)
    drain.close()


@pytest.mark.every_database
def test_the_last_word_of_a_process(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has dropped is in the ledger, and nothing else is to come."""
    monkeypatch.setattr(waiting, "KEPT_EVENTS", 3)
    journal, drain = drain_of(store, tmp_path / "journal")
    for number in range(5):
        assert not journal.append(encode({**published(), "id": f"task-{number}"}))
    drain.work()
    source = source_of(store, journal.source)
    assert (source.stored, source.numbered, source.settled_at) == (3, 3, None)
    drain.finish()
    source = source_of(store, journal.source)
    assert (source.stored, source.last_number, source.numbered) == (3, 3, 3)
    assert source.dropped == {"unusable directory": 2}
    assert source.settled_at is not None
    drain.close()


def test_a_process_that_has_recorded_nothing_says_nothing(store: Store, tmp_path: Path) -> None:
    _, drain = drain_of(store, tmp_path / "journal")
    drain.work()
    drain.finish()
    assert sources(store) == []
    drain.close()


def test_a_recorder_that_is_stopped_says_the_last_word(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.touch()
    settings = Settings(url=store.settings.url, journal_dir=path)
    journal = Journal(path, store.settings.store_id)
    assert not journal.append(encode(published()))
    recorder = Recorder(settings, journal)
    recorder.start()
    recorder.stop(patience(30))
    source = source_of(store, journal.source)
    assert (source.stored, source.numbered) == (1, 1)
    assert source.settled_at is not None


def test_batches_of_the_size_that_is_set(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, drain = drain_of(store, tmp_path / "journal", batch_size=2)
    for number in range(5):
        assert not journal.append(encode({**published(), "id": f"task-{number}"}))
    sizes: list[int] = []
    write = Store.write

    def noting(of: Store, events: Sequence[bytes], *arguments: Any, **options: Any) -> int:
        sizes.append(len(events))
        return write(of, events, *arguments, **options)

    monkeypatch.setattr(Store, "write", noting)
    drain.work()
    assert sizes == [2, 2, 1]
    assert source_of(store, journal.source).stored == 5
    drain.close()
