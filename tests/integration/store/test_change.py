"""Each transaction counts its change in a row that no other holds, so a recorder that is frozen stops nobody."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, delete, event, func, select, text, update

from celery_asynctask.operations.session import Writer
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store, change
from celery_asynctask.store.change import advance
from celery_asynctask.store.tables import CHANGE_SLOTS, async_task_change, async_task_revision
from tests import services
from tests.histories import HISTORIES, about, lines
from tests.integration.store.test_revision import at
from tests.pace import patience
from tests.waiting import wait_for

SERVERS = pytest.mark.databases(*services.SERVERS)
"""On SQLite, one transaction writes at a time."""


def events_of(task_id: str) -> list[bytes]:
    return lines(about(HISTORIES["success"](), task_id))


@contextmanager
def frozen(store: Store, *statements: Any) -> Iterator[None]:
    """Another node's transaction that has executed ``statements`` and goes no further."""
    with closing(Store(store.settings)) as other, other.engine.connect() as connection:
        for statement in statements:
            connection.execute(statement)
        yield
        connection.rollback()


def test_a_write_draws_no_number_from_the_generator_of_the_process(store: Store) -> None:
    """A task that seeds it draws the same numbers whatever the recorder of its worker does meanwhile."""
    before = random.getstate()
    store.write(events_of("task"))
    assert random.getstate() == before


@SERVERS
def test_nobody_waits_for_a_recorder_that_is_frozen_before_its_commit(store: Store) -> None:
    before = at(store)
    with closing(Store(store.settings)) as other, other.engine.connect() as connection:
        advance(connection)
        for number in range(CHANGE_SLOTS):
            store.write(events_of(f"task-{number}"))
        connection.commit()
    assert at(store) == before + CHANGE_SLOTS + 1


@SERVERS
@pytest.mark.parametrize("free", [1, 7, CHANGE_SLOTS])
def test_the_only_free_row_is_found(store: Store, free: int) -> None:
    others = [slot for slot in range(1, CHANGE_SLOTS + 1) if slot != free]
    before = at(store)
    # One by one: MySQL locks whatever it looks at.
    with frozen(store, *(select(async_task_change).filter_by(slot=slot).with_for_update() for slot in others)):
        store.write(events_of("a"))
        store.write(events_of("b"))
    assert at(store) == before + 2


@SERVERS
def test_where_all_rows_are_taken_it_waits_for_one(store: Store) -> None:
    before = at(store)
    with closing(Store(store.settings)) as own:
        writing = threading.Thread(target=lambda: own.write(events_of("a")), daemon=True)
        with frozen(store, select(async_task_change.c.slot).with_for_update()):
            sent: list[str] = []
            event.listen(own.engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
            writing.start()
            wait_for(lambda: sent and sent[-1].startswith("UPDATE async_task_change SET changes=("), 10, "the last one")
            assert writing.is_alive()
            assert at(store) == before
        writing.join(patience(10))
        assert not writing.is_alive()
    assert at(store) == before + 1


@pytest.mark.every_database
def test_a_table_that_somebody_emptied_is_done_without(database: str) -> None:
    made = Store(Settings(url=database))
    made.prepare()
    with made.engine.begin() as connection:
        connection.execute(delete(async_task_change))
    before = at(made)
    made.write(events_of("a"))
    assert at(made) == before + 1
    made.close()


@SERVERS
def test_a_server_that_knows_no_skipping_counts_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """MySQL before 8.0.1 and MariaDB before 10.6: there it may wait."""
    monkeypatch.setattr(change, "_SKIPS_LOCKED_SINCE", {True: (99,), False: (99,)})
    sent: list[str] = []
    event.listen(store.engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
    before = at(store)
    for number in range(3):
        store.write(events_of(f"task-{number}"))
    store.note_change()
    assert at(store) == before + 4
    assert store.engine.dialect.name == "postgresql" or not any("SKIP LOCKED" in statement for statement in sent)


@pytest.mark.parametrize(
    ("is_mariadb", "version", "skips"),
    [
        (True, (10, 5, 29), False),
        (True, (10, 6, 0), True),
        (True, (11, 8, 2), True),
        (False, (5, 7, 44), False),
        (False, (8, 0, 0), False),
        (False, (8, 0, 1), True),
        (False, None, False),
    ],
)
def test_servers_that_skip_locked_rows(is_mariadb: bool, version: tuple[int, ...] | None, skips: bool) -> None:
    class Dialect:
        server_version_info = version

    class Connected:
        dialect = Dialect()

    Dialect.is_mariadb = is_mariadb  # type: ignore[attr-defined]
    connection: Any = Connected()
    assert change._skips_locked(connection) is skips


def old_row(connection: Connection) -> int:
    number: int = connection.execute(select(async_task_revision.c.revision)).scalar_one()
    return number


@pytest.mark.every_database
def test_readers_of_earlier_versions_are_told_of_what_was_written(store: Store) -> None:
    def told() -> int:
        with store.engine.connect() as connection:
            return old_row(connection)

    store.note_change()
    before = told()
    store.note_change()
    assert told() == before, "nothing was written, so everybody keeps the answers that they have"
    store.write(events_of("a"))
    assert told() == before, "no transaction waits for the row of all"
    store.note_change()
    store.note_change()
    assert told() == before + 1


@SERVERS
def test_nobody_waits_to_tell_them(store: Store) -> None:
    store.write(events_of("a"))
    with frozen(store, update(async_task_revision).values(revision=async_task_revision.c.revision + 1)):
        store.note_change()


@pytest.mark.every_database
def test_what_recorders_of_earlier_versions_write_counts(store: Store) -> None:
    before = at(store)
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE async_task_revision SET revision = revision + 1"))
    assert at(store) == before + 1


@pytest.mark.every_database
def test_operators_count_in_the_same_rows(store: Store, writer: Writer) -> None:
    with store.engine.connect() as connection:
        old = old_row(connection)
        changes = connection.scalar(select(func.sum(async_task_change.c.changes))) or 0
    writer.batch(lambda _: None)
    with store.engine.connect() as connection:
        assert old_row(connection) == old
        assert connection.scalar(select(func.sum(async_task_change.c.changes))) == changes + 1
