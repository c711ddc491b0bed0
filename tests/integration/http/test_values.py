"""Values over HTTP: exact numbers, every text, every history."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text

from celery_asynctask.core.event import Kind
from celery_asynctask.store import Store
from tests.histories import HISTORIES, Delivery, about, lines, published
from tests.integration.http.client import Api

LIST = "/async-tasks"

pytestmark = pytest.mark.usefixtures("two_tenants")

EXACT = [
    2**53 + 1, -(2**53) - 1, 2**63, 2**64 + 1, 10**30 + 1, 10**308 + 1, -(10**400) - 1, 0.1, 0.30000000000000004,
    1.7976931348623157e308, 5e-324, 1e-7, 123456.789,
]  # fmt: skip


@pytest.mark.every_database
def test_numbers_are_as_exact_as_they_were(store: Store, api: Api) -> None:
    run = Delivery(2)
    store.write(
        lines(
            about([run.started(3, args=EXACT, kwargs={"n": EXACT}), run.ended(Kind.SUCCEEDED, 4, result=EXACT)], "big")
        )
    )
    for answer in (api.get(f"{LIST}/big"), api.get(LIST, celeryTaskId="big")):
        shown = json.loads(answer.content, parse_float=Decimal, parse_int=Decimal)
        [task] = shown.get("results", [shown])
        expected = [Decimal(json.dumps(one)) for one in EXACT]
        assert task["taskArgs"] == task["result"] == task["taskKwargs"]["n"] == expected


NUMBERS = "[1e400, -1.5e-400, 0.1234567890123456789012345678901234567890, 1.10, 12345678901234567890.5]"


@pytest.mark.every_database
def test_numbers_that_no_float_has(store: Store, api: Api) -> None:
    """Values as another program may have written them."""
    with store.engine.begin() as connection:
        change = text("UPDATE async_task SET task_args = :value WHERE celery_task_id = 'ours'")
        if store.engine.dialect.name == "postgresql":
            change = text("UPDATE async_task SET task_args = CAST(:value AS JSONB) WHERE celery_task_id = 'ours'")
        connection.execute(change, {"value": NUMBERS})
    raw = api.get(f"{LIST}/ours").content
    shown = json.loads(raw, parse_float=Decimal, parse_int=Decimal)["taskArgs"]
    assert shown == json.loads(NUMBERS, parse_float=Decimal, parse_int=Decimal)
    if store.engine.dialect.name != "postgresql":
        assert NUMBERS.encode() in raw, "to the letter"


ODD: list[Any] = [
    "é 😀 \u2028 \x7f", "\\ \" </script> \r\n\t\x01", None, True, False, "", {}, [], {"": {"é": [None]}}, "null", 0,
    -0.0,
]  # fmt: skip


@pytest.mark.every_database
def test_values_of_every_kind(store: Store, api: Api) -> None:
    run = Delivery(2)
    store.write(lines(about([run.started(3, args=ODD, kwargs={}), run.ended(Kind.SUCCEEDED, 4, result="x")], "odd")))
    shown = api.ok(f"{LIST}/odd")
    assert shown["taskArgs"] == ODD
    assert (shown["taskKwargs"], shown["result"], shown["content"]) == ({}, "x", None)


@pytest.mark.every_database
def test_a_history_of_each_kind_is_shown(store: Store, api: Api) -> None:
    """Whatever happens to a task, its row, attempts and workflow can be read."""
    for name, history in HISTORIES.items():
        store.write(lines(about(history(), f"history-{name}")))
    listed = api.ok(LIST, limit=1000, celeryTaskId="history-")["results"]
    assert len(listed) == len(HISTORIES) - 1, "one is not to be recorded"
    for task in listed:
        assert api.ok(f"{LIST}/{task['celeryTaskId']}") == task
        for below in ("attempts", "workflow"):
            assert api.ok(f"{LIST}/{task['id']}/{below}")["complete"] is True
    assert published()["name"] in {task["name"] for task in listed}
