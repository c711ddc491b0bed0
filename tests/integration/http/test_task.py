"""One task over HTTP: its columns, attempts and workflow; on each kind of database."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from celery_asynctask.http import tasks
from celery_asynctask.queries import task as task_query
from celery_asynctask.store import Store
from celery_asynctask.web.schema import AsyncTask as Shape
from celery_asynctask.web.schema import AsyncTaskAttempt as AttemptShape
from celery_asynctask.web.schema import AsyncTaskMember
from tests.histories import HISTORIES, START, about, lines
from tests.integration.http.client import Api, api_over, is_problem
from tests.integration.oracle import add, row
from tests.integration.samples import SECOND, SPAN, TRACE, UUID, z
from tests.workflows import CHARGE, CHECKOUT, INVOICE, NOTIFY, SHIP, TRACEBACK, order


@pytest.fixture
def api(store: Store, tmp_path: Path) -> Iterator[Api]:
    with api_over(store, asynctask_journal_dir=str(tmp_path / "journal")) as made:
        yield made


def test_a_celery_id_that_is_a_number(store: Store, api: Api) -> None:
    """The row number comes first: lists link to it."""
    add(store, [row("first"), row("9" * 18), row("9" * 19), row("00700700")])
    first = api.ok("/async-tasks/first")
    add(store, [row(str(first["id"]), name="shop.named")])
    assert api.ok(f"/async-tasks/{first['id']}")["celeryTaskId"] == "first"
    for task_id in ("9" * 18, "9" * 19, "00700700"):
        assert api.ok(f"/async-tasks/{task_id}")["celeryTaskId"] == task_id


def properties(shape: Any) -> list[str]:
    return [one.alias for one in shape.model_fields.values()]


@pytest.mark.every_database
def test_a_task_in_which_everything_is_there(api: Api, two: None) -> None:
    shown = api.ok(f"/async-tasks/{UUID}")
    number = shown["id"]
    assert list(shown) == properties(Shape)
    assert shown == {
        "id": number,
        "createdByName": "Ada Lovelace, Countess",
        "name": "shop.refund",
        "createdAt": "2026-01-31T12:00:01.000000Z",
        "status": "FAILURE",
        "errorMessage": "no\nmoney",
        "errorType": "shop.NoMoney",
        "retries": 3,
        "completedAt": "2026-01-31T12:00:05.000000Z",
        "startedAt": "2026-01-31T12:00:02.000000Z",
        "celeryTaskId": UUID,
        "rootTaskId": "root-1",
        "parentTaskId": "parent-1",
        "traceId": TRACE,
        "spanId": SPAN,
        "taskArgs": [1, "é"],
        "taskKwargs": {"account": {"id": 17}},
        "result": {"a": None},
        "content": {"note": "x"},
        "customer": -5,
        "createdBy": 2**63 - 1,
    }
    assert api.ok(f"/async-tasks/{number}") == shown
    assert api.ok("/async-tasks")["results"][0] == shown


def test_a_task_in_which_nothing_is_there(api: Api, two: None) -> None:
    shown = api.ok("/async-tasks/plain")
    there = {name: value for name, value in shown.items() if value is not None}
    assert there.keys() == {"id", "name", "createdAt", "status", "retries", "celeryTaskId"}
    assert list(shown) == properties(Shape)


@pytest.mark.every_database
def test_a_celery_id_of_any_kind(store: Store, api: Api) -> None:
    """A task whose id has a slash is found by its row number alone."""
    odd = ["a/b", "é 😀", "50%", "a+b", "?", "#", "stats ", "..;"]
    add(store, [row(task_id) for task_id in odd])
    for task in api.ok("/async-tasks")["results"]:
        assert api.ok(f"/async-tasks/{task['id']}") == task
        answer = api.get(f"/async-tasks/{quote(task['celeryTaskId'], safe='')}")
        if "/" in task["celeryTaskId"]:
            is_problem(answer, "not-found", 404)
        else:
            assert answer.json() == task


def test_there_is_no_such_task(api: Api, two: None) -> None:
    """Only the complete id counts; its beginning, or a pattern, is for searches."""
    for task_id in ("none", "0", "-1", "9" * 30, "%00", "a%0Ab", "%25", UUID[:8], UUID.upper(), "x" * 255):
        for below in ("", "/attempts", "/workflow"):
            is_problem(api.get(f"/async-tasks/{task_id}{below}"), "not-found", 404)
    is_problem(api.get(f"/async-tasks/{'x' * 256}"), "invalid-parameter", 422, "id")


def test_attempts(store: Store, api: Api) -> None:
    store.write(lines([*order(), *HISTORIES["unrecorded_producer"]()]))
    shown = api.ok(f"/async-tasks/{CHARGE}/attempts")
    assert shown["complete"] is True
    assert [list(one) for one in shown["results"]] == [properties(AttemptShape)] * 2
    first, second = shown["results"]
    at = dt.datetime.fromtimestamp(START / 1e6, dt.timezone.utc)
    assert first == {
        "attempt": 1, "name": "shop.charge", "retries": 0, "redelivered": False,
        "earlierExecution": False, "publishedAt": z(at + SECOND * 0.13),
        "receivedAt": z(at + SECOND * 0.131), "eta": None, "startedAt": z(at + SECOND * 0.14),
        "endedAt": z(at + SECOND * 0.2), "outcome": "retried",
        "errorType": "TimeoutError", "errorMessage": "the bank did not answer",
        "traceback": None, "worker": "celery@one", "pid": 4711, "queue": "celery", "traceId": None, "spanId": None,
    }  # fmt: skip
    assert (second["attempt"], second["retries"], second["outcome"]) == (2, 1, "succeeded")
    assert second["eta"] == z(at + SECOND * 0.4)
    number = api.ok(f"/async-tasks/{CHARGE}")["id"]
    assert api.ok(f"/async-tasks/{number}/attempts") == shown
    assert api.ok(f"/async-tasks/{SHIP}/attempts")["results"][0]["traceback"] == TRACEBACK
    assert api.ok(f"/async-tasks/{NOTIFY}/attempts") == {"results": [], "complete": True}


def test_attempts_that_are_too_many(store: Store, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(lines(HISTORIES["retries_exhausted"]()))
    task = api.ok("/async-tasks")["results"][0]["id"]
    for limit, shown in ((2, 2), (3, 3)):
        for module in (task_query, tasks):
            monkeypatch.setattr(module, "MAX_ATTEMPTS", limit)
        answer = api.ok(f"/async-tasks/{task}/attempts")
        assert [one["attempt"] for one in answer["results"]] == list(range(1, shown + 1))
        assert answer["complete"] is (limit == 3)


# -- workflow


def test_a_workflow_from_any_member(store: Store, api: Api) -> None:
    store.write(lines([*order(), *about(HISTORIES["success"](), "other")]))
    shown = api.ok(f"/async-tasks/{CHECKOUT}/workflow")
    assert shown["complete"] is True
    assert [list(one) for one in shown["results"]] == [properties(AsyncTaskMember)] * 5
    keys = ("celeryTaskId", "parentTaskId", "depth", "status", "critical", "planned", "unsent")
    assert [tuple(one[key] for key in keys) for one in shown["results"]] == [
        (CHECKOUT, None, 0, "SUCCESS", True, False, False),
        (CHARGE, CHECKOUT, 1, "SUCCESS", True, False, False),
        (SHIP, CHARGE, 2, "FAILURE", True, False, False),
        (NOTIFY, SHIP, 3, "FAILURE", False, False, True),
        (INVOICE, CHECKOUT, 1, "SUCCESS", False, False, False),
    ]
    assert (shown["results"][2]["errorType"], shown["results"][2]["errorMessage"]) == ("ValueError", "no stock")
    for one in (CHARGE, SHIP, NOTIFY, INVOICE):
        assert api.ok(f"/async-tasks/{one}/workflow") == shown


def test_a_workflow_that_is_too_large(store: Store, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(lines(order()))
    monkeypatch.setattr(sys.modules["celery_asynctask.queries.workflow.members"], "MAX_MEMBERS", 3)
    shown = api.ok(f"/async-tasks/{NOTIFY}/workflow")
    assert shown["complete"] is False
    assert len(shown["results"]) == 3
    assert NOTIFY in {one["celeryTaskId"] for one in shown["results"]}, "what was asked about is there"
