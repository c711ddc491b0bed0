"""Rights over HTTP: each right, each route, each tenant; tasks of others do not exist."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celery_asynctask.store import Store
from celery_asynctask.web.parameters import Search
from tests.histories import lines, variant
from tests.integration.http.client import OURS, RIGHTS, THEIRS, TOKENS, Api, api_over, grant, is_problem, tell
from tests.integration.tenants import FOREIGN, MINE, OF_NOBODY, READS, VALUES, WHOSE, ask, routes
from tests.tokens import cookie_of, session_of, token_of
from tests.workflows import CHARGE, CHECKOUT, INVOICE, NOTIFY, SHIP, order

pytestmark = pytest.mark.every_database


@pytest.fixture
def api(store: Store) -> Iterator[Api]:
    for task_id, customer in WHOSE.items():
        tell(store, task_id, customer)
    with api_over(store) as made:
        yield made


# -- each right, each route, each tenant


@pytest.mark.parametrize("right", [*RIGHTS, "none"])
def test_each_right_opens_its_routes_and_no_other(api: Api, right: str) -> None:
    for task_id in (MINE, FOREIGN, OF_NOBODY, "missing"):
        for route in routes(task_id):
            answer = ask(api, route, f"ours-{right}")
            if route[3] != right:
                detail = is_problem(answer, "forbidden", 403)
                assert detail.startswith(f"This needs the right '{route[3]}'.")
            elif task_id != MINE and task_id in route[1]:
                is_problem(answer, "not-found", 404)
            else:
                assert answer.status_code == 200, (route, answer.text)


def test_every_route_is_in_the_matrix(api: Api) -> None:
    known = {(method, path.replace(MINE, "{id}")) for method, path, *_ in routes(MINE)}
    document = api.ok("/openapi.json")
    in_document = {(method.upper(), path) for path, one in document["paths"].items() for method in one}
    assert known == in_document | {("GET", "/openapi.json")}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer unknown"},
        {"Authorization": f"Bearer {token_of('admin')}x"},
        {"Authorization": f"Bearer {token_of('admin')[:-1]}"},
        {"Authorization": f"Bearer {TOKENS['admin']['sha256']}"},
        {"Authorization": f"Basic {token_of('admin')}"},
        {"Authorization": token_of("admin")},
        {"Authorization": "Bearer \xe9\xff".encode("latin-1")},
        {"Cookie": f"token={token_of('admin')}"},
        {"Cookie": f"asynctask_token={token_of('admin')}"},
        {"Cookie": cookie_of("admin")},
        {"Authorization": f"Bearer {session_of('admin')}"},
        {"Authorization": f"Bearer {token_of('admin').lower()}"},
        {"X-Forwarded-User": "admin"},
    ],
)
def test_without_credentials_nothing_is_answered(one_store: Store, headers: dict[str, Any]) -> None:
    with api_over(one_store) as api:
        for route in routes(MINE):
            answer = ask(api, route, None, headers)
            detail = is_problem(answer, "unauthenticated", 401)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert "asynctask_tokens" not in detail, "it is set"
        is_problem(api.get(f"/async-tasks?token={token_of('admin')}", None), "unauthenticated", 401)


def test_a_scheme_is_in_any_case(one_store: Store) -> None:
    with api_over(one_store) as api:
        for scheme in ("bearer", "BEARER", "Bearer "):
            headers = {"Authorization": f"{scheme} {token_of('admin')}"}
            assert api.get("/async-tasks", None, headers).status_code == 200


def test_hashes_are_in_any_case(one_store: Store) -> None:
    upper = {**grant("upper"), "sha256": grant("upper")["sha256"].upper()}
    with api_over(one_store, asynctask_tokens={"upper": upper}) as api:
        assert len(api.ids("upper")) == 3


# -- what is not seen is not there


def test_what_is_foreign_is_as_if_it_were_not(api: Api) -> None:
    """By either id; the answer is that of a task that does not exist."""
    numbers = {one["celeryTaskId"]: one["id"] for one in api.ok("/async-tasks")["results"]}
    for hidden in (FOREIGN, OF_NOBODY):
        for task_id in (hidden, str(numbers[hidden])):
            for below in READS:
                answer = api.get(f"/async-tasks/{task_id}{below}", "ours", {"If-None-Match": "*"})
                missing = api.get(f"/async-tasks/missing{below}", "ours")
                assert answer.text.replace(task_id, "missing") == missing.text
                assert answer.status_code == missing.status_code == 404
                assert "etag" not in answer.headers
            answer = api.post(f"/async-tasks/{task_id}/rerun", "ours")
            is_problem(answer, "not-found", 404)


def test_lists_and_counts_have_only_ones_own(api: Api) -> None:
    for who, seen in (("ours", [MINE]), ("theirs", [FOREIGN]), ("both", [FOREIGN, MINE]), ("nobody", [])):
        assert sorted(api.ids(who)) == seen
        for search in (f"customer:{THEIRS},{OURS},none", "-id:nothing", "kwargs.currency:EUR", "worker:celery@one"):
            assert sorted(api.ids(who, search=search)) == seen, search
        counted = api.ok("/async-tasks/stats", who, search="since:2020-01-01")["results"]
        assert sum(one["tasks"] for one in counted) == len(seen)
        assert api.post("/async-tasks/purge", who, olderThan="1d").json()["due"] == len(seen)
    assert api.ids("ours", customer=THEIRS) == []
    assert api.ids("ours", search="customer:none") == []
    assert len(api.ids()) == 3


def test_a_cursor_of_another_caller_leads_nowhere(api: Api) -> None:
    cursor = api.ok("/async-tasks", limit=1)["next"]
    for who, limit in (("ours", {MINE}), ("theirs", {FOREIGN}), ("nobody", set())):
        assert set(api.ids(who, cursor=cursor)) <= limit


def test_members_of_another_customer_are_not_in_a_workflow(store: Store) -> None:
    def whose(task_id: str) -> int | None:
        return {CHECKOUT: None, CHARGE: THEIRS, SHIP: OURS, NOTIFY: OURS, INVOICE: OURS}[task_id]

    store.write(lines(variant(one, customer=whose(one["id"])) for one in order()))
    with api_over(store) as api:
        shown = api.ok(f"/async-tasks/{SHIP}/workflow", "ours")
        placed = {one["celeryTaskId"]: (one["parentTaskId"], one["depth"]) for one in shown["results"]}
        assert placed == {SHIP: (None, 0), NOTIFY: (SHIP, 1), INVOICE: (None, 0)}
        assert shown["complete"] is True
        assert CHARGE not in str(shown)
        assert len(api.ok(f"/async-tasks/{SHIP}/workflow")["results"]) == 5
        is_problem(api.get(f"/async-tasks/{CHECKOUT}/workflow", "ours"), "not-found", 404)


# -- values


def test_without_their_right_values_are_left_out(api: Api) -> None:
    tasks = {MINE: "ours-read", FOREIGN: "reader", OF_NOBODY: "reader"}
    for task_id, who in tasks.items():
        full = api.ok(f"/async-tasks/{task_id}")
        assert full["result"] == {"paid": True}
        shown = api.ok(f"/async-tasks/{task_id}", who)
        expected = {name: value for name, value in full.items() if name not in {*VALUES, "errorMessage"}}
        assert list(shown.items()) == list(expected.items())
        listed = api.ok("/async-tasks", who, celeryTaskId=task_id)["results"]
        assert listed == [shown]


@pytest.mark.parametrize(
    "search",
    ["kwargs.currency:EUR", "-kwargs.currency:EUR", "args.0:*", "result.paid:true", "result:none", "content.order:1",
     'status:SUCCESS "kwargs".currency:E*', "KWARGS.currency:EUR"],
)  # fmt: skip
def test_without_their_right_values_are_not_searched(one_store: Store, search: str) -> None:
    """A caller who may search them could guess them."""
    with api_over(one_store) as api:
        for path in ("/async-tasks", "/async-tasks/stats"):
            detail = is_problem(api.get(path, "ours-read", search=search), "forbidden", 403, "search")
            assert "payloads" in detail
            assert api.get(path, "ours", search=search).status_code == 200
        answer = api.post("/async-tasks/purge", "ours-purge", olderThan="1d", search=search)
        assert "payloads" in is_problem(answer, "forbidden", 403, "search")
        assert api.post("/async-tasks/purge", "ours", olderThan="1d", search=search).status_code == 200


def test_the_schedule_of_a_task_is_no_way_to_its_values(one_store: Store) -> None:
    """It is in the content; a search by it reads that name alone."""
    tell(one_store, "scheduled", OURS, content={"periodic_task_name": "nightly", "secret": "nightly"})
    with api_over(one_store) as api:
        assert api.ids("ours-read", search="periodic:nightly") == ["scheduled"]
        is_problem(api.get("/async-tasks", "ours-read", search="content.secret:nightly"), "forbidden", 403, "search")


def test_no_parameter_of_a_field_looks_into_values(one_store: Store) -> None:
    """The right is required for `search`: other parameters must not reach values."""
    with api_over(one_store) as api:
        for field in Search.model_fields.values():
            if field.alias != "search":
                answer = api.get("/async-tasks", "ours-read", **{str(field.alias): "kwargs.currency:EUR"})
                assert answer.status_code == 422 or answer.json()["results"] == []


# -- actions of a browser


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "http://localhost:81"}, False),
        ({"Origin": "http://localhost.evil.example"}, False),
        ({"Origin": "http://localhost"}, True),
        ({"Origin": "https://localhost"}, True),  # behind a proxy that speaks TLS
        ({"Origin": "ftp://localhost"}, False),
        ({"Origin": "localhost"}, False),
        ({"Origin": "http://localhost/"}, False),
        ({"Origin": "http://user@localhost"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "null", "Host": ""}, False),
        ({"Origin": "http://", "Host": ""}, False),
        ({"Origin": "x://null", "Host": "null"}, False),
        ({"Origin": ""}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, False),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy"}, True),
    ],
)
def test_actions_are_refused_to_pages_from_elsewhere(one_store: Store, headers: dict[str, str], allowed: bool) -> None:
    with api_over(one_store) as api:
        for route in routes(MINE):
            answer = ask(api, route, "ours", headers)
            if allowed or route[0] == "GET":
                assert "cross-site" not in answer.text
            else:
                is_problem(answer, "cross-site", 403)
            assert not [name for name in answer.headers if name.startswith("access-control")], "no page may read it"


@pytest.mark.parametrize(("scheme", "allowed"), [("https", True), ("http", False)])
def test_a_page_without_tls_is_another_site(one_store: Store, scheme: str, allowed: bool) -> None:
    """Where the server knows that it is asked by https, as it does where an application has it mounted."""
    with api_over(one_store) as api:
        answer = api.post(
            "https://localhost/async-tasks/purge", "ours", {"Origin": f"{scheme}://localhost"}, olderThan="1d"
        )
        assert answer.status_code == (200 if allowed else 403)


def test_a_form_is_no_body(one_store: Store) -> None:
    with api_over(one_store) as api:
        for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"):
            headers = {"Content-Type": kind}
            answer = api.ask(
                "POST", "/async-tasks/purge", "ours", headers, content=b'{"olderThan":"1d","dryRun":false}'
            )
            is_problem(answer, "invalid-parameter", 422, "body")
        assert len(api.ids()) == 3
