"""What a recorder cannot read, may not read, or cannot remove, stops nothing else."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from celery_asynctask.core.event import Event, encode
from celery_asynctask.journal import Directory, Journal, frame
from celery_asynctask.journal.names import OLD_SUFFIX, SUFFIX
from celery_asynctask.recorder import Recorder, drain, liveness
from celery_asynctask.recorder.drain import Drain
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.histories import ID, Delivery, fold, ms, published
from tests.integration.draining import MakeDrain, append, rows, segment_files, source_of, sources, tasks
from tests.integration.recorder.test_failover import Clock, after, clock
from tests.integration.rows import stored
from tests.pace import patience
from tests.waiting import wait_for

__all__ = ["clock"]

OTHER = "20250615T120000-7-0000000a"


def segment(
    path: Path, version: Any, *events: bytes, suffix: str = SUFFIX, number: int = 1, source: str = OTHER
) -> Path:
    """A segment of a process that is gone, in some format."""
    description = {"format": version, "source": source, "host": "h", "pid": 7, "role": "worker", "at": ms(1)}
    lines = [frame.pack(0, json.dumps({**description, "dropped": {}}).encode())]
    lines += [frame.pack(count, event) for count, event in enumerate(events, 1)]
    made = path / f"{source}.{number:06d}{suffix}"
    made.write_bytes(b"".join(lines))
    return made


@pytest.mark.parametrize("version", [3, "2", None, {"major": 2}], ids=str)
def test_a_segment_of_another_format_stays(
    store: Store,
    make_drain: MakeDrain,
    journal: Journal,
    clock: Clock,
    version: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = make_drain()
    path = segment(made.directory.path, version, encode(published(1)))
    later = segment(made.directory.path, 2, encode(published(2)), number=2)
    append(journal, published())
    for _ in range(5):
        after(made, clock, 100)
    assert stored(store) == {ID: fold([published()])}
    assert path.exists()
    assert later.exists(), "what follows it in the same process waits"
    assert [one.source for one in sources(store)] == [journal.source]
    [line] = [record.getMessage() for record in caplog.records]
    assert f"leaves the segment {path} alone: " in line
    assert "Upgrade celery-asynctask on this host" in line


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_a_segment_that_cannot_be_read_stays(
    store: Store,
    make_drain: MakeDrain,
    journal: Journal,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
) -> None:
    made = make_drain()
    path = segment(made.directory.path, 2, encode(published(1)))
    append(journal, published())

    def failing(of: Any, *more: Any, **options: Any) -> Any:
        if of.path == path:
            raise OSError(code, os.strerror(code), str(path))
        return frame.read(of, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(drain, "read", failing)
        for _ in range(3):
            after(made, clock, 100)
        assert stored(store) == {ID: fold([published()])}
        assert path.exists()
        [line] = [record.getMessage() for record in caplog.records]
        assert f"leaves the segment {path} alone: " in line
    after(made, clock)
    assert source_of(store, OTHER).stored == 1


def test_segments_of_earlier_versions(store: Store, make_drain: MakeDrain, clock: Clock) -> None:
    """They are drained like others, and their processes settled: these have no page."""
    made = make_drain()
    path = segment(made.directory.path, 1, encode(published()), suffix=OLD_SUFFIX)
    made.drains_old = False
    made.work()
    assert stored(store) == {}
    assert path.exists()
    made.drains_old = True
    after(made, clock)
    assert stored(store) == {ID: fold([published()])}
    source = source_of(store, OTHER)
    assert (source.journal, source.stored) == (made.directory.old_id, 1)
    assert source.settled_at is not None
    assert segment_files(made) == []
    for _ in range(9):
        after(made, clock, 100)
    assert not list(made.directory.path.glob(f"{OTHER}*"))


@pytest.fixture
def recorder(store: Store, tmp_path: Path) -> Iterator[Recorder]:
    made = Recorder(Settings(url=store.settings.url, journal_dir=tmp_path / "journal", flush_interval=0.05))
    yield made
    made.stop(patience(30))


def test_earlier_versions_have_a_recorder_of_their_own(store: Store, recorder: Recorder) -> None:
    """While that one lives, theirs are left to it."""
    settings = recorder.settings
    directory = Directory(settings.directory, settings.store_id)
    theirs = directory.elect_old()
    assert theirs is not None
    path = segment(directory.path, 1, encode(published()), suffix=OLD_SUFFIX)
    segment(directory.path, 2, encode({**published(), "id": "ours"}), source="20250615T120000-8-0000000b")
    recorder.start()
    wait_for(lambda: "ours" in stored(store), 10, "our segment to be stored")
    assert ID not in stored(store)
    os.close(theirs)
    wait_for(lambda: ID in stored(store), 10, "their segment to be stored")
    wait_for(lambda: not path.exists(), 10, "their segment to be kept")
    assert directory.elect_old() is None, "so they leave it to us"
    recorder.stop(patience(30))
    handle = directory.elect_old()
    assert handle is not None
    os.close(handle)


def test_a_directory_that_cannot_be_changed_is_drained(
    store: Store,
    make_drain: MakeDrain,
    journal: Journal,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As a disk that went read-only."""
    by_task = tasks(4)
    made = make_drain()

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    first, *others = by_task.values()
    append(journal, *first)
    with monkeypatch.context() as patch:
        for name in ("rename", "unlink", "touch"):
            patch.setattr(Path, name, fail)
        for events in others:
            append(journal, *events)
            after(made, clock)
        journal.close()
        for _ in range(3):
            after(made, clock, 100)
        assert stored(store) == rows(by_task)
        source = source_of(store, journal.source)
        assert (source.stored, source.last_number) == (16, 16)
        assert source.settled_at is not None
        said = [record.getMessage() for record in caplog.records]
        assert len([line for line in said if "and cannot remove it: Read-only file system" in line]) == 1
        assert len(said) <= 2
    for _ in range(3):
        after(made, clock, 100)
    assert not list(made.directory.path.glob(f"{journal.source}*"))


def test_the_second_place_is_drained_while_the_first_cannot_be_used(store: Store, recorder: Recorder) -> None:
    """And the first one again, once it can be."""
    settings = recorder.settings
    settings.directory.touch()
    journal = Journal(settings.directory, settings.store_id)
    append(journal, published())
    recorder.start()
    wait_for(lambda: ID in stored(store), 10, "an event in the second place to be stored")
    settings.directory.unlink()
    for number in range(3):
        append(journal, cast("Event", {**published(), "id": f"later-{number}"}))
    journal.close()
    wait_for(lambda: len(stored(store)) == 4, 10, "the others to be stored")
    wait_for(lambda: recorder._place == settings.directory, 10, "the recorder to be elected in the first place")


@pytest.mark.every_database
def test_what_was_running_in_the_second_place_is_lost_when_the_first_is_there_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first place could not be used, the second one was a directory of its own, with an id of its own."""
    first = tmp_path / "first"
    settings = replace(store.settings, journal_dir=first)
    first.touch()
    journal = Journal(first, settings.store_id)
    assert journal.begin(encode(Delivery(2).started(3, source=journal.source))) is not None
    assert journal._handle is not None
    os.close(journal._handle)  # as the kernel does
    journal._handle = None
    journal._accounts.close(even_if_used=True)
    away = Drain(Directory.usable(first, settings.store_id), settings)
    away.work()
    away.close()
    first.unlink()
    home = Drain(Directory.usable(first, settings.store_id), settings)
    assert home.directory.path == first
    monkeypatch.setattr(liveness, "LOST_SECONDS", 0)
    home.work()
    home._watch.look_at = 0.0
    home.look()
    home.close()
    assert stored(store)[ID].task["status"] == "LOST"


def test_files_that_cannot_be_written_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that was made immutable, or whose files belong to this user in name only, is still this journal."""
    made = Directory(tmp_path / "journal", "sqlite:///x")
    real = os.open

    def protected(path: Any, flags: int, *mode: Any, **options: Any) -> int:
        if flags & (os.O_RDWR | os.O_CREAT) and str(path).startswith(f"{made.path}/"):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        return real(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", protected)
    directory = Directory.usable(made.path, "sqlite:///x")
    assert (directory.path, directory.id) == (made.path, made.id)
    handle = directory.elect()
    assert handle is not None
    assert directory.elect() is None, "in the second place, for all"
    os.close(handle)
