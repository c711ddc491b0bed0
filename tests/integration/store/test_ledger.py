"""What a recorder finds when a transaction begins: where processes stand, which database it is, and its version."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete, insert, inspect, select, update

from celery_asynctask.errors import NoTablesError, StoreError
from celery_asynctask.settings import Settings
from celery_asynctask.store import Moved, Position, SourceUpdate, Store
from celery_asynctask.store import ledger as ledgers
from celery_asynctask.store.tables import async_task_identity, async_task_source, async_task_version, metadata
from tests.histories import HISTORIES, lines
from tests.integration.rows import stored
from tests.integration.store.test_store import description

pytestmark = pytest.mark.every_database

AT = Position(2, 30, 5, 4, 1)


class Notes:
    """What a journal remembers of its database."""

    def __init__(self, identity: str | None = None) -> None:
        self.identity = identity
        self.fails = False

    def known_identity(self) -> str | None:
        return self.identity

    def know_identity(self, identity: str) -> None:
        if self.fails:
            raise OSError("disk full")
        self.identity = identity


def identities(store: Store) -> set[str]:
    with store.engine.connect() as connection:
        return set(connection.scalars(select(async_task_identity.c.identity)))


def source(store: Store, name: str = "s") -> Any:
    with store.engine.connect() as connection:
        return connection.execute(select(async_task_source).where(async_task_source.c.source == name)).one()


# -- positions -----------------------------------------------------------------------


def test_many_processes_are_found_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "_CHUNK", 2)
    names = [f"s{number}" for number in range(5)]
    expected = {name: Position(1, number, number, number, 0, {"ENOSPC": number}) for number, name in enumerate(names)}
    store.write([], [SourceUpdate(description(name), expected[name]) for name in names])
    assert store.stored([*names, "other"]) == {**expected, "other": Position()}
    assert store.stored([]) == {}


@pytest.mark.parametrize(
    "found",
    [AT._replace(segment=1), AT._replace(position=29), AT._replace(last_number=6), AT._replace(stored=3), None],
)
def test_nothing_is_written_where_a_process_stands_elsewhere(store: Store, found: Position | None) -> None:
    """After a failover to an older state, or while another recorder works."""
    if found is not None:
        store.write([], [SourceUpdate(description(), found)])
    news = [SourceUpdate(description(), AT._replace(position=99))]
    with pytest.raises(Moved) as caught:
        store.write(lines(HISTORIES["success"]()), news, expected={"s": AT, "new": Position()})
    assert caught.value.positions == {"s": found or Position(), "new": Position()}
    assert stored(store) == {}
    store.write(lines(HISTORIES["success"]()), news, expected=caught.value.positions)
    assert store.position("s").position == 99


def test_what_a_process_dropped_need_not_be_known(store: Store) -> None:
    store.write([], [SourceUpdate(description(), AT._replace(dropped={"ENOSPC": 2}))])
    store.write([], [SourceUpdate(description(), AT._replace(position=99))], expected={"s": AT})
    assert store.position("s") == AT._replace(position=99)


# -- the last word -------------------------------------------------------------------


def test_a_process_is_settled_until_it_is_seen_again(store: Store) -> None:
    store.write([], [SourceUpdate(description(), AT, numbered=7, settled=True)])
    row = source(store)
    assert (row.numbered, row.settled_at, row.ended_at) == (7, row.last_seen_at, row.last_seen_at)
    store.note_ended("j", [], dt.timedelta(0))
    assert source(store) == row, "it is known to have ended"
    with store.engine.begin() as connection:
        connection.execute(update(async_task_source).values(given_up_at=row.settled_at))
    store.note_alive({"s": 9})
    row = source(store)
    assert (row.numbered, row.settled_at, row.given_up_at, row.ended_at) == (9, None, None, None)


def test_news_of_a_process_undo_its_last_word(store: Store) -> None:
    store.write([], [SourceUpdate(description(), AT, numbered=7, settled=True)])
    store.write([], [SourceUpdate(description(), AT)])
    row = source(store)
    assert (row.settled_at, row.given_up_at, row.ended_at) == (None, None, None)
    assert row.numbered == 7, "what is not known this time stays"


def test_those_who_live_and_those_who_are_only_gone(store: Store) -> None:
    store.write([], [SourceUpdate(description(name), AT, numbered=7) for name in ("s", "gone", "silent")])
    store.note_alive({"s": None})
    store.note_ended("j", ["s", "silent"], dt.timedelta(0))
    store.note_silent(["silent"])
    rows = {name: source(store, name) for name in ("s", "gone", "silent")}
    assert [row.ended_at is None for row in rows.values()] == [True, False, False]
    assert [(row.numbered, row.settled_at) for row in rows.values()] == [(7, None)] * 3, "nobody knows their last word"


# -- the identity of the database ----------------------------------------------------


def test_the_database_that_is_met_first_is_remembered(store: Store) -> None:
    notes = Notes()
    made = Store(store.settings, notes)
    assert made.stored(["s"]) == {"s": Position()}
    assert {notes.identity} == identities(store)
    made.close()


def test_a_memory_that_cannot_be_written_keeps_nothing_from_being_stored(store: Store) -> None:
    notes = Notes()
    notes.fails = True
    made = Store(store.settings, notes)
    made.write(lines(HISTORIES["success"]()))
    assert (len(stored(store)), notes.identity) == (1, None)
    made.close()


ACTIONS: dict[str, Callable[[Store], object]] = {
    "write": lambda store: store.write(lines(HISTORIES["success"]()), [SourceUpdate(description(), AT)]),
    "alive": lambda store: store.note_alive({"s": 1}),
    "ended": lambda store: store.note_ended("j", [], dt.timedelta(0)),
    "silent": lambda store: store.note_silent(["s"]),
    "stored": lambda store: store.stored(["s"]),
    "probe": lambda store: store.probe(),
    "unrecorded": lambda store: store.forget_unrecorded(),
}


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_another_database_gets_nothing(store: Store, action: Callable[[Store], object]) -> None:
    store.write([], [SourceUpdate(description(), Position())])
    before = source(store)
    made = Store(store.settings, Notes("another"))
    with pytest.raises(StoreError, match="another identity") as caught:
        action(made)
    assert "`celery -A APP asynctask verify --accept-database`" in caught.value.remedy
    assert (stored(store), source(store)) == ({}, before)
    made.close()


def test_a_database_that_has_taken_the_place_of_another(store: Store) -> None:
    before = identities(store)
    made = Store(store.settings, Notes("another"))
    try:
        assert made.accept_identity() == "another"
        assert identities(store) == {*before, "another"}
        assert made.accept_identity() is None
        made.write(lines(HISTORIES["success"]()))
        own = Store(store.settings, Notes(*before))
        own.write([])
        own.close()
    finally:
        with store.engine.begin() as connection:
            connection.execute(delete(async_task_identity).where(async_task_identity.c.identity == "another"))
        made.close()
    assert len(stored(store)) == 1


def test_a_journal_that_knows_no_database_has_nothing_to_accept(store: Store) -> None:
    assert store.accept_identity() is None


def test_a_new_database_is_the_one_that_the_journal_knows(database: str) -> None:
    """Somebody emptied it, and the recorder has made the tables again."""
    made = Store(Settings(url=database), Notes("ours"))
    made.prepare()
    made.write(lines(HISTORIES["success"]()))
    assert identities(made) == {"ours"}
    made.close()


def test_tables_that_were_made_without_an_identity_get_one(database: str) -> None:
    notes = Notes()
    made = Store(Settings(url=database), notes)
    made.prepare()
    with made.engine.begin() as connection:
        connection.execute(delete(async_task_identity))
    made.write([])
    assert identities(made) == {notes.identity}
    made.close()


# -- the version of its tables -------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "todo"),
    [("0003", "run `celery -A APP asynctask upgrade`"), ("9999", "install a newer release here")],
)
@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_tables_of_another_version_wait(
    store: Store, version: str, todo: str, action: Callable[[Store], object]
) -> None:
    """Also for a recorder that has long been at work."""
    store.write([])
    with store.engine.begin() as connection:
        [ours] = connection.scalars(select(async_task_version.c.version_num))
        connection.execute(update(async_task_version).values(version_num=version))
    try:
        with pytest.raises(StoreError, match=todo):
            action(store)
        assert stored(store) == {}
    finally:
        with store.engine.begin() as connection:
            connection.execute(update(async_task_version).values(version_num=ours))


def test_tables_of_an_earlier_version_are_left_as_they_are(database: str) -> None:
    """A part of the new ones would keep `upgrade` from making them."""
    made = Store(Settings(url=database))
    with made.engine.begin() as connection:
        for table in (async_task_version, metadata.tables["async_task"]):
            table.create(connection)
        connection.execute(insert(async_task_version).values(version_num="0001"))
    made.prepare()
    assert set(inspect(made.engine).get_table_names()) == {"async_task_version", "async_task"}
    with pytest.raises(StoreError, match="run `celery -A APP asynctask upgrade`"):
        made.write([])
    made.close()


def test_missing_tables_are_said(database: str) -> None:
    made = Store(Settings(url=database))
    with pytest.raises(NoTablesError, match="has no tables of celery-asynctask"):
        made.write([])
    made.close()
