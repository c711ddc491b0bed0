"""Tables: made once, and refusing what cannot be true."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from sqlalchemy import Table, create_engine, delete, insert, inspect, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from celery_asynctask.lifecycle import TERMINAL, AsyncTaskStatus
from celery_asynctask.model import AsyncTask, AsyncTaskVersion, Base
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store, is_outage
from celery_asynctask.store.schema import create_tables
from tests.histories import HISTORIES, lines
from tests.integration.schema import schema_of
from tests.processes import at_once

pytestmark = pytest.mark.every_database

UTC = dt.timezone.utc


def task_row(**more: Any) -> dict[str, Any]:
    """A row for an INSERT past the store."""
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
        **more,
    }


def insert_task(store: Store, **more: Any) -> None:
    with store.engine.begin() as connection:
        connection.execute(insert(AsyncTask), [task_row(**more)])


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
        assert len(connection.execute(select(AsyncTaskVersion)).all()) == 1
    engine.dispose()


@pytest.mark.parametrize("missing", sorted(Base.metadata.tables))
def test_what_a_killed_process_had_begun_is_completed(store: Store, missing: str) -> None:
    """MySQL keeps each table that was made, whatever becomes of the transaction."""
    assert not create_tables(store.engine)
    with store.engine.begin() as connection:
        Base.metadata.tables[missing].drop(connection)
    store.prepare()
    assert set(inspect(store.engine).get_table_names()) == set(Base.metadata.tables)
    store.write(lines(HISTORIES["success"]()))


def test_a_version_that_was_not_noted_is(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.execute(delete(AsyncTaskVersion))
    store.prepare()
    with store.engine.connect() as connection:
        assert connection.execute(select(AsyncTaskVersion.version_num)).scalar_one() == "0001"


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
    with pytest.raises(DBAPIError, match="ck_async_task_completed") as caught:
        insert_task(store, status=status, completed_at=wrong)
    assert not is_outage(caught.value)
    insert_task(store, status=status, completed_at=right)
    with pytest.raises(DBAPIError, match="ck_async_task_completed"), store.engine.begin() as connection:
        connection.execute(update(AsyncTask).values(completed_at=wrong))


def test_one_row_an_id(store: Store) -> None:
    insert_task(store)
    with pytest.raises(IntegrityError):
        insert_task(store)


# -- what they say -------------------------------------------------------------------


def test_tables_have_the_columns_of_the_resource(store: Store) -> None:
    """The properties of the REST resource in snake case, and the keys of the fold."""
    properties = (
        "id createdByName name createdAt status errorMessage errorType retries completedAt startedAt celeryTaskId "
        "rootTaskId parentTaskId traceId spanId taskArgs taskKwargs result content customer createdBy"
    )
    names = [
        "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in one) for one in properties.split()
    ]
    table = AsyncTask.__table__
    assert isinstance(table, Table)
    assert [column["name"] for column in inspect(store.engine).get_columns("async_task")] == [
        *names,
        "origin_key",
        "order_key",
        "trace_key",
        "content_key",
    ]


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
