"""What an operator's command changes in the ledger while a recorder writes a batch is not overwritten."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import DBAPIError

from celery_asynctask.store import Position, SourceUpdate, Store
from celery_asynctask.store.ledger import Moved
from celery_asynctask.store.tables import async_task_source
from tests.integration.draining import source_of

DESCRIPTION = {"source": "1-1-1", "host": "h", "pid": 1, "role": "child", "at": 1, "journal": "j"}
BOUNDS = {"postgresql": "SET lock_timeout = 500", "mysql": "SET SESSION innodb_lock_wait_timeout = 1"}


@pytest.mark.databases("postgresql", "mysql")
def test_a_replay_between_the_look_and_the_write(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has to wait, or the recorder looks again. SQLite has one writer."""
    before = Position(1, 100, 3, 1, 2)
    store.write([], [SourceUpdate(DESCRIPTION, before)])
    write = Store._write
    other = Store(store.settings)
    replayed = False

    def raced(self: Store, *arguments: Any) -> None:
        nonlocal replayed
        columns = async_task_source.c
        with suppress(DBAPIError), other.engine.connect() as connection:
            connection.exec_driver_sql(BOUNDS[connection.dialect.name.replace("mariadb", "mysql")])
            values: Any = {"stored": columns.stored + 2, "quarantined": columns.quarantined - 2}
            connection.execute(update(async_task_source).values(values))
            connection.commit()
            replayed = True
        write(self, *arguments)

    monkeypatch.setattr(Store, "_write", raced)
    moved = False
    try:
        store.write([], [SourceUpdate(DESCRIPTION, Position(1, 200, 4, 2, 2))], expected={"1-1-1": before})
    except Moved:
        moved = True
    other.close()
    row = source_of(store, "1-1-1")
    assert (row.stored, row.quarantined) == ((3, 0) if moved else (4, 0) if replayed else (2, 2))


@pytest.mark.databases("postgresql", "mysql")
def test_a_process_that_another_recorder_stores_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both found it nowhere: the slower one, which has read less, does not put it back."""
    write = Store._write
    other = Store(store.settings)
    raced: list[bool] = []

    def slower(self: Store, *arguments: Any) -> None:
        if self is store:
            monkeypatch.setattr(Store, "_write", write)
            other.write([], [SourceUpdate(DESCRIPTION, Position(1, 300, 30, 30))], expected={"1-1-1": Position()})
            raced.append(True)
        write(self, *arguments)

    monkeypatch.setattr(Store, "_write", slower)
    with pytest.raises(Moved) as moved:
        store.write([], [SourceUpdate(DESCRIPTION, Position(1, 190, 19, 19))], expected={"1-1-1": Position()})
    other.close()
    assert raced
    assert moved.value.positions["1-1-1"].stored in (0, 30), "as its transaction sees it"
    assert source_of(store, "1-1-1").stored == 30
