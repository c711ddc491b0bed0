"""`celery asynctask uninstall` removes everything of ours and nothing else, and nothing while a process still
records."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text, update

from celery_asynctask.errors import AsyncTaskError, JournalError, StoreError
from celery_asynctask.journal import Directory, Journal
from celery_asynctask.operations import uninstall as uninstalling
from celery_asynctask.operations.session import Writer
from celery_asynctask.operations.uninstall import Leftovers, Removed, Uninstall
from celery_asynctask.recorder.drain import Drain
from celery_asynctask.settings import Settings
from celery_asynctask.store import Position, SourceUpdate, Store, schema
from celery_asynctask.store.models import AsyncTaskSource
from celery_asynctask.store.tables import async_task_version, metadata
from tests import services
from tests.histories import published
from tests.integration.draining import append
from tests.integration.store.test_migrations import tables_in

T = TypeVar("T")
OURS = set(metadata.tables)
FAR = {"source": "far-1", "host": "far", "pid": 7, "role": "worker", "at": 1_750_000_000_000_000, "journal": "f" * 32}


class Installed:
    """A store with two tasks, a table of somebody else, and a journal with one event that is not stored."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.settings = Settings(url=url, journal_dir=directory)
        self.path = directory
        self.store = Store(self.settings)
        self.store.prepare()
        self.execute("CREATE TABLE mine (x INTEGER)")
        self.journal = self.begin()
        append(self.journal, published(), {**published(), "id": "other"})
        drain = Drain(Directory(directory, self.settings.store_id), self.settings)
        drain.work()
        drain.close()
        append(self.journal, {**published(), "id": "waiting"})
        Directory(directory, self.settings.store_id).quarantine("x", b"poison")

    def begin(self) -> Journal:
        return Journal(self.path, self.settings.store_id)

    def execute(self, *sql: str) -> None:
        engine = create_engine(self.url)
        with engine.begin() as connection:
            for statement in sql:
                connection.execute(text(statement))
        engine.dispose()

    def find(self) -> Leftovers:
        return self._with(Uninstall.find)

    def uninstall(self) -> Removed:
        return self._with(Uninstall.run)

    def _with(self, do: Callable[[Uninstall], T]) -> T:
        writer = Writer(self.settings)
        try:
            return do(Uninstall(writer))
        finally:
            writer.close()

    def is_whole(self) -> bool:
        names = {path.suffix for path in self.path.iterdir()}
        return tables_in(self.url) == {*OURS, "mine"} and {".events", ".quarantine", ""} <= names

    def is_gone(self) -> bool:
        return tables_in(self.url) == {"mine"} and not self.path.exists()


@pytest.fixture
def installed(database: str, tmp_path: Path) -> Iterator[Installed]:
    made = Installed(database, tmp_path / "journal")
    made.journal.close()
    yield made
    made.journal.close()
    made.store.close()


@pytest.mark.every_database
def test_all_that_is_ours(installed: Installed) -> None:
    found = installed.find()
    assert installed.is_whole(), "it only looked"
    assert found.tables == {
        "async_task": 2,
        "async_task_attempt": 0,
        "async_task_audit": 0,
        "async_task_change": 64,
        "async_task_identity": 1,
        "async_task_revision": 1,
        "async_task_session": 0,
        "async_task_source": 1,
        "async_task_token": 0,
        "async_task_version": 1,
    }
    assert found.journal is not None
    assert (found.journal.segments, found.journal.quarantines, found.journal.unstored) == (1, 1, 1)
    assert found.journal.size == sum(path.stat().st_size for path in installed.path.iterdir())
    assert (found.in_use, found.elsewhere, found.is_empty) == ((), (), False)
    removed = installed.uninstall()
    assert (set(removed.tables), removed.directory) == (OURS, True)
    assert removed.tables[0] == async_task_version.name, "else `upgrade` takes the rest for all there is"
    assert installed.is_gone()
    assert installed.find().is_empty
    assert installed.uninstall() == Removed((), 0, directory=True)


@pytest.mark.every_database
def test_what_is_missing_already(installed: Installed, tmp_path: Path) -> None:
    """Tables that MySQL's DROP had begun to remove, then all, then the journal."""
    installed.execute("DROP TABLE async_task_version", "DROP TABLE async_task_source")
    found = installed.find()
    assert set(found.tables) == OURS - {"async_task_version", "async_task_source"}
    assert found.journal is not None
    assert found.journal.unstored == 3, "nobody knows what is stored"
    for name in found.tables:
        installed.execute(f"DROP TABLE {name}")
    assert installed.uninstall() == Removed((), len(found.journal.names) + 2, directory=True)
    assert installed.is_gone()
    installed.store.prepare()
    assert installed.find().journal is None
    assert len(installed.uninstall().tables) == len(OURS)
    installed.path.mkdir()
    assert not installed.find().is_empty
    assert installed.uninstall().directory, "an empty directory"


@pytest.mark.every_database
def test_a_run_that_was_interrupted_is_finished_by_the_next(
    installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first file, then between others."""
    real = os.unlink
    left = 0

    def unlink(name: str, *, dir_fd: int) -> None:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        real(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)
    for rounds in range(10):
        left = rounds
        try:
            installed.uninstall()
            break
        except KeyboardInterrupt:
            assert tables_in(installed.url) == {"mine"}
            assert installed.path.exists()
    monkeypatch.undo()
    assert rounds == 3, "a segment; quarantine and a lock; the locks anew and the name of the store"
    assert installed.is_gone()


@pytest.mark.every_database
@pytest.mark.parametrize("who", ["a writer", "a recorder", "a dedicated recorder", "a process elsewhere"])
def test_nothing_goes_while_somebody_records(installed: Installed, who: str) -> None:
    directory = Directory(installed.path, installed.settings.store_id)
    handle = None
    if who == "a writer":
        append(installed.journal, {**published(), "id": "more"})
    elif who == "a recorder":
        handle = directory.elect()
    elif who == "a dedicated recorder":
        handle = directory.claim()
    else:
        installed.store.write([], [SourceUpdate(FAR, Position())])
    with pytest.raises(
        AsyncTaskError, match=r"^Nothing is removed, because these still record: [^;]*\. Stop them"
    ) as refused:
        installed.uninstall()
    assert {
        "a writer": f"producer {os.getpid()} on ",
        "a recorder": f"the recorder, process {os.getpid()} of this host",
        "a dedicated recorder": f"the dedicated recorder, process {os.getpid()} of this host",
        "a process elsewhere": "worker 7 on far",
    }[who] in str(refused.value)
    assert installed.is_whole()
    assert installed.find().in_use
    installed.journal.close()
    if handle is not None:
        os.close(handle)
    if who == "a process elsewhere":
        long_ago = dt.datetime.now(dt.timezone.utc) - dt.timedelta(seconds=91)
        with installed.store.engine.begin() as connection:
            connection.execute(update(AsyncTaskSource).values(last_seen_at=long_ago))
        installed.store.close()
        assert installed.find().elsewhere == ("far",)
    installed.uninstall()
    assert installed.is_gone()


def test_a_process_that_begins_meanwhile_keeps_its_events(
    installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = installed.begin()
    drop = Uninstall._drop

    def drop_then_write(work: Uninstall) -> tuple[str, ...]:
        dropped = drop(work)
        append(late, {**published(), "id": "late"})
        return dropped

    monkeypatch.setattr(Uninstall, "_drop", drop_then_write)
    with pytest.raises(AsyncTaskError, match=r"^The tables are dropped, but a process began to write to "):
        installed.uninstall()
    monkeypatch.undo()
    assert installed.path.exists()
    assert any(path.name.startswith(late.source) for path in installed.path.iterdir())
    with pytest.raises(AsyncTaskError, match="these still record"):
        installed.uninstall()
    late.close()
    installed.uninstall()
    assert installed.is_gone()


def test_what_is_not_ours_stays(installed: Installed, tmp_path: Path) -> None:
    """And no link is followed."""
    outside = tmp_path / "outside.events"
    outside.write_text("precious", encoding="utf-8")
    (installed.path / "link.000001.events").symlink_to(outside)
    (installed.path / "notes.txt").touch()
    (installed.path / "below.events").mkdir()
    found = installed.find()
    assert found.journal is not None
    assert found.journal.strangers == ("below.events", "link.000001.events", "notes.txt")
    assert not installed.uninstall().directory
    assert sorted(path.name for path in installed.path.iterdir()) == list(found.journal.strangers)
    assert outside.read_text(encoding="utf-8") == "precious"
    assert installed.find().is_empty


@pytest.mark.every_database
def test_a_table_of_somebody_else_with_the_name_of_ours(installed: Installed) -> None:
    installed.uninstall()
    installed.execute("CREATE TABLE async_task (x INTEGER)")
    assert installed.find().is_empty
    assert installed.uninstall().tables == ()
    assert tables_in(installed.url) == {"mine", "async_task"}
    assert set(uninstalling._COLUMNS) == OURS
    for name, column in uninstalling._COLUMNS.items():
        assert column in metadata.tables[name].c


def test_a_directory_that_is_not_ours(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(installed.path)
    (tmp_path / "file").touch()
    other = Settings(url="postgresql+psycopg://h/other", journal_dir=tmp_path / "other")
    Directory(other.directory, other.store_id)
    for name, why in {
        "link": "is not a directory",
        "file": "is not a directory",
        "other": "belongs to the store",
    }.items():
        writer = Writer(Settings(url=installed.url, journal_dir=tmp_path / name))
        for do in (Uninstall(writer).find, Uninstall(writer).run):
            with pytest.raises(JournalError, match=rf"{why} .*Nothing is removed"):
                do()
        writer.close()
    assert installed.is_whole()
    if os.geteuid() == 0:
        os.chown(installed.path, 12345, 12345)
        with pytest.raises(JournalError, match="belongs to user id 12345"):
            installed.uninstall()
        os.chown(installed.path, 0, 0)
    assert installed.is_whole()


@pytest.mark.every_database
def test_tables_of_a_newer_release(installed: Installed) -> None:
    installed.execute("UPDATE async_task_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="install a newer release"):
        installed.uninstall()
    assert installed.is_whole()


@pytest.mark.databases(*services.SERVERS)
def test_a_table_that_somebody_reads(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uninstalling, "LOCK_SECONDS", 1)
    engine = create_engine(installed.url)
    with engine.connect() as connection:
        connection.execute(text("SELECT * FROM async_task_version"))
        with pytest.raises(StoreError) as refused:
            installed.uninstall()
        assert refused.value.remedy.startswith("Another transaction holds a lock")
        assert installed.is_whole()
    engine.dispose()
    installed.uninstall()
    assert installed.is_gone()


@pytest.mark.databases("postgresql")
def test_a_view_of_somebody_else_s(installed: Installed) -> None:
    installed.execute("CREATE VIEW theirs AS SELECT name FROM async_task")
    with pytest.raises(StoreError) as refused:
        installed.uninstall()
    assert refused.value.remedy.startswith("Drop those objects first")
    assert installed.is_whole()


def test_a_database_that_is_away(tmp_path: Path) -> None:
    settings = Settings(url="postgresql+psycopg://u@127.0.0.1:9/d", journal_dir=tmp_path / "journal")
    Directory(settings.directory, settings.store_id)
    before = sorted(path.name for path in settings.directory.iterdir())
    writer = Writer(settings)
    with pytest.raises(StoreError, match="Start the database"):
        Uninstall(writer).run()
    writer.close()
    assert sorted(path.name for path in settings.directory.iterdir()) == before


def test_no_file_is_made(tmp_path: Path) -> None:
    writer = Writer(Settings(url=f"sqlite:///{tmp_path}/rows.db", journal_dir=tmp_path / "journal"))
    assert Uninstall(writer).find().is_empty
    assert Uninstall(writer).run() == Removed((), 0, directory=True)
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_the_default_directory_and_the_one_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "state").mkdir()
    for count in (2, 1):
        settings = [Settings(url=f"sqlite:///{tmp_path}/{number}.db") for number in range(count)]
        for one in settings:
            Directory(one.directory, one.store_id)
        writer = Writer(settings[0])
        Uninstall(writer).run()
        writer.close()
        assert (tmp_path / "state" / "celery-asynctask").exists() is (count == 2)
        for one in settings[1:]:
            writer = Writer(one)
            Uninstall(writer).run()
            writer.close()
    assert (tmp_path / "state").exists()


@pytest.mark.every_database
def test_tables_are_dropped_under_the_lock_of_the_schema(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no recorder creates or upgrades them meanwhile."""
    installed.journal.close()
    locked: list[bool] = []
    dropped: list[str] = []

    @contextmanager
    def exclusive(connection: Connection) -> Iterator[None]:
        with schema.exclusive(connection):
            locked.append(True)
            yield
            locked.pop()

    def seen(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "DROP TABLE" in statement:
            assert locked
            dropped.append(statement)

    monkeypatch.setattr(uninstalling, "exclusive", exclusive)
    event.listen(Engine, "before_cursor_execute", seen)
    try:
        installed.uninstall()
    finally:
        event.remove(Engine, "before_cursor_execute", seen)
    assert len(dropped) == len(OURS)


def test_a_directory_that_others_use_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this user had no state directory, the journal was in one that is not ours."""
    state, runtime = tmp_path / "state", tmp_path / "runtime"
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    runtime.mkdir()
    for is_gone in (True, False):
        url = f"sqlite:///{tmp_path}/rows.db"
        if not is_gone:
            state.touch()
        settings = Settings(url=url)
        Store(settings).prepare()
        path = settings.directory
        Directory(path, settings.store_id)
        writer = Writer(settings)
        Uninstall(writer).run()
        writer.close()
        assert not path.exists()
        assert path.parent.exists() is not is_gone
        if is_gone:
            state.rmdir()
    assert path.parent == runtime


def test_the_second_place_of_the_journal_is_removed_too(installed: Installed) -> None:
    survey = Directory(installed.path, installed.settings.store_id)
    assert survey.spare is not None
    survey.spare.mkdir(mode=0o700)
    [segment] = survey.segments()
    (survey.spare / segment.path.name.replace("000001", "000002")).write_bytes(segment.path.read_bytes())
    found = installed.find()
    assert found.journal is not None
    assert found.journal.segments == 2
    installed.uninstall()
    assert installed.is_gone()
    assert not survey.spare.exists()
