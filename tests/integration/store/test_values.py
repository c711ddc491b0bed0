"""Stored values come back unchanged, and the models."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from celery_asynctask.core.event import Event, Kind
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt
from tests import services
from tests.histories import HISTORIES, ID, Delivery, about, failure, fold, lines, ms, published
from tests.integration.rows import stored

pytestmark = pytest.mark.every_database

UTC = dt.timezone.utc


@pytest.mark.databases(*services.SERVERS)
def test_times_do_not_depend_on_the_session_s_time_zone(store: Store) -> None:
    history = HISTORIES["success"]()
    store.write(lines(history))
    zone = {"postgresql": "SET TIME ZONE 'Asia/Tokyo'", "mysql": "SET time_zone = '+09:00'"}
    statement = zone[store.engine.dialect.name]
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
    for number, value in enumerate(JSON_VALUES):
        history = [run.started(3, args=[value], kwargs={"k": value}), run.ended(Kind.SUCCEEDED, 4, result=value)]
        store.write(lines(about(history, str(number))))
    with Session(store.engine) as session:
        for row in session.scalars(select(AsyncTask)):
            value = JSON_VALUES[int(row.celery_task_id)]
            assert (row.task_args, row.task_kwargs, row.result) == ([value], {"k": value}, value)
            assert type(row.result) is type(value)


def test_the_deepest_json_that_is_made(store: Store) -> None:
    from celery_asynctask.capture.payload import PLAIN
    from celery_asynctask.capture.payload.walk import MAX_DEPTH

    nested: Any = 1
    for _ in range(2 * MAX_DEPTH):
        nested = {"a": [nested]}
    store.write(lines([Delivery(2).ended(Kind.SUCCEEDED, 4, result=PLAIN.value(nested))]))
    assert stored(store)[ID].task["result"] == PLAIN.value(nested)


def test_null_is_null(store: Store) -> None:
    """SQL's NULL, not the JSON value null: otherwise every query would have to check both."""
    store.write(lines([Delivery(2).ended(Kind.SUCCEEDED, 4, result=None)]))
    with store.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM async_task WHERE result IS NULL")).scalar_one() == 1


def test_texts_come_back_as_they_were(store: Store) -> None:
    odd = "é 😀 \" ' \\ % :x\n"
    run = Delivery(2, name=odd)
    events: list[Event] = [
        run.started(3, worker=odd, queue=odd),
        run.ended(Kind.FAILED, 4, **failure(odd, error_type=odd)),
    ]
    store.write(lines(events))
    assert stored(store) == {ID: fold(events)}


def test_ids_differ_by_case_and_accent(store: Store) -> None:
    ids = ["abc", "ABC", "äbc", "ABÇ", " abc"]
    store.write(lines(event for task_id in ids for event in about([published()], task_id)))
    assert set(stored(store)) == set(ids)


def test_the_longest_texts_that_are_made(store: Store) -> None:
    from celery_asynctask.core.limits import MAX_MESSAGE, MAX_TRACEBACK

    run = Delivery(2, name="😀" * 255)
    history = [
        run.started(3, worker="😀" * 255, queue="😀" * 255),
        run.ended(
            Kind.FAILED,
            4,
            error_type="😀" * 255,
            error_message="😀" * (MAX_MESSAGE + 30),
            traceback="😀" * (MAX_TRACEBACK + 100),
        ),
    ]
    history = about(history, "😀" * 255)
    store.write(lines(history))
    assert stored(store) == {"😀" * 255: fold(history)}


# -- models --------------------------------------------------------------------------


def test_attempts_are_counted_from_one_in_the_order_of_their_keys(store: Store) -> None:
    history = HISTORIES["retries_exhausted"]()
    for one in reversed(history):
        store.write(lines([one, *about([one], "other")]))
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
    store.write(lines(HISTORIES["failed"]()))
    with Session(store.engine) as session:
        [row] = session.scalars(select(AsyncTask).where(AsyncTask.status == AsyncTaskStatus.FAILURE)).all()
        assert row.status is AsyncTaskStatus.FAILURE
        assert repr(row) == f"<AsyncTask {ID} shop.charge FAILURE>"


def test_json_can_be_queried(store: Store) -> None:
    store.write(lines([published(kwargs={"currency": "EUR", "lines": [{"n": 5}]})]))
    with Session(store.engine) as session:
        matching = session.scalars(select(AsyncTask.id).where(AsyncTask.task_kwargs["currency"].as_string() == "EUR"))
        assert len(matching.all()) == 1
        matching = session.scalars(select(AsyncTask.id).where(AsyncTask.task_kwargs["lines"][0]["n"].as_integer() == 6))
        assert matching.all() == []
