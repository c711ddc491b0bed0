"""A store that is empty at the start of each test, a journal, and drains between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from celery_asynctask import batch
from celery_asynctask.drain import Drain
from celery_asynctask.journal import Directory, Journal
from celery_asynctask.model import AsyncTaskRevision, AsyncTaskVersion, Base
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests import services
from tests.integration.draining import MakeDrain


@pytest.fixture(autouse=True)
def _told_nothing() -> None:
    """What was logged before is not left out in this test."""
    batch._told.clear()


@pytest.fixture(scope="module", params=services.DATABASES)
def shared_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One database for all tests of a module, on each kind of database; what tests leave in it stays there."""
    with services.new_database(request.param, tmp_path_factory.mktemp("store")) as url:
        made = Store(Settings(url=url))
        made.prepare()
        yield made
        made.close()


@pytest.fixture
def store(shared_store: Store) -> Iterator[Store]:
    """A store with empty tables, on each kind of database."""
    with shared_store.engine.begin() as connection:
        for table in Base.metadata.tables.values():
            if table not in (AsyncTaskRevision.__table__, AsyncTaskVersion.__table__):
                connection.execute(delete(table))
    yield shared_store
    assert shared_store.engine.pool.checkedout() == 0, "a connection was not given back"  # type: ignore[attr-defined]


@pytest.fixture
def make_drain(store: Store, tmp_path: Path) -> Iterator[MakeDrain]:
    """Makes drains of one journal into the store, with settings of their own; each as after a restart."""
    made: list[Drain] = []

    def make(**more: Any) -> Drain:
        settings = Settings(url=store.settings.url, journal_dir=tmp_path / "journal", **more)
        made.append(Drain(Directory(settings.directory, settings.store_id), settings))
        return made[-1]

    yield make
    for one in made:
        if "engine" in one.store.__dict__:
            assert one.store.engine.pool.checkedout() == 0, "a connection was not given back"  # type: ignore[attr-defined]
        one.close()


@pytest.fixture
def journal(store: Store, tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal", store.settings.store_id)
    yield made
    made.close()
