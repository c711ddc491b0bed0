"""The counter of changes: every transaction that changes rows increases it, and writers that meet there do not
deadlock."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from celery_asynctask.operations.erase import Erasure
from celery_asynctask.operations.session import Writer
from celery_asynctask.queries.reader import Reader, revision
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask
from tests import processes
from tests.histories import HISTORIES, about, lines, variant
from tests.integration.purge import work

pytestmark = pytest.mark.every_database

WRITERS = 4
BATCHES = 25


def at(store: Store) -> int:
    reader = Reader(store.settings.url)
    try:
        with reader.session() as session:
            count = revision(session)
    finally:
        reader.close()
    assert count is not None
    return count


def events_of(*ids: str, **extra: Any) -> list[bytes]:
    events = [event for one in ids for event in about(HISTORIES["success"](), one)]
    return lines(variant(one, **extra) if one.get("asked") else one for one in events)


def test_it_grows_with_every_change(store: Store) -> None:
    before = at(store)
    store.write(events_of("a", "b", customer=42))
    assert at(store) == before + 1
    writer = Writer(store.settings)
    assert list(Erasure(writer, 42).run())
    assert at(store) == before + 2
    assert work(writer, {"id:a": "1d"}).run(lambda _: None).tasks == 1
    assert at(store) > before + 2
    writer.close()


def test_events_that_are_not_stored_are_not_counted(store: Store) -> None:
    before = at(store)

    def stop() -> None:
        raise RuntimeError("not now")

    with pytest.raises(RuntimeError, match="not now"):
        store.write(events_of("a"), before_commit=stop)
    assert at(store) == before


def test_a_reader_sees_the_count_of_the_state_that_it_sees(store: Store) -> None:
    """Both belong to one state, whatever is written in between."""
    reader = Reader(store.settings.url)
    with reader.session() as session:
        before = revision(session)
        store.write(events_of("a"))
        assert session.scalars(select(AsyncTask.id)).all() == []
        assert revision(session) == before
    with reader.session() as session:
        assert revision(session) == (before or 0) + 1
        assert len(session.scalars(select(AsyncTask.id)).all()) == 1
    reader.close()


def test_recorders_that_write_at_once(store: Store) -> None:
    """The same tasks, in another order for each writer, and others: no writer fails, and each batch is counted."""
    before = at(store)
    url = store.settings.url
    store.close()  # the children must not use its connection

    def write(number: int) -> int:
        own = Store(Settings(url=url))
        try:
            for batch in range(BATCHES):
                shared = [f"shared-{(one * (number + 1) + batch) % 20:02}" for one in range(20)]
                own.write(events_of(*dict.fromkeys(shared), f"own-{number}-{batch}"))
        finally:
            own.close()
        return number

    assert processes.at_once(WRITERS, write) == list(range(WRITERS))
    assert at(store) == before + WRITERS * BATCHES
    with store.engine.connect() as connection:
        assert len(connection.scalars(select(AsyncTask.id)).all()) == 20 + WRITERS * BATCHES
