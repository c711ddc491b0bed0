"""The tables are created once, and refuse impossible rows."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from sqlalchemy import Table, create_engine, delete, insert, inspect, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from celery_asynctask.core.status import TERMINAL, AsyncTaskStatus
from celery_asynctask.errors import StoreError
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store, schema
from celery_asynctask.store.models import AsyncTask, Base
from celery_asynctask.store.schema import create_tables
from celery_asynctask.store.tables import SCHEMA_VERSION, async_task_version
from tests.histories import HISTORIES, lines
from tests.integration.schema import schema_of
from tests.processes import at_once
from tests.waiting import wait_for

pytestmark = pytest.mark.every_database

UTC = dt.timezone.utc


def task_row(**extra: Any) -> dict[str, Any]:
    """A row for an INSERT that bypasses the store."""
    return {
        "name": "n",
        "created_at": dt.datetime(2026, 1, 1, tzinfo=UTC),
        "status": "PENDING",
        "retries": 0,
        "celery_task_id": "direct",
        "origin_key": "",
        "order_key": "",
        "trace_key": "",
        "content_key": "",
        "customer_key": "",
        **extra,
    }


def insert_task(store: Store, **extra: Any) -> None:
    with store.engine.begin() as connection:
        connection.execute(insert(AsyncTask), [task_row(**extra)])


# -- making them ---------------------------------------------------------------------


def test_tables_are_made_once(database: str) -> None:
    engine = create_engine(database)
    assert create_tables(engine)
    before = schema_of(database)
    assert not create_tables(engine)
    assert schema_of(database) == before
    engine.dispose()


def test_six_processes_make_them_once(database: str) -> None:
    def start(_number: int) -> bool:
        engine = create_engine(database)
        made = create_tables(engine)
        engine.dispose()
        return made

    assert sorted(at_once(6, start)) == [False] * 5 + [True]
    engine = create_engine(database)
    assert set(inspect(engine).get_table_names()) == set(Base.metadata.tables)
    with engine.connect() as connection:
        assert len(connection.execute(select(async_task_version)).all()) == 1
    engine.dispose()


@pytest.mark.databases("mysql")
def test_no_tables_are_made_without_the_lock(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, other = create_engine(database), create_engine(database)
    monkeypatch.setattr(schema, "_LOCK_SECONDS", 0)
    with other.connect() as holder, schema.exclusive(holder):
        with pytest.raises(StoreError, match=r"another process is creating or changing them.*IS_USED_LOCK"):
            create_tables(engine)
        assert inspect(other).get_table_names() == []
    assert create_tables(engine)
    engine.dispose()
    other.dispose()


@pytest.mark.databases("mysql")
def test_no_tables_are_made_where_there_is_no_lock(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_engine(database)
    monkeypatch.setattr(schema, "_name", lambda _: None)  # for which the answer is NULL, as for an error
    with pytest.raises(StoreError, match="did not grant the lock"):
        create_tables(engine)
    assert inspect(engine).get_table_names() == []
    engine.dispose()


@pytest.mark.databases("mysql")
def test_the_lock_is_released_whatever_happens(database: str) -> None:
    """The original error is raised."""
    engine, other = create_engine(database), create_engine(database)
    with pytest.raises(ZeroDivisionError), engine.connect() as connection, schema.exclusive(connection):
        raise ZeroDivisionError

    def killed() -> None:
        with engine.connect() as connection, schema.exclusive(connection):
            number = connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one()
            with other.connect() as administrator:
                administrator.exec_driver_sql(f"KILL {number}")
            connection.exec_driver_sql("SELECT 1")

    with pytest.raises(DBAPIError, match=r"killed|Lost connection|gone away"):
        killed()
    with other.connect() as connection:
        statement = f"SELECT IS_FREE_LOCK('{schema._name(connection)}')"
        wait_for(lambda: connection.exec_driver_sql(statement).scalar(), 10, "the lock to be free")
    engine.dispose()
    other.dispose()


@pytest.mark.parametrize("missing", sorted(Base.metadata.tables))
def test_what_a_killed_process_had_begun_is_completed(store: Store, missing: str) -> None:
    """MySQL keeps each table that was created, whatever happens to the transaction."""
    assert not create_tables(store.engine)
    with store.engine.begin() as connection:
        Base.metadata.tables[missing].drop(connection)
    store.prepare()
    assert set(inspect(store.engine).get_table_names()) == set(Base.metadata.tables)
    store.write(lines(HISTORIES["success"]()))


def test_a_version_that_was_not_noted_is(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.execute(delete(async_task_version))
    store.prepare()
    with store.engine.connect() as connection:
        assert connection.execute(select(async_task_version.c.version_num)).scalar_one() == SCHEMA_VERSION


def test_no_tables_where_the_user_makes_them(database: str) -> None:
    made = Store(Settings(url=database, create_tables=False))
    made.prepare()
    assert inspect(made.engine).get_table_names() == []
    made.close()


# -- what they refuse ----------------------------------------------------------------


@pytest.mark.parametrize("status", AsyncTaskStatus)
def test_completed_exactly_when_terminal(store: Store, status: AsyncTaskStatus) -> None:
    now = dt.datetime.now(UTC)
    right, wrong = (now, None) if status in TERMINAL else (None, now)
    with pytest.raises(DBAPIError, match="ck_async_task_completed"):
        insert_task(store, status=status, completed_at=wrong)
    insert_task(store, status=status, completed_at=right)
    with pytest.raises(DBAPIError, match="ck_async_task_completed"), store.engine.begin() as connection:
        connection.execute(update(AsyncTask).values(completed_at=wrong))


def test_one_row_an_id_and_customer(store: Store) -> None:
    for customer in ("", "42", "acme"):
        insert_task(store, customer_key=customer)
        with pytest.raises(IntegrityError):
            insert_task(store, customer_key=customer)


# -- what they say -------------------------------------------------------------------


def test_tables_have_the_columns_of_the_resource(store: Store) -> None:
    """The properties of the REST resource in snake case, then the keys of the fold, then later columns."""
    properties = (
        "id createdByName name createdAt status errorMessage errorType retries completedAt startedAt celeryTaskId "
        "rootTaskId parentTaskId traceId spanId taskArgs taskKwargs result content customer createdBy"
    )
    names = [
        "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in one) for one in properties.split()
    ]
    table = AsyncTask.__table__
    assert isinstance(table, Table)
    expected = [*names, "origin_key", "order_key", "trace_key", "content_key"]
    columns = [column["name"] for column in inspect(store.engine).get_columns("async_task")]
    assert columns[: len(expected)] == expected


@pytest.mark.parametrize(
    "moment",
    [
        dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        dt.datetime(2026, 7, 2, 3, 4, 5, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30))),
        dt.datetime(2026, 12, 31, 23, 59, 59, 999999, tzinfo=dt.timezone(dt.timedelta(hours=-8))),
    ],
)
def test_times_come_back_aware_and_in_utc(store: Store, moment: dt.datetime) -> None:
    insert_task(store, created_at=moment)
    with Session(store.engine) as session:
        [row] = session.scalars(select(AsyncTask).where(AsyncTask.created_at == moment)).all()
        assert row.created_at == moment
        assert row.created_at.utcoffset() == dt.timedelta(0)
