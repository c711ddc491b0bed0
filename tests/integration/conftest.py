"""A store that is empty at the start of each test, and has its connection back at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import delete

from celery_asynctask.model import AsyncTaskVersion, Base
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests import services


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
            if table is not AsyncTaskVersion.__table__:
                connection.execute(delete(table))
    yield shared_store
    assert shared_store.engine.pool.checkedout() == 0, "a connection was not given back"  # type: ignore[attr-defined]
