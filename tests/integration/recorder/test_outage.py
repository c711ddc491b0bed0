"""The cause of an error: the database, which passes, or a value, which does not."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    SQLAlchemyError,
)

from celery_asynctask.core.event import Event, encode
from celery_asynctask.errors import NoTablesError, StoreError
from celery_asynctask.journal import Journal
from celery_asynctask.recorder import Recorder
from celery_asynctask.recorder.batch import ensure_it_works, raise_unless_refused
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests import services
from tests.histories import lines, published
from tests.integration.draining import MakeDrain, append, quarantined, rows, source_of, tasks
from tests.integration.rows import stored
from tests.pace import patience
from tests.waiting import wait_for

pytestmark = pytest.mark.every_database


def is_outage(store: Store, error: Exception) -> bool:
    """Whether the recorder takes an error of a write for one that says nothing about the events."""
    try:
        raise_unless_refused(error)
        ensure_it_works(store, error)
    except type(error) as exc:
        return exc is error
    return False


def error_of(action: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:
        action()
    return caught.value


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg://u@127.0.0.1:9/d", "mysql+pymysql://u@127.0.0.1:9/d", "sqlite:////nonexistent/x.db"]
)
def test_a_database_that_is_not_there_is_an_outage(url: str) -> None:
    made = Store(Settings(url=url))
    error = error_of(made.prepare)
    assert isinstance(error, SQLAlchemyError)
    assert is_outage(made, error)
    made.close()


def test_missing_tables_are_an_outage(database: str) -> None:
    made = Store(Settings(url=database))
    error = error_of(lambda: made.write(lines([published()])))
    assert isinstance(error, NoTablesError)
    assert is_outage(made, error)
    made.close()


@pytest.mark.databases(*services.SERVERS)
def test_a_connection_that_is_lost_within_a_batch(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    """It says nothing about the events: they are stored over the next one."""
    who, kill = {
        "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend({})"),
        "mysql": ("SELECT CONNECTION_ID()", "KILL {}"),
    }[store.engine.dialect.name]
    administrator = create_engine(store.settings.url)
    by_task = tasks(3)
    append(journal, *(one for events in by_task.values() for one in events))
    drain = make_drain()
    drain.store.prepare()
    lost: list[int] = []

    @event.listens_for(drain.store.engine, "before_cursor_execute")
    def lose(connection: Any, _cursor: object, statement: str, *_: object) -> None:
        if "async_task" in statement and "INSERT" in statement and not lost:
            lost.append(1)
            number = connection.exec_driver_sql(who).scalar_one()
            with administrator.connect() as other:
                other.exec_driver_sql(kill.format(number))

    drain.work()
    assert lost
    assert (stored(store), quarantined(drain)) == (rows(by_task), [])
    assert source_of(store, journal.source).stored == 12
    administrator.dispose()


def test_a_locked_database_is_an_outage(tmp_path: Path) -> None:
    made = Store(Settings(url=f"sqlite:///{tmp_path}/x.db", engine_options={"connect_args": {"timeout": 0}}))
    made.prepare()
    other = sqlite3.connect(f"{tmp_path}/x.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert is_outage(made, error_of(lambda: made.write(lines([published()]))))
    other.close()
    made.close()


def test_a_read_only_database_is_an_outage(store: Store) -> None:
    statement = {
        "postgresql": "SET default_transaction_read_only = on",
        "mysql": "SET SESSION TRANSACTION READ ONLY",
        "sqlite": "PRAGMA query_only = ON",
    }[store.engine.dialect.name]
    made = Store(Settings(url=store.settings.url))

    @event.listens_for(made.engine, "connect")
    def only_read(connection: Any, _record: object) -> None:
        connection.cursor().execute(statement)
        connection.commit()

    assert is_outage(made, error_of(lambda: made.write(lines([published()]))))
    made.close()
    assert stored(store) == {}


def test_a_full_database_is_an_outage(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    """Though it has room for something smaller: no event is put aside, and none loses its values."""
    if store.engine.dialect.name != "sqlite":
        return
    with closing(sqlite3.connect(str(store.engine.url.database))) as connection:
        connection.execute("VACUUM")  # of what earlier tests have left free
    drain = make_drain()
    drain.store.prepare()
    full = [True]

    @event.listens_for(drain.store.engine, "before_cursor_execute")
    def small(connection: Any, *_: object) -> None:
        cursor = connection.connection.cursor()
        pages = cursor.execute("PRAGMA page_count").fetchone()[0]
        cursor.execute(f"PRAGMA max_page_count = {pages if full[0] else 1_000_000}")

    by_task = tasks(100)
    for one in by_task.values():
        one[-1]["result"] = "x" * 9_000
    append(journal, *(one for events in by_task.values() for one in events))
    for _ in range(3):
        with pytest.raises(SQLAlchemyError, match="full"):
            drain.work()
        drain.close()
    assert quarantined(drain) == []
    full[0] = False
    drain.work()
    assert (stored(store), quarantined(drain)) == (rows(by_task), [])


@pytest.mark.databases(*services.SERVERS)  # SQLite knows one lock, see above
@pytest.mark.parametrize("failure", ["deadlock", "lock timeout"])
def test_a_lock_that_is_not_got_is_an_outage(store: Store, failure: str) -> None:
    """Somebody else's transaction holds the rows: once forever, once in a deadlock with ours."""
    dialect = store.engine.dialect.name
    timeout = {"postgresql": "SET lock_timeout = '1s'", "mysql": "SET innodb_lock_wait_timeout = 1"}.get(dialect, "")
    events = lines([cast("Event", {**published(), "id": one}) for one in "ab"])
    store.write(events)
    made = Store(Settings(url=store.settings.url))
    if failure == "lock timeout":

        @event.listens_for(made.engine, "connect")
        def impatient(connection: Any, _record: object) -> None:
            connection.cursor().execute(timeout)
            connection.commit()

    other = create_engine(store.settings.url)
    take = "UPDATE async_task SET retries = retries WHERE celery_task_id = '{}'"
    errors: list[Exception] = []

    def write() -> None:
        try:
            made.write(events)
        except DBAPIError as exc:
            errors.append(exc)

    if failure:
        thread = threading.Thread(target=write)
        with other.connect() as connection:
            connection.exec_driver_sql(take.format("b"))
            thread.start()
            if failure == "deadlock":
                wait_for(lambda: _waits(store), 10, "the store to wait for b")
                try:
                    connection.exec_driver_sql(take.format("a"))
                except DBAPIError as exc:
                    errors.append(exc)  # the database chose this one
                connection.rollback()
            thread.join(patience(20))
        assert not thread.is_alive()
        assert len(errors) == 1
        assert is_outage(store, errors[0])
    other.dispose()
    made.close()


def _waits(store: Store) -> bool:
    """Whether a transaction waits for a lock of another."""
    asked = {
        "postgresql": "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'",
        # Its innodb_trx is refreshed only if nobody has queried it for a tenth of a second.
        "mysql": "SELECT count(*) FROM information_schema.processlist "
        "WHERE db = database() AND info LIKE 'INSERT INTO async_task%%' AND time_ms > 300",
    }[store.engine.dialect.name]
    with store.engine.connect() as connection:
        return bool(connection.exec_driver_sql(asked).scalar())


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": None},
        {"retries": 2**70},
        {"created": 10**30},
        {"created": "yesterday"},
        {"kind": "exploded"},
        {"name": "\ud800"},
    ],
    ids=str,
)
def test_a_value_that_no_column_takes_is_no_outage(store: Store, wrong: dict[str, Any]) -> None:
    assert not is_outage(store, error_of(lambda: store.write(lines([cast("Event", {**published(), **wrong})]))))


@pytest.mark.databases(*services.SERVERS)  # SQLite takes texts of any length
@pytest.mark.parametrize("wrong", [{"id": "x" * 256}, {"error_type": "x" * 256}])
def test_a_text_that_is_too_long_is_no_outage(store: Store, wrong: dict[str, Any]) -> None:
    error = error_of(lambda: store.write(lines([cast("Event", {**published(), **wrong})])))
    assert isinstance(error, DataError)
    assert not is_outage(store, error)


@pytest.mark.parametrize(
    "error", [OSError("disk"), ImportError("no driver"), MemoryError(), StoreError("other")], ids=repr
)
def test_errors_that_are_not_of_the_database(store: Store, error: Exception) -> None:
    """They say themselves that no event is the reason: it is not even asked."""
    with pytest.raises(type(error)):
        raise_unless_refused(error)


def test_the_log_says_what_to_do_about_missing_tables(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the recorder may not create them."""
    settings = Settings(url=database, journal_dir=tmp_path / "journal", create_tables=False)
    journal = Journal(settings.directory, settings.store_id)
    journal.append(encode(published()))
    journal.close()
    recorder = Recorder(settings)
    recorder.start(once=True)
    recorder.stop(patience(30))
    [line] = [record.getMessage() for record in caplog.records if "cannot store events" in record.getMessage()]
    assert "has no tables of celery-asynctask. Run `celery -A APP asynctask upgrade`, or set " in line
