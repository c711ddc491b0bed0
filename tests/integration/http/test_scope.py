"""Callers who see the tasks of some creators, and callers with many customers: the same on every database."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import select
from starlette.requests import Request

from celery_asynctask.http import Access
from celery_asynctask.queries.scope import MAX_IDS
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask
from tests.histories import HISTORIES, about, lines, variant
from tests.integration.http.client import OURS, RIGHTS, THEIRS, Api, api_over, is_problem, tell
from tests.pace import patience
from tests.workflows import CHARGE, CHECKOUT, INVOICE, NOTIFY, SHIP, order

pytestmark = pytest.mark.every_database

CREATORS: dict[str, tuple[int | None, int | str | None]] = {
    "number": (OURS, 7), "same-number": (THEIRS, 7), "text": (OURS, "Ann"), "other": (OURS, "ann"),
    "none": (OURS, None), "unowned": (None, 7),
}  # fmt: skip
"""Customer and creator of each task."""
ALL_RIGHTS = frozenset(RIGHTS)
SEES = {
    "number": Access({OURS}, ALL_RIGHTS, "", {7}), "text": Access({OURS}, ALL_RIGHTS, "", {"Ann"}),
    "any-customer": Access(None, ALL_RIGHTS, "", {7}), "both": Access({OURS}, ALL_RIGHTS, "", {7, "Ann"}),
    "many-creators": Access(None, ALL_RIGHTS, "", {"7", *map(str, range(10**6, 10**6 + MAX_IDS - 1))}),
    "many-customers": Access({OURS, *range(10**6, 10**6 + MAX_IDS - 1)}, ALL_RIGHTS, ""),
    "many": Access({OURS, *range(10**6, 10**6 + MAX_IDS - 1)}, ALL_RIGHTS, "", {7, *range(10**6, 10**6 + MAX_IDS - 1)}),
    "none": Access({OURS}, ALL_RIGHTS, "", ()),
}  # fmt: skip
SEEN = {
    "number": {"number"}, "text": {"text"}, "any-customer": {"number", "same-number", "unowned"},
    "both": {"number", "text"}, "many-creators": {"number", "same-number", "unowned"},
    "many-customers": {"number", "text", "other", "none"}, "many": {"number"}, "none": set(),
}  # fmt: skip


def access(request: Request) -> Access:
    return SEES[request.headers["x-who"]]


@pytest.fixture
def api(store: Store, shop: Celery) -> Iterator[Api]:
    with api_over(store, shop, asynctask_access=access) as made:
        yield made


def get(api: Api, who: str, path: str, **parameters: Any) -> Any:
    answer = api.get(path, None, {"X-Who": who}, **parameters)
    assert answer.status_code == 200, answer.text
    return answer.json() if answer.headers["content-type"] == "application/json" else answer.text


def created_by(creator: int | str | None) -> dict[str, Any]:
    return {} if creator is None else {"created_by_key" if isinstance(creator, str) else "created_by": creator}


def test_customer_and_creator_must_both_hold(store: Store, api: Api) -> None:
    for task_id, (customer, creator) in CREATORS.items():
        tell(store, task_id, customer, **created_by(creator))
    for who, seen in SEEN.items():
        listed: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = get(api, who, "/async-tasks", limit=1, **cursor)
            listed += [one["celeryTaskId"] for one in page["results"]]
            if page["next"] is None:
                break
            cursor = {"cursor": page["next"]}
        assert sorted(listed) == sorted(seen), who
        for ordering in ("completedAt", "-startedAt"):
            found = get(api, who, "/async-tasks", ordering=ordering, search="worker:celery@one")["results"]
            assert {one["celeryTaskId"] for one in found} == seen, who
        counted = get(api, who, "/async-tasks/stats", search="since:2020-01-01")["results"]
        assert sum(one["tasks"] for one in counted) == len(seen)
        for task_id in CREATORS:
            status = api.get(f"/async-tasks/{task_id}", None, {"X-Who": who}).status_code
            assert status == (200 if task_id in seen else 404), (who, task_id)
        for path in ("/", "/tasks", "/errors", "/names?search=since:2020-01-01", "/name?name=shop.charge"):
            answer = api.ask("GET", f"/console{path}", None, {"X-Who": who})
            assert answer.status_code == (200 if seen or "/name?" not in path else 404), (who, path)
        assert api.get("/health", None, {"X-Who": who}).json()["ledger"] is None
        due = api.post("/async-tasks/purge", None, {"X-Who": who}, olderThan="1d").json()
        assert due["due"] == len(seen), who
    for who in ("none", "text", "many", "any-customer"):
        with store.engine.connect() as connection:
            before = set(connection.scalars(select(AsyncTask.celery_task_id)))
        api.post("/async-tasks/purge", None, {"X-Who": who}, olderThan="1d", dryRun=False)
        with store.engine.connect() as connection:
            assert set(connection.scalars(select(AsyncTask.celery_task_id))) == before - SEEN[who]


def test_members_of_another_creator_are_not_in_a_workflow(store: Store, api: Api) -> None:
    creators = {CHECKOUT: None, CHARGE: "Ann", SHIP: 7, NOTIFY: 7, INVOICE: 7}
    store.write(lines(variant(one, customer=OURS, **created_by(creators[one["id"]])) for one in order()))
    shown = get(api, "number", f"/async-tasks/{SHIP}/workflow")["results"]
    assert {one["celeryTaskId"] for one in shown} == {SHIP, NOTIFY, INVOICE}
    page = get(api, "number", f"/console/tasks/{SHIP}/workflow")
    assert CHARGE not in page
    assert NOTIFY in page


def test_an_earlier_execution_may_be_of_another_creator(store: Store, api: Api) -> None:
    """Attempts do not say whose they are: who sees one creator's tasks sees those of the newest execution."""
    events = about(HISTORIES["used_again"](), "again")
    last = max(one["at"] for one in events if one["kind"] == "published")
    store.write(
        lines(
            variant(one, customer=OURS, **created_by(7 if one.get("created", 0) >= last else "Ann")) for one in events
        )
    )
    all_of_them = get(api, "many-customers", "/async-tasks/again/attempts")["results"]
    assert {one["earlierExecution"] for one in all_of_them} == {True, False}
    own = get(api, "number", "/async-tasks/again/attempts")["results"]
    assert own == [one for one in all_of_them if not one["earlierExecution"]]
    page = get(api, "number", "/console/tasks/again")
    assert "earlier execution" not in page
    assert "earlier execution" in get(api, "many-customers", "/console/tasks/again")


def test_an_answer_that_is_kept_is_not_for_another_scope(store: Store, api: Api) -> None:
    """The same request, and the same rights and customers."""
    for task_id, (customer, creator) in CREATORS.items():
        tell(store, task_id, customer, **created_by(creator))
    for path in ("/async-tasks", "/console/tasks", "/async-tasks/stats?search=since:2020-01-01"):
        first = api.ask("GET", path, None, {"X-Who": "number"})
        tag = {"If-None-Match": first.headers["etag"]}
        assert api.ask("GET", path, None, {"X-Who": "number", **tag}).status_code == 304
        other = api.ask("GET", path, None, {"X-Who": "both", **tag})
        assert (other.status_code, other.text == first.text) == (200, False), path
    is_problem(api.get("/async-tasks/number", None, {"X-Who": "text", "If-None-Match": "*"}), "not-found", 404)


def test_many_customers_are_quick(store: Store, api: Api) -> None:
    """Each database takes only so many values in a statement."""
    tell(store, "a", OURS)
    for path in (
        "/async-tasks",
        "/async-tasks",
        "/async-tasks/stats",
        "/console/",
        "/console/",
        "/console/name?name=shop.charge",
    ):
        begun = dt.datetime.now(dt.timezone.utc)
        assert api.ask("GET", path, None, {"X-Who": "many-customers"}).status_code == 200
        assert dt.datetime.now(dt.timezone.utc) - begun < dt.timedelta(seconds=patience(8)), path
