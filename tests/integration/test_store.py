"""The store: tables made once, rows joined in one transaction, values that come back as they were."""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from sqlalchemy import NullPool, Table, create_engine, delete, event, insert, inspect, select, text, update
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
    StatementError,
)
from sqlalchemy.orm import Session

from celery_asynctask.events import Event, Kind
from celery_asynctask.lifecycle import TERMINAL, AsyncTaskStatus, fold
from celery_asynctask.model import AsyncTask, AsyncTaskAttempt, AsyncTaskSource, AsyncTaskVersion, Base
from celery_asynctask.settings import Settings
from celery_asynctask.store import Position, SourceUpdate, Store, is_outage
from celery_asynctask.store.schema import create_tables
from tests.histories import HISTORIES, ID, Delivery, about, failure, ms, published
from tests.integration.rows import stored
from tests.integration.schema import schema_of
from tests.processes import at_once

UTC = dt.timezone.utc


def description(source: str = "s", **more: Any) -> dict[str, Any]:
    return {"source": source, "host": "h", "pid": 7, "role": "child", "at": ms(0), "dropped": {}, **more}


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


# -- tables ----------------------------------------------------------------------------


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
    store.write([fold(HISTORIES["success"]())])


def test_a_version_that_was_not_noted_is(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.execute(delete(AsyncTaskVersion))
    store.prepare()
    with store.engine.connect() as connection:
        assert connection.execute(select(AsyncTaskVersion)).scalar_one() == "0001"


def test_no_tables_where_the_user_makes_them(database: str) -> None:
    made = Store(Settings(url=database, create_tables=False))
    made.prepare()
    assert inspect(made.engine).get_table_names() == []
    made.close()


# -- writing ---------------------------------------------------------------------------


def test_rows_join_what_is_there(store: Store) -> None:
    told = HISTORIES["retries_overlap"]()
    for one in reversed(told):
        store.write([fold([one])])
    assert stored(store) == {ID: fold(told)}


def test_writing_nothing(store: Store) -> None:
    store.write([])
    assert stored(store) == {}


def test_all_or_nothing(store: Store) -> None:
    """The rows, the high-water mark and what is done before the commit stand or fall together."""

    def fail() -> NoReturn:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.write([fold(HISTORIES["failed"]())], [SourceUpdate(description(), Position(1, 10))], before_commit=fail)
    assert (stored(store), store.position("s")) == ({}, Position())


def test_a_refused_row_takes_the_others_with_it(store: Store) -> None:
    good, bad = fold(HISTORIES["success"]()), fold(about([published()], "bad"))
    bad.task["name"] = None
    with pytest.raises(IntegrityError) as caught:
        store.write([good, bad], [SourceUpdate(description(), Position(1, 10))])
    assert not is_outage(caught.value)
    assert (stored(store), store.position("s")) == ({}, Position())


def test_several_nodes_write_the_same_tasks_at_once(store: Store) -> None:
    """The recorder of the producer's node, and those of two workers' nodes."""
    told = HISTORIES["retries_overlap"]()
    ids = [f"task-{number:03}" for number in range(40)]

    def node(number: int) -> int:
        mine = Store(store.settings)
        for one in told[number::3]:
            mine.write([fold(about([one], task_id)) for task_id in ids])
        mine.close()
        return number

    store.close()
    assert at_once(3, node) == [0, 1, 2]
    assert stored(store) == {task_id: fold(about(told, task_id)) for task_id in ids}


# -- sources ---------------------------------------------------------------------------


def test_position_of_a_source(store: Store) -> None:
    assert store.position("s") == Position()
    position = Position(segment=2, position=2**40, last_number=2**41, stored=2**42, quarantined=3)
    store.write([], [SourceUpdate(description(), position), SourceUpdate(description("other"), Position(1))])
    assert store.position("s") == position
    assert store.position("other") == Position(1)


def test_a_source_in_full(store: Store) -> None:
    before = dt.datetime.now(UTC)
    store.write([], [SourceUpdate(description(dropped={"ENOSPC": 2}), Position(1, 10, 1, 1, 0))])
    changed = description(host="other", pid=8, role="worker", at=ms(9))
    store.write([], [SourceUpdate(changed, Position(2, 20, 3, 2, 1))])
    with Session(store.engine) as session:
        [source] = session.scalars(select(AsyncTaskSource)).all()
        assert (source.host, source.pid, source.role) == ("h", 7, "child"), "what it was does not change"
        assert source.started_at == dt.datetime.fromtimestamp(ms(0) / 1e6, UTC)
        assert before <= source.last_seen_at <= dt.datetime.now(UTC)
        assert (source.segment, source.position, source.last_number) == (2, 20, 3)
        assert (source.stored, source.quarantined, source.dropped) == (2, 1, None)


# -- values ----------------------------------------------------------------------------


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


def test_times_do_not_depend_on_the_session_s_time_zone(store: Store) -> None:
    told = HISTORIES["success"]()
    store.write([fold(told)])
    zone = {"postgresql": "SET TIME ZONE 'Asia/Tokyo'", "mysql": "SET time_zone = '+09:00'"}
    statement = zone.get(store.engine.dialect.name)
    if statement is None:
        pytest.skip("SQLite has no time zones")
    with store.engine.connect() as connection:
        connection.execute(text(statement))
        [completed] = connection.scalars(select(AsyncTask.completed_at)).all()
    assert completed == dt.datetime.fromtimestamp(ms(9) / 1e6, UTC)


JSON_VALUES: list[Any] = [
    None,
    True,
    0,
    -1.5,
    0.1 + 0.2,
    2**63,
    -(2**1024) + 1,
    10**308 + 1,
    "",
    "text",
    "123",
    "null",
    "é ü ß 漢字 😀 \u2028 \ufffd \x7f \x01",
    "quotes \" ' ` \\ \\u0041 % %% %s :name ; -- /* */",
    "\r\n\t",
    [],
    {},
    [None, [None], {"": None}],
    {"😀": {"nested": [1, 2.5, "x", {"deep": True}]}, 'with "quote': "'"},
    {"huge": [10**300, 2**64], "small": [1e-300, 5e-324]},
]


def test_json_comes_back_as_it_was(store: Store) -> None:
    run = Delivery(2)
    store.write(
        fold(
            about(
                [run.started(3, args=[value], kwargs={"k": value}), run.ended(Kind.SUCCEEDED, 4, result=value)],
                str(number),
            )
        )
        for number, value in enumerate(JSON_VALUES)
    )
    with Session(store.engine) as session:
        for row in session.scalars(select(AsyncTask)):
            value = JSON_VALUES[int(row.celery_task_id)]
            assert (row.task_args, row.task_kwargs, row.result) == ([value], {"k": value}, value)
            assert type(row.result) is type(value)


def test_the_deepest_json_that_is_made(store: Store) -> None:
    from celery_asynctask.payload import MAX_DEPTH, to_json

    nested: Any = 1
    for _ in range(2 * MAX_DEPTH):
        nested = {"a": [nested]}
    store.write([fold([Delivery(2).ended(Kind.SUCCEEDED, 4, result=to_json(nested))])])
    assert stored(store)[ID].task["result"] == to_json(nested)


def test_null_is_null(store: Store) -> None:
    """Not the JSON value null, for which queries would have to be written twice."""
    store.write([fold([Delivery(2).ended(Kind.SUCCEEDED, 4, result=None)])])
    with store.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM async_task WHERE result IS NULL")).scalar_one() == 1


def test_texts_come_back_as_they_were(store: Store) -> None:
    odd = "é 😀 \" ' \\ % :x\n"
    run = Delivery(2, name=odd)
    events: list[Event] = [
        run.started(3, worker=odd, queue=odd),
        run.ended(Kind.FAILED, 4, **failure(odd, error_type=odd)),
    ]
    store.write([fold(events)])
    assert stored(store) == {ID: fold(events)}


def test_ids_differ_by_case_and_accent(store: Store) -> None:
    ids = ["abc", "ABC", "äbc", "ABÇ", " abc"]
    store.write([fold(about([published()], task_id)) for task_id in ids])
    assert set(stored(store)) == set(ids)


def test_the_longest_texts_that_are_made(store: Store) -> None:
    from celery_asynctask.payload import MAX_MESSAGE, MAX_TRACEBACK

    run = Delivery(2, name="😀" * 255)
    told = [
        run.started(3, worker="😀" * 255, queue="😀" * 255),
        run.ended(
            Kind.FAILED,
            4,
            error_type="😀" * 255,
            error_message="😀" * (MAX_MESSAGE + 30),
            traceback="😀" * (MAX_TRACEBACK + 100),
        ),
    ]
    told = about(told, "😀" * 255)
    store.write([fold(told)])
    assert stored(store) == {"😀" * 255: fold(told)}


# -- what the tables refuse --------------------------------------------------------------


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


# -- models ------------------------------------------------------------------------------


def test_attempts_are_counted_from_one_in_the_order_of_runs(store: Store) -> None:
    told = HISTORIES["retries_exhausted"]()
    for one in reversed(told):
        store.write([fold([one]), fold(about([one], "other"))])
    with Session(store.engine) as session:
        attempts = session.scalars(
            select(AsyncTaskAttempt).where(AsyncTaskAttempt.celery_task_id == ID).order_by(AsyncTaskAttempt.run_key)
        ).all()
        assert [(one.attempt, one.retries, one.outcome) for one in attempts] == [
            (1, 0, "retried"),
            (2, 1, "retried"),
            (3, 2, "failed"),
        ]
        assert repr(attempts[0]) == f"<AsyncTaskAttempt {ID} {attempts[0].run_key} retried>"


def test_a_row_as_a_model(store: Store) -> None:
    store.write([fold(HISTORIES["failed"]())])
    with Session(store.engine) as session:
        [row] = session.scalars(select(AsyncTask).where(AsyncTask.status == AsyncTaskStatus.FAILURE)).all()
        assert row.status is AsyncTaskStatus.FAILURE
        assert repr(row) == f"<AsyncTask {ID} shop.charge FAILURE>"


def test_json_can_be_asked(store: Store) -> None:
    store.write([fold([published(kwargs={"currency": "EUR", "lines": [{"n": 5}]})])])
    with Session(store.engine) as session:
        found = session.scalars(select(AsyncTask.id).where(AsyncTask.task_kwargs["currency"].as_string() == "EUR"))
        assert len(found.all()) == 1
        found = session.scalars(select(AsyncTask.id).where(AsyncTask.task_kwargs["lines"][0]["n"].as_integer() == 6))
        assert found.all() == []


# -- the engine --------------------------------------------------------------------------


def test_engine_options_of_the_user(database: str) -> None:
    made = Store(Settings(url=database, engine_options={"poolclass": NullPool, "echo": False}))
    made.prepare()
    made.write([fold(HISTORIES["success"]())])
    assert isinstance(made.engine.pool, NullPool)
    assert len(stored(made)) == 1
    made.close()


def test_options_for_sqlite_s_connection_are_kept(tmp_path: Path) -> None:
    options = {"connect_args": {"isolation_level": "IMMEDIATE"}}
    made = Store(Settings(url=f"sqlite:///{tmp_path}/x.db", engine_options=options))
    made.prepare()
    with made.engine.connect() as connection:
        assert connection.connection.dbapi_connection.isolation_level == "IMMEDIATE"  # type: ignore[union-attr]
    assert options == {"connect_args": {"isolation_level": "IMMEDIATE"}}
    made.close()


def test_a_closed_store_opens_again(store: Store) -> None:
    store.close()
    store.close()
    store.write([fold(HISTORIES["success"]())])
    assert len(stored(store)) == 1


def test_closing_a_store_that_was_never_used() -> None:
    Store(Settings(url="postgresql+nosuchdriver://h/d")).close()


# -- whose fault an error is ---------------------------------------------------------------


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
