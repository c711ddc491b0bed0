"""Stores, empty or with some tasks; a journal, and drains between them; apps, and the HTTP API."""

from __future__ import annotations

import datetime as dt
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import delete, insert

from celery_asynctask import install, uninstall
from celery_asynctask.capture import instrumentation
from celery_asynctask.journal import Directory, Journal
from celery_asynctask.operations.session import Writer
from celery_asynctask.recorder import batch as draining
from celery_asynctask.recorder.drain import Drain
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTaskAttempt, Base
from celery_asynctask.store.tables import (
    async_task_change,
    async_task_identity,
    async_task_revision,
    async_task_version,
)
from celery_asynctask.web import rerun, sessions
from celery_asynctask.web.service import Caller
from tests import services
from tests.integration import commands
from tests.integration.draining import MakeDrain
from tests.integration.http.client import OURS, THEIRS, Api, api_over, tell
from tests.integration.oracle import START as AT
from tests.integration.oracle import add, row
from tests.integration.samples import EVERYTHING, SECOND, UUID
from tests.integration.tenants import WHOSE
from tests.pace import patience

lookup = sys.modules["celery_asynctask.queries.reruns"]
"""The module; in its package, a function may have the name."""


@pytest.fixture(autouse=True)
def _logged_nothing() -> None:
    """Log messages of earlier tests are logged in this test, too."""
    draining._logged.clear()


@pytest.fixture(autouse=True)
def _no_process_left() -> Iterator[None]:
    yield
    commands.end_all()


@pytest.fixture(autouse=True)
def _time_to_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give an app that is uninstalled enough time to store its events, even on a slow machine."""
    monkeypatch.setattr(instrumentation, "EXIT_SECONDS", patience(20))


class Stores:
    """One store for each kind of database, shared by all tests of a process and created on first use."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack = stack
        self._directory = directory
        self._made: dict[str, Store] = {}

    def __getitem__(self, kind: str) -> Store:
        if kind not in self._made:
            url = self._stack.enter_context(services.new_database(kind, self._directory))
            self._made[kind] = self._stack.enter_context(prepared(url))
        return self._made[kind]


@contextmanager
def prepared(url: str) -> Iterator[Store]:
    """A store with its tables."""
    made = Store(Settings(url=url))
    made.prepare()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    with ExitStack() as stack:
        yield Stores(stack, tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="session")
def shared_store(stores: Stores, database_kind: str) -> Store:
    """A database for all tests. Rows that a test leaves in it stay until a test uses `store`."""
    return stores[database_kind]


@pytest.fixture(scope="module")
def module_store(database_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A database for the tests of a module that only read it."""
    with (
        services.new_database(database_kind, tmp_path_factory.mktemp("store")) as url,
        prepared(url) as made,
    ):
        yield made


@pytest.fixture
def store(shared_store: Store) -> Iterator[Store]:
    """A store with empty tables."""
    shared_store.close()  # the server may have closed its connection, which nothing tries again here
    with shared_store.engine.begin() as connection:
        for table in Base.metadata.tables.values():
            if table not in (async_task_change, async_task_identity, async_task_revision, async_task_version):
                connection.execute(delete(table))
    yield shared_store
    assert shared_store.engine.pool.checkedout() == 0, "a connection was not given back"  # type: ignore[attr-defined]


@pytest.fixture
def make_drain(store: Store, tmp_path: Path) -> Iterator[MakeDrain]:
    """Makes drains of one journal into the store, with settings of their own; each is like one after a restart."""
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


@pytest.fixture
def writer(store: Store) -> Iterator[Writer]:
    made = Writer(store.settings)
    yield made
    assert made.engine.pool.checkedout() == 0, "a connection was not given back"  # type: ignore[attr-defined]
    made.close()


@pytest.fixture
def shop(store: Store, tmp_path: Path) -> Iterator[Celery]:
    """An app that knows the task of the histories."""
    made = Celery("shop", broker="memory://", set_as_current=False)
    made.conf.update(asynctask_journal_dir=str(tmp_path / "journal"), task_default_queue=f"shop-{uuid.uuid4().hex}")

    @made.task(shared=False, name="shop.charge")
    def charge(number: int, text: str, currency: str = "EUR") -> None: ...

    yield made
    uninstall(made)
    made.close()


@pytest.fixture
def api(store: Store, shop: Celery) -> Iterator[Api]:
    """The HTTP API over the store, with that app."""
    with api_over(store, shop) as made:
        yield made


@pytest.fixture
def two_tenants(store: Store) -> None:
    """A task of each of two customers."""
    tell(store, "ours", OURS)
    tell(store, "theirs", THEIRS)


@pytest.fixture
def one_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """All requests come at the same time, because some answers name the minute until which they look."""
    now = dt.datetime.now(dt.timezone.utc)
    monkeypatch.setattr(Caller, "now", property(lambda _: now, lambda *_: None), raising=False)
    monkeypatch.setattr(sessions, "LOOK_SECONDS", 3600.0)


@pytest.fixture
def not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record does not have reruns yet: no recorder has drained since."""
    monkeypatch.setattr(rerun, "reruns", lambda *_: lookup.Reruns({}, None))


@pytest.fixture
def eager_app(tmp_path: Path) -> Iterator[Celery]:
    """An app whose tasks run in the calling process, recorded into an SQLite file."""
    app = Celery("eager", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(
        task_always_eager=True,
        asynctask_url=f"sqlite:///{tmp_path / 'rows.db'}",
        asynctask_journal_dir=tmp_path / "journal",
    )
    install(app)
    yield app
    uninstall(app)


@pytest.fixture
def one_store(tmp_path: Path) -> Iterator[Store]:
    """On SQLite, because the database does not matter."""
    made = Store(Settings(url=f"sqlite:///{tmp_path / 'rows.db'}"))
    made.prepare()
    for task_id, customer in WHOSE.items():
        tell(made, task_id, customer)
    yield made
    made.close()


@pytest.fixture
def two(store: Store) -> None:
    """One task with every value, and one with as few as possible."""
    whole = row(UUID, **{**EVERYTHING, "created_at": AT + SECOND})
    add(store, [{**dict.fromkeys(whole), **row("plain")}, whole])
    attempt = {"run_key": "0", "name": "shop.refund", "retries": 3, "redelivered": False, "end_key": ""}
    with store.engine.begin() as connection:
        owned = {"celery_task_id": UUID, "customer_key": whole["customer_key"]}
        values = {"worker": "celery@one", "queue": "high", **owned}
        connection.execute(insert(AsyncTaskAttempt), [{**attempt, **values}])
