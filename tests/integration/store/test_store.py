"""The store joins rows and the high-water marks of their processes in one transaction."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest
from sqlalchemy import NullPool, QueuePool, create_engine, make_url, select
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from celery_asynctask.core.event import Event
from celery_asynctask.errors import StoreError
from celery_asynctask.operations.migrate import upgrade
from celery_asynctask.operations.session import Writer
from celery_asynctask.queries import Reader
from celery_asynctask.settings import Settings
from celery_asynctask.store import Position, SourceUpdate, Store
from celery_asynctask.store.models import AsyncTask, AsyncTaskSource
from celery_asynctask.web.service import Service
from tests.histories import HISTORIES, ID, about, fold, lines, ms, published
from tests.integration.rows import stored
from tests.integration.store.test_revision import at
from tests.processes import at_once

pytestmark = pytest.mark.every_database

UTC = dt.timezone.utc


def description(source: str = "s", **extra: Any) -> dict[str, Any]:
    return {
        "source": source,
        "host": "h",
        "pid": 7,
        "role": "child",
        "at": ms(0),
        "journal": "j",
        "dropped": {},
        **extra,
    }


# -- writing -------------------------------------------------------------------------


def test_rows_join_the_stored_rows(store: Store) -> None:
    history = HISTORIES["retries_overlap"]()
    for one in reversed(history):
        store.write(lines([one]))
    assert stored(store) == {ID: fold(history)}


def test_ids_that_are_alike_up_to_a_quote(store: Store) -> None:
    """Each with several events in one batch."""
    ids = ['"', 'a"', 'a"b', 'a"c', 'a","', "a\\"]
    history = {task_id: about(HISTORIES["retries_overlap"](), task_id) for task_id in ids}
    together = zip(*(history[task_id] for task_id in ids), strict=True)
    store.write(lines(one for events in together for one in events))
    assert stored(store) == {task_id: fold(history[task_id]) for task_id in ids}


def test_writing_nothing(store: Store) -> None:
    store.write([])
    assert stored(store) == {}


def test_all_or_nothing(store: Store) -> None:
    """The rows, the high-water mark and the action before the commit succeed or fail together."""

    def fail() -> NoReturn:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.write(lines(HISTORIES["failed"]()), [SourceUpdate(description(), Position(1, 10))], before_commit=fail)
    assert (stored(store), store.position("s")) == ({}, Position())


def test_a_refused_row_takes_the_others_with_it(store: Store) -> None:
    bad = cast("Event", {**published(), "id": "bad", "name": None})
    with pytest.raises(IntegrityError):
        store.write(lines([*HISTORIES["success"](), bad]), [SourceUpdate(description(), Position(1, 10))])
    assert (stored(store), store.position("s")) == ({}, Position())


def test_several_nodes_write_the_same_tasks_at_once(store: Store) -> None:
    """The recorder of the producer's node, and those of two workers' nodes."""
    history = HISTORIES["retries_overlap"]()
    ids = [f"task-{number:03}" for number in range(40)]

    def node(number: int) -> int:
        mine = Store(store.settings)
        for one in history[number::3]:
            mine.write(lines(event for task_id in ids for event in about([one], task_id)))
        mine.close()
        return number

    store.close()
    assert at_once(3, node) == [0, 1, 2]
    assert stored(store) == {task_id: fold(about(history, task_id)) for task_id in ids}


# -- probing -------------------------------------------------------------------------

CHANGES: dict[str, tuple[str, str]] = {
    "task": ("ALTER TABLE async_task ADD COLUMN theirs INTEGER NOT NULL", "ALTER TABLE async_task DROP COLUMN theirs"),
    "attempt": ("ALTER TABLE async_task_attempt RENAME TO hidden", "ALTER TABLE hidden RENAME TO async_task_attempt"),
    "change": ("ALTER TABLE async_task_change RENAME TO hidden", "ALTER TABLE hidden RENAME TO async_task_change"),
}


def test_a_probe_leaves_nothing(store: Store) -> None:
    store.write(lines(HISTORIES["success"]()))
    before, count = stored(store), at(store)
    store.probe()
    assert (stored(store), at(store)) == (before, count + 1)
    with Session(store.engine) as session:
        assert session.scalars(select(AsyncTaskSource)).all() == []


@pytest.mark.databases("postgresql", "sqlite")
@pytest.mark.parametrize("table", CHANGES)
def test_a_database_that_refuses_all_refuses_a_probe(database: str, table: str) -> None:
    made = Store(Settings(url=database))
    made.prepare()
    made.probe()
    change, undo = CHANGES[table]
    if made.engine.dialect.name == "sqlite":
        change = change.replace("NOT NULL", "NOT NULL DEFAULT 1 CHECK (theirs > 1)")
    with made.engine.begin() as connection:
        connection.exec_driver_sql(change)
    with pytest.raises(DBAPIError):
        made.probe()
    with made.engine.begin() as connection:
        connection.exec_driver_sql(undo)
    made.probe()
    made.close()


def test_a_probe_is_taken_where_a_value_is_refused(store: Store) -> None:
    bad = cast("Event", {**published(), "id": "bad", "name": None})
    with pytest.raises(IntegrityError):
        store.write(lines([bad]))
    store.probe()


# -- sources -------------------------------------------------------------------------


def test_position_of_a_source(store: Store) -> None:
    assert store.position("s") == Position()
    position = Position(segment=2, position=2**40, last_number=2**41, stored=2**42, quarantined=3)
    store.write([], [SourceUpdate(description(), position), SourceUpdate(description("other"), Position(1))])
    assert store.position("s") == position
    assert store.position("other") == Position(1)


def test_a_source_in_full(store: Store) -> None:
    before = dt.datetime.now(UTC)
    store.write([], [SourceUpdate(description(), Position(1, 10, 1, 1, 0, {"ENOSPC": 2}))])
    changed = description(host="other", pid=8, role="worker", at=ms(9))
    store.write([], [SourceUpdate(changed, Position(2, 20, 3, 2, 1, {"ENOSPC": 3}))])
    with Session(store.engine) as session:
        [source] = session.scalars(select(AsyncTaskSource)).all()
        assert (source.host, source.pid, source.role) == ("h", 7, "child"), "what it was does not change"
        assert source.started_at == dt.datetime.fromtimestamp(ms(0) / 1e6, UTC)
        assert before <= source.last_seen_at <= dt.datetime.now(UTC)
        assert (source.segment, source.position, source.last_number) == (2, 20, 3)
        assert (source.stored, source.quarantined, source.dropped) == (2, 1, {"ENOSPC": 3})


# -- the engine ----------------------------------------------------------------------


def test_engine_options_of_the_user(database: str) -> None:
    made = Store(Settings(url=database, engine_options={"poolclass": NullPool, "echo": False}))
    made.prepare()
    made.write(lines(HISTORIES["success"]()))
    assert isinstance(made.engine.pool, NullPool)
    assert len(stored(made)) == 1
    made.close()


def connecting(url: str) -> Callable[[], Any]:
    """A function that connects as SQLAlchemy does by default."""
    dialect = create_engine(url).dialect
    arguments, options = dialect.create_connect_args(make_url(url))
    return partial(dialect.connect, *arguments, **options)


POOLS: dict[str, Callable[[str], dict[str, Any]]] = {
    "class": lambda _: {"poolclass": NullPool},
    "queue": lambda _: {"poolclass": QueuePool, "pool_size": 2},
    "pool": lambda url: {"pool": QueuePool(connecting(url), pool_size=2)},
    "no pool": lambda url: {"pool": NullPool(connecting(url))},
    "creator": lambda url: {"creator": connecting(url)},
    "size": lambda _: {"pool_size": 3},
}


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_a_pool_of_the_user_s(database: str, pool: Callable[[str], dict[str, Any]]) -> None:
    """All users of the pool connect at once: the settings of one's connections must not reach another's."""
    settings = Settings(url=database, engine_options=pool(database))
    made, writer, reader = Store(settings), Writer(settings), Reader(settings.url, settings.engine_options)
    service = Service(None, settings)
    try:
        made.prepare()
        for history in (HISTORIES["success"](), HISTORIES["retries_overlap"]()):
            made.write(lines(history))
            for looking in (reader, service.reader):
                with looking.session() as session:
                    assert session.scalars(select(AsyncTask.celery_task_id)).all() == [ID]
            assert writer.batch(lambda connection: connection.execute(select(AsyncTask.id)).all())
            assert upgrade(writer).applied == []
    finally:
        for one in (made, writer, reader, service):
            one.close()


def test_options_that_do_not_fit_are_said(database: str) -> None:
    writer = Writer(Settings(url=database, engine_options={"poolclass": NullPool, "pool_size": 3}))
    with pytest.raises(StoreError, match="cannot be used: Invalid argument"):
        _ = writer.engine


def test_options_for_sqlite_s_connection_are_kept(tmp_path: Path) -> None:
    options = {"connect_args": {"isolation_level": "IMMEDIATE"}}
    made = Store(Settings(url=f"sqlite:///{tmp_path}/x.db", engine_options=options))
    made.prepare()
    with made.engine.connect() as connection:
        assert connection.connection.dbapi_connection.isolation_level == "IMMEDIATE"  # type: ignore[union-attr]
    assert options == {"connect_args": {"isolation_level": "IMMEDIATE"}}
    made.close()


def test_a_closed_store_opens_again(store: Store) -> None:
    store.close()
    store.close()
    store.write(lines(HISTORIES["success"]()))
    assert len(stored(store)) == 1


def test_closing_a_store_that_was_never_used() -> None:
    Store(Settings(url="postgresql+nosuchdriver://h/d")).close()
