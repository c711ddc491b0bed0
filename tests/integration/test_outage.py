"""Whose fault an error is: the database's, which passes, or a value's, which does not."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
    StatementError,
)

from celery_asynctask.lifecycle import fold
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store, is_outage
from tests.histories import published
from tests.integration.rows import stored


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
    assert is_outage(error)
    made.close()


def test_missing_tables_are_an_outage(database: str) -> None:
    made = Store(Settings(url=database))
    error = error_of(lambda: made.write([fold([published()])]))
    assert isinstance(error, (ProgrammingError, OperationalError))
    assert is_outage(error)
    made.close()


def test_a_lost_connection_is_an_outage(store: Store) -> None:
    dialect = store.engine.dialect.name
    if dialect == "sqlite":
        pytest.skip("SQLite has no connection to lose")
    who, kill = {
        "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend({})"),
        "mysql": ("SELECT CONNECTION_ID()", "KILL {}"),
    }[dialect]
    administrator = create_engine(store.settings.url)

    @event.listens_for(store.engine, "begin", once=True)
    def lose(connection: Any) -> None:
        number = connection.exec_driver_sql(who).scalar_one()
        with administrator.connect() as other:
            other.exec_driver_sql(kill.format(number))

    error = error_of(lambda: store.write([fold([published()])]))
    assert isinstance(error, DBAPIError)
    assert is_outage(error)
    store.write([fold([published()])])
    assert len(stored(store)) == 1
    administrator.dispose()


def test_a_locked_database_is_an_outage(tmp_path: Path) -> None:
    made = Store(Settings(url=f"sqlite:///{tmp_path}/x.db", engine_options={"connect_args": {"timeout": 0}}))
    made.prepare()
    other = sqlite3.connect(f"{tmp_path}/x.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert is_outage(error_of(lambda: made.write([fold([published()])])))
    other.close()
    made.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": None},
        {"retries": 2**70},
        {"created_at": 10**30},
        {"created_at": "yesterday"},
        {"task_args": {1, 2}},
        {"name": "\ud800"},
    ],
    ids=str,
)
def test_a_value_that_no_column_takes_is_no_outage(store: Store, wrong: dict[str, Any]) -> None:
    partial = fold([published()])
    partial.task.update(wrong)
    assert not is_outage(error_of(lambda: store.write([partial])))


@pytest.mark.parametrize("wrong", [{"celery_task_id": "x" * 256}, {"error_type": "x" * 256}, {"order_key": "x" * 65}])
def test_a_text_that_is_too_long_is_no_outage(store: Store, wrong: dict[str, Any]) -> None:
    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite takes texts of any length")
    partial = fold([published()])
    partial.task.update(wrong)
    error = error_of(lambda: store.write([partial]))
    assert isinstance(error, DataError)
    assert not is_outage(error)


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (OSError("disk"), True),
        (ImportError("no driver"), True),
        (ArgumentError("url"), True),
        (MemoryError(), True),
        (StatementError("", "", {}, TypeError()), False),
        (UnicodeEncodeError("utf-8", "", 0, 1, ""), False),
        (OverflowError(), False),
        (KeyError(), False),
    ],
    ids=repr,
)
def test_errors_of_others(error: Exception, outage: bool) -> None:
    assert is_outage(error) is outage
