"""Lists and statistics over HTTP; on each kind of database."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_asynctask.core.event import Kind
from celery_asynctask.queries.search.page import MAX_ROWS
from celery_asynctask.store import Store
from celery_asynctask.web.parameters import ORDER_BY
from tests.histories import Delivery, lines, published
from tests.integration.http.client import OURS, THEIRS, Api, api_over, is_problem
from tests.integration.oracle import START as AT
from tests.integration.oracle import add, row
from tests.integration.samples import SECOND, SPAN, TRACE, UUID, z

pytestmark = pytest.mark.every_database

LISTS = sys.modules["celery_asynctask.queries.search.page"]
"""The module; in its package, the function has the name."""


@pytest.fixture
def api(store: Store, tmp_path: Path) -> Iterator[Api]:
    with api_over(store, asynctask_journal_dir=str(tmp_path / "journal")) as made:
        yield made


FINDS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, [UUID, "plain"]),
    ({"status": "FAILURE"}, [UUID]),
    ({"status": ["FAILURE", "PENDING"]}, [UUID, "plain"]),
    ({"status": "LOST"}, []),
    ({"name": "shop.refund"}, [UUID]),
    ({"name": "shop.*"}, [UUID, "plain"]),
    ({"name": "Shop.refund"}, []),
    ({"customer": -5}, [UUID]),
    ({"customer": 5}, []),
    ({"customer": "-*"}, []),
    ({"createdBy": 2**63 - 1}, [UUID]),
    ({"createdByName": "Ada Lovelace, Countess"}, [UUID]),
    ({"createdByName": '"Ada Lovelace, Countess"'}, []),
    ({"createdByName": "none"}, []),
    ({"createdByName": "Ada*"}, [UUID]),
    ({"errorType": "shop.NoMoney"}, [UUID]),
    ({"retries": 3}, [UUID]),
    ({"retries": 2}, []),
    ({"celeryTaskId": UUID[:8].upper()}, [UUID]),
    ({"celeryTaskId": "plain"}, ["plain"]),
    ({"rootTaskId": "root-1"}, [UUID]),
    ({"parentTaskId": "parent-1"}, [UUID]),
    ({"traceId": TRACE.upper()}, [UUID]),
    ({"spanId": SPAN}, [UUID]),
    ({"worker": "celery@*"}, [UUID]),
    ({"worker": "celery@two"}, []),
    ({"queue": "high"}, [UUID]),
    ({"createdAfter": z(AT + SECOND)}, [UUID]),
    ({"createdBefore": z(AT + SECOND)}, ["plain"]),
    ({"startedAfter": z(AT + 2 * SECOND)}, [UUID]),
    ({"startedBefore": z(AT + 2 * SECOND)}, []),
    ({"completedAfter": z(AT + 5 * SECOND)}, [UUID]),
    ({"completedBefore": z(AT + 5 * SECOND)}, []),
    ({"completedBefore": "9999-12-31T23:59:59-12:00"}, [UUID]),
    ({"createdAfter": "0001-01-01T00:00:00+12:00"}, [UUID, "plain"]),
    ({"createdAfter": "2026-01-31T13:00:01+01:00"}, [UUID]),
    ({"search": "kwargs.account.id:17 -status:PENDING"}, [UUID]),
    ({"search": "refund,nothing", "retries": 3, "createdBefore": z(AT + 9 * SECOND)}, [UUID]),
    ({"search": "refund", "retries": 2}, []),
    ({"search": "message:money"}, [UUID]),
    ({"search": ""}, [UUID, "plain"]),
]


def test_each_parameter(api: Api, two: None) -> None:
    assert [(parameters, api.ids(**parameters)) for parameters, _ in FINDS] == FINDS


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"status": "DONE"}, "status"),
    ({"status": ["LOST", "done"]}, "status"),
    ({"customer": ""}, "customer"),
    ({"customer": "x" * 65}, "customer"),
    ({"customer": " 42"}, "customer"),
    ({"createdBy": "a\nb"}, "createdBy"),
    ({"retries": "many"}, "retries"),
    ({"name": ""}, "name"),
    ({"name": "x" * 3000}, "name"),
    ({"name": "a\0b"}, "name"),
    ({"createdAfter": "yesterday"}, "createdAfter"),
    ({"createdAfter": "2026-01-31T12:00:00"}, "createdAfter"),
    ({"search": "nokey:1"}, "search"),
    ({"search": "since:soon"}, "search"),
    ({"search": '"'}, "search"),
    ({"search": " ".join(["a"] * 33)}, "search"),
    ({"search": " ".join(["a"] * 32), "retries": 1}, "search"),
    ({"search": "x" * 2049}, "search"),
    ({"ordering": "id"}, "ordering"),
    ({"ordering": ""}, "ordering"),
    ({"cursor": "AAAA"}, "cursor"),
    ({"cursor": ""}, "cursor"),
    ({"cursor": "A" * 101}, "cursor"),
    ({"limit": 0}, "limit"),
    ({"limit": MAX_ROWS + 1}, "limit"),
    ({"limit": [1, 2]}, "limit"),
    ({"offset": 5}, "offset"),
    ({"created_by": 7}, "created_by"),
    ({"celery_task_id": "a"}, "celery_task_id"),
]


def test_what_no_parameter_may_be(api: Api, two: None) -> None:
    for parameters, named in REFUSED:
        detail = is_problem(api.get("/async-tasks", **parameters), "invalid-parameter", 422, named)
        assert len(detail) < 500, "what was sent is not repeated at length"


def test_elsewhere_there_are_no_parameters(api: Api) -> None:
    for path in ("/async-tasks/1", "/async-tasks/1/attempts", "/async-tasks/1/workflow", "/health", "/openapi.json"):
        is_problem(api.get(path, limit=5), "invalid-parameter", 422, "limit")


@pytest.fixture
def many(store: Store) -> list[dict[str, Any]]:
    """37 tasks; several have equal times, some have none."""
    rows = [
        row(
            f"task-{number:02}",
            created_at=AT + (number * 5 % 7) * SECOND,
            started_at=None if number % 4 == 3 else AT + (number * 3 % 5) * SECOND,
            status="SUCCESS" if number % 3 else "PENDING",
            completed_at=AT + (number % 6) * SECOND if number % 3 else None,
            customer=(OURS, THEIRS, None)[number % 3],
        )
        for number in range(37)
    ]
    add(store, rows)
    return [{**one, "id": number} for number, one in enumerate(rows)]


def walk(api: Api, who: str = "admin", **parameters: Any) -> list[Any]:
    """All pages, the first one first."""
    pages = [api.ok("/async-tasks", who, **parameters)]
    while pages[-1]["next"] is not None:
        assert len(pages) < 100
        pages.append(api.ok("/async-tasks", who, **parameters, cursor=pages[-1]["next"]))
    return pages


def ids_of(pages: list[Any]) -> list[str]:
    return [one["celeryTaskId"] for page in pages for one in page["results"]]


@pytest.mark.parametrize("ordering", ORDER_BY)
def test_each_order_to_its_end(api: Api, many: list[dict[str, Any]], ordering: str) -> None:
    column = {"createdAt": "created_at", "startedAt": "started_at", "completedAt": "completed_at"}[ordering.lstrip("-")]
    down = ordering.startswith("-")
    there = sorted((one for one in many if one[column]), key=lambda one: (one[column], one["id"]), reverse=down)
    none = sorted((one for one in many if not one[column]), key=lambda one: one["id"], reverse=down)
    for limit in (3, 36, 37):
        pages = walk(api, ordering=ordering, limit=limit)
        assert ids_of(pages) == [one["celery_task_id"] for one in (*there, *none)]
        assert {len(page["results"]) for page in pages[:-1]} <= {limit}
        assert {(page["complete"], page["lookedBackTo"]) for page in pages} == {(True, None)}


def test_newest_first_unless_another_order_is_requested(api: Api, many: list[dict[str, Any]]) -> None:
    assert api.ids() == api.ids(ordering="-createdAt")
    assert api.ids() != api.ids(ordering="createdAt")


def test_a_cursor_is_of_one_order(api: Api, many: list[dict[str, Any]]) -> None:
    cursor = api.ok("/async-tasks", limit=5)["next"]
    detail = is_problem(
        api.get("/async-tasks", cursor=cursor, ordering="createdAt"), "invalid-parameter", 422, "cursor"
    )
    assert "another order" in detail
    assert len(api.ids(cursor=cursor)) == 32


def test_a_page_has_fifty_tasks_and_at_most_a_thousand(store: Store, api: Api) -> None:
    add(store, [row(f"task-{number}") for number in range(MAX_ROWS + 1)])
    assert len(api.ids()) == 50
    first = api.ok("/async-tasks", limit=MAX_ROWS)
    assert len(first["results"]) == MAX_ROWS
    assert len(api.ids(cursor=first["next"])) == 1


def test_a_caller_of_one_customer_walks_over_its_own(api: Api, many: list[dict[str, Any]]) -> None:
    own = [one["celery_task_id"] for one in many if one["customer"] == OURS]
    for ordering in ORDER_BY:
        assert sorted(ids_of(walk(api, "ours", limit=2, ordering=ordering))) == own


@pytest.mark.parametrize("ordering", ["-createdAt", "createdAt"])
def test_a_search_that_is_bounded_says_so_and_goes_on(
    api: Api, many: list[dict[str, Any]], ordering: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LISTS, "MAX_SCANNED", 10)
    by_time = sorted(many, key=lambda one: (one["created_at"], one["id"]), reverse=ordering.startswith("-"))
    page = api.ok("/async-tasks", search="kwargs.none:1", ordering=ordering)
    assert (page["results"], page["complete"]) == ([], False)
    assert page["lookedBackTo"] == z(by_time[9]["created_at"])
    pages = walk(api, search="message:none", ordering=ordering, limit=4)
    assert ids_of(pages) == [one["celery_task_id"] for one in by_time]
    last = walk(api, search="kwargs.none:1", ordering=ordering)[-1]
    assert (last["complete"], last["lookedBackTo"], last["next"]) == (True, None, None)


def test_another_order_sorts_the_newest_and_says_so(
    api: Api, many: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LISTS, "MAX_SCANNED", 10)
    newest = sorted(many, key=lambda one: (one["created_at"], one["id"]), reverse=True)[:10]
    pages = walk(api, ordering="completedAt", limit=3)
    assert sorted(ids_of(pages)) == sorted(one["celery_task_id"] for one in newest)
    assert {(one["complete"], one["lookedBackTo"]) for one in pages} == {(False, z(newest[-1]["created_at"]))}


def test_what_is_recorded_later_is_seen(store: Store, api: Api) -> None:
    run = Delivery(2, customer=OURS)
    store.write(lines([published(customer=OURS), run.started(3)]))
    [shown] = api.ok("/async-tasks", "ours")["results"]
    assert (shown["status"], shown["completedAt"]) == ("STARTED", None)
    store.write(lines([run.ended(Kind.SUCCEEDED, 9, result=[1])]))
    [shown] = api.ok("/async-tasks", "ours")["results"]
    assert (shown["status"], shown["result"]) == ("SUCCESS", [1])
    assert shown["completedAt"] is not None


# -- statistics


def test_statistics(store: Store, api: Api, many: list[dict[str, Any]]) -> None:
    add(store, [row("other", name="shop.other", status="FAILURE", completed_at=AT, retries=2)])
    since = {"createdAfter": z(AT), "createdBefore": z(AT + 60 * SECOND)}
    shown = api.ok("/async-tasks/stats", **since)
    assert {name: shown[name] for name in ("since", "until", "complete", "lookedBackTo")} == {
        "since": z(AT),
        "until": z(AT + 60 * SECOND),
        "complete": True,
        "lookedBackTo": None,
    }
    charge, other = shown["results"]
    assert (charge["name"], charge["tasks"], charge["failed"], charge["perMinute"]) == ("shop.charge", 37, 0, 37.0)
    assert other == {
        "name": "shop.other", "tasks": 1, "failed": 1, "failureRate": 1.0, "retries": 2, "perMinute": 1.0,
        "wait": {"p50": None, "p95": None, "p99": None}, "run": {"p50": None, "p95": None, "p99": None},
    }  # fmt: skip
    assert {type(one) for one in charge["wait"].values()} == {float}
    named = api.ok("/async-tasks/stats", name="shop.other", **since)["results"]
    assert named == [other]
    ours = api.ok("/async-tasks/stats", "ours", **since)["results"]
    assert [(one["name"], one["tasks"]) for one in ours] == [("shop.charge", 13)]


def test_statistics_are_of_the_last_day(store: Store, api: Api) -> None:
    now = dt.datetime.now(dt.timezone.utc)
    add(store, [row("old", created_at=now - dt.timedelta(hours=25)), row("new", created_at=now - SECOND)])
    [name] = api.ok("/async-tasks/stats")["results"]
    assert name["tasks"] == 1
    [name] = api.ok("/async-tasks/stats", search="since:2d")["results"]
    assert name["tasks"] == 2
    is_problem(api.get("/async-tasks/stats", ordering="createdAt"), "invalid-parameter", 422, "ordering")
