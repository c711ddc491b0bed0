"""Limits of a real database, and other sessions in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError

from celery_asynctask.core.event import Event, Kind
from celery_asynctask.core.marks import MARK
from celery_asynctask.journal import Directory, Journal
from celery_asynctask.recorder import Recorder
from celery_asynctask.recorder.drain import Drain
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.histories import Delivery, published
from tests.integration.draining import MakeDrain, append, quarantined, rows, source_of, tasks
from tests.integration.rows import stored
from tests.pace import patience
from tests.waiting import wait_for


@contextmanager
def recorded(url: str, path: Path, **more: Any) -> Iterator[tuple[Drain, Journal]]:
    """A journal, and its drain into the database."""
    settings = Settings(url=url, journal_dir=path / "journal", **more)
    drain = Drain(Directory(settings.directory, settings.store_id), settings)
    drain.store.prepare()
    with closing(Journal(settings.directory, settings.store_id)) as journal, closing(drain):
        yield drain, journal


SLOW = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.01); RETURN NULL; END $$;
CREATE TRIGGER slow AFTER INSERT ON async_task FOR EACH ROW EXECUTE FUNCTION slow();
"""


@pytest.mark.databases("postgresql")
def test_a_statement_timeout_that_is_smaller_than_a_batch(database: str, tmp_path: Path) -> None:
    by_task = tasks(200)
    with recorded(f"{database}?options=-cstatement_timeout%3D1s", tmp_path) as (drain, journal):
        with drain.store.engine.begin() as connection:
            connection.execute(text(SLOW))
        append(journal, *(one for events in by_task.values() for one in events))
        drain.work()
        assert quarantined(drain) == []
        assert stored(drain.store) == rows(by_task)
        assert source_of(drain.store, journal.source).stored == 800


@pytest.mark.databases("mysql")
def test_a_packet_that_is_too_large(database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The server ends the connection: 2006. A batch of several values, and one value that is too large alone."""
    with recorded(database, tmp_path) as (drain, journal):
        with drain.store.engine.connect() as connection:
            most: int = connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one()
        values = [Delivery(2).whole(Kind.SUCCEEDED, 9, 3, kwargs={"s": "x" * 65_000}) for _ in range(80)]
        large: Any = Delivery(2).whole(Kind.SUCCEEDED, 9, 3, kwargs={"s": '"' * most})
        for number, one in enumerate(values):
            append(journal, cast("Event", {**one, "id": f"task-{number}"}))
        append(journal, cast("Event", {**large, "id": "large"}), published(1))
        drain.work()
        assert quarantined(drain) == []
        assert len(stored(drain.store, "task-")) == 80
        assert stored(drain.store)["large"].task["task_kwargs"] == {MARK: "refused"}
        assert source_of(drain.store, journal.source).stored == 82
    assert "has stored an event of task large with a mark for its kwargs" in caplog.text


@pytest.mark.databases("postgresql", "mysql")
def test_a_table_that_another_session_has_locked(
    store: Store, make_drain: MakeDrain, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a migration of the user's does: the events wait, and are not searched for the reason."""
    by_task = tasks(3)
    append(journal, *(one for events in by_task.values() for one in events))
    drain = make_drain()
    drain.store.prepare()
    is_postgresql = store.engine.dialect.name == "postgresql"

    @event.listens_for(drain.store.engine, "begin")
    def impatient(connection: Any) -> None:
        timeouts = ["SET lock_timeout = '200ms'"]
        if not is_postgresql:
            timeouts = ["SET innodb_lock_wait_timeout = 1", "SET lock_wait_timeout = 1"]
        for statement in timeouts:
            connection.exec_driver_sql(statement)

    probes: list[int] = []
    monkeypatch.setattr(drain.store, "probe", lambda: probes.append(1))
    other = create_engine(store.settings.url)
    with other.connect() as connection:
        lock = "LOCK TABLE async_task IN ACCESS EXCLUSIVE MODE" if is_postgresql else "LOCK TABLES async_task WRITE"
        connection.execute(text(lock))
        for _ in range(2):
            with pytest.raises(DBAPIError):
                drain.work()
            drain.close()
        connection.rollback()
        if not is_postgresql:
            connection.execute(text("UNLOCK TABLES"))
    other.dispose()
    assert probes == [], "it says itself that no event is the reason"
    drain.work()
    assert (stored(store), quarantined(drain)) == (rows(by_task), [])


@pytest.mark.every_database
def test_many_events_that_no_database_takes_cost_little(
    store: Store, make_drain: MakeDrain, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of ten is of odd types, or too long. Each of them was searched for, which took 70 times as long."""
    for number in range(360):
        append(journal, {**published(number), "id": f"good-{number}"})
        if number % 9 == 0:
            wrong: Any = {"retries": "many"} if number % 2 else {"id": ["no id"]}
            append(journal, {**published(number), **wrong})
    drain = make_drain()
    write, tries = drain.store.write, []

    def noting(events: Sequence[bytes], *more: Any, **options: Any) -> int:
        tries.append(len(events))
        return write(events, *more, **options)

    monkeypatch.setattr(drain.store, "write", noting)
    drain.work()
    assert len(stored(store, "good-")) == 360
    assert len(quarantined(drain)) == 40
    assert tries == [400, 360]


class Crowd:
    """A server without a connection for us, until it has one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = True
        self.tries: list[float] = []
        self._stored = Store.stored
        monkeypatch.setattr(Store, "stored", lambda of, sources: self.stored(of, sources))  # noqa: PLW0108 - of: the store

    def stored(self, store: Store, sources: Any) -> Any:
        self.tries.append(time.monotonic())
        if self.is_full:
            with store._noticing():
                raise OperationalError("connect", {}, Exception("FATAL: sorry, too many clients already"))
        return self._stored(store, sources)


def test_a_recorder_soon_tries_again_where_others_have_all_connections(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others give theirs back: who waited for longer and longer would never have one."""
    settings = Settings(url=store.settings.url, journal_dir=tmp_path / "journal", flush_interval=20)
    with closing(Journal(settings.directory, settings.store_id)) as journal:
        append(journal, published())
        crowd = Crowd(monkeypatch)
        recorder = Recorder(settings)
        waits: list[float] = []
        wait = threading.Event.wait

        def hurried(of: threading.Event, seconds: float | None = None) -> bool:
            if crowd.is_full:
                waits.append(seconds or 0.0)
            return wait(of, 0.01)

        monkeypatch.setattr(threading.Event, "wait", hurried)
        recorder.start()
        wait_for(lambda: len(crowd.tries) > 5, 10, "several tries")
        crowd.is_full = False
        wait_for(lambda: stored(store), 10, "the event to be stored")
        monkeypatch.undo()
        recorder.stop(patience(30))
    between = [seconds for seconds in waits if seconds > 0.5]
    assert len(between) >= 5
    assert max(between) <= 3
    assert len(set(between)) > 1, "not all recorders at once"


def test_a_recorder_gives_its_connection_back_where_others_need_it(
    store: Store, make_drain: MakeDrain, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain = make_drain()
    given: list[int] = []
    monkeypatch.setattr(drain.store, "let_go", lambda: given.append(1))
    append(journal, published())
    drain.work()
    assert given == [1], "after all is stored"
