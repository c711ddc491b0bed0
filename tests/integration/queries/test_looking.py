"""The `Reader` never writes, reads one state, and says what is wrong with a database that it cannot read."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import delete, func, select, text, update

from celery_asynctask.errors import StoreError
from celery_asynctask.queries import Reader
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask
from celery_asynctask.store.tables import async_task_version
from tests.integration.oracle import add, row
from tests.pace import patience

pytestmark = pytest.mark.every_database


@pytest.fixture
def reader(store: Store) -> Iterator[Reader]:
    made = Reader(store.settings.url)
    yield made
    made.close()


def test_a_session_sees_one_state_and_cannot_write(store: Store, reader: Reader) -> None:
    add(store, [row("before")])
    with reader.session() as session:
        assert session.scalar(select(func.count(AsyncTask.id))) == 1
        add(store, [row("meanwhile")])
        assert session.scalar(select(func.count(AsyncTask.id))) == 1
    with reader.session() as session:
        assert session.scalar(select(func.count(AsyncTask.id))) == 2
    with pytest.raises(StoreError, match="cannot be read"), reader.session() as session:
        session.execute(delete(AsyncTask))


def test_a_database_without_tables_or_with_those_of_another_release(database: str) -> None:
    reader = Reader(database)
    if database.startswith("sqlite"):
        Path(database.removeprefix("sqlite:///")).touch()
    with pytest.raises(StoreError, match=r"has no tables of .*: start a worker, .* or run `celery -A APP"):
        reader.check_schema()
    made = Store(Settings(url=database))
    made.prepare()
    reader.check_schema()
    problems = (("0000", "run `celery -A APP asynctask upgrade`"), ("9999", "tables of version 9999, and this release"))
    for version, message in problems:
        with made.engine.begin() as connection:
            connection.execute(update(async_task_version).values(version_num=version))
        with pytest.raises(StoreError, match=message):
            reader.check_schema()
    made.close()
    reader.close()


@pytest.fixture
def silent() -> Iterator[int]:
    """Port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "mysql+pymysql"])
def test_a_server_that_does_not_answer(driver: str, silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_asynctask.store.connection.CONNECT_SECONDS", 2)
    began = time.monotonic()
    for port in (9, silent):
        reader = Reader(f"{driver}://u:secret@127.0.0.1:{port}/d", seconds=1)
        with pytest.raises(
            StoreError, match=rf"The database \S+://u:\*\*\*@127.0.0.1:{port}/d cannot be read: "
        ) as caught:
            reader.check_schema()
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)
        reader.close()
    assert time.monotonic() - began < patience(8)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:///{path}/no.db", "There is no database file .*no.db: nothing has been recorded there yet"),
        ("sqlite:///{path}/text.db", "cannot be read: file is not a database"),
        ("oracle+nothing://u@h/d", "cannot be used"),
        ("postgresql+psycopg://u@127.0.0.1:9/d?nonsense=1", "cannot be read: invalid"),
    ],
)
def test_a_url_that_leads_nowhere(url: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database " * 100, encoding="utf-8")
    reader = Reader(url.format(path=tmp_path))
    with pytest.raises(StoreError, match=message):
        reader.check_schema()
    reader.close()
    assert not (tmp_path / "no.db").exists()


def test_a_query_that_takes_too_long_is_stopped(store: Store) -> None:
    slow = {
        "postgresql": "SELECT pg_sleep(3600)",
        "mysql": "SELECT SLEEP(3600) FROM async_task_version",
        "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
    }[store.engine.dialect.name]
    reader = Reader(store.settings.url, seconds=0.5)
    began = time.monotonic()
    with pytest.raises(StoreError, match="cannot be read"), reader.session() as session:
        session.execute(text(slow))
    assert time.monotonic() - began < patience(5)
    reader.close()


def test_psycopg2_gets_no_cursors_on_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses them outside of a transaction, and sees none of those that we begin. It need not be installed."""
    driver: Any = ModuleType("psycopg2")
    driver.__version__, driver.paramstyle, driver.Error = "2.9.9", "pyformat", Exception
    driver.extras = ModuleType("psycopg2.extras")
    driver.extras.HstoreAdapter = driver.extras.register_uuid = None
    monkeypatch.setitem(sys.modules, "psycopg2", driver)
    monkeypatch.setitem(sys.modules, "psycopg2.extras", driver.extras)
    for name, streams in (("psycopg2", False), ("psycopg", True)):
        reader = Reader(f"postgresql+{name}://u@127.0.0.1:9/d")
        assert reader.engine.dialect.driver == name
        assert reader.engine.dialect.supports_server_side_cursors is streams
        reader.close()
