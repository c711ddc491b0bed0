"""Two customers who use the same task id: each has a task of its own, for every reader, and nobody sees the other's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import update

from celery_asynctask.core.event import Kind
from celery_asynctask.operations.erase import Erasure
from celery_asynctask.operations.session import Writer
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask
from tests.histories import HISTORIES, Delivery, about, failure, lines, published, variant
from tests.integration.commands import Project
from tests.integration.console.pages import look, sent_form, words
from tests.integration.http.client import ADMIN, TOKENS, Api, api_over, grant, is_problem
from tests.integration.rows import stored_rows

pytestmark = pytest.mark.every_database

ACME, TOWN, ONE = "acme", "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d", 42
"""A name, a UUID and a number."""
CUSTOMERS: tuple[str | int, ...] = (ACME, TOWN, ONE)
SHARED = "nightly-sync"
MORE: Mapping[str, Any] = {
    "acme": grant("acme", [ACME]),
    "town": grant("town", [TOWN]),
    "one": grant("one", [ONE]),
    "two": grant("two", [ACME, TOWN]),
}
OF: Mapping[str, Any] = {"acme": ACME, "town": TOWN, "one": ONE}
"""Customers by the names of their callers."""


def tell_of(store: Store, customer: str | int | None, created: int, task_id: str = SHARED, **more: Any) -> None:
    """A root that failed once and succeeded, and a child of it, of one customer, created so many ms later."""
    key = "customer_key" if isinstance(customer, str) else "customer"
    whose = {} if customer is None else {key: customer}
    made: dict[str, Any] = {"created": created, **whose}
    first, second = (Delivery(created + at, retries=retries, **made) for at, retries in ((2, 0), (20, 1)))
    known = {"args": [f"of {customer}"], "root": task_id, **more}
    root = [
        published(created, created, **known, **whose),
        first.started(created + 3, **known, worker=f"celery@{customer}"),
        first.ended(Kind.RETRIED, created + 4, **failure(f"retry of {customer}")),
        second.started(created + 21, **known, queue=f"queue-{customer}"),
        second.ended(Kind.SUCCEEDED, created + 22, result=f"result of {customer}"),
    ]
    child = about([published(created + 5, created + 5, root=task_id, parent=task_id, **whose)], f"child-of-{customer}")
    store.write(lines([*about(root, task_id), *child]))


@pytest.fixture
def api(store: Store, shop: Celery) -> Iterator[Api]:
    for created, customer in enumerate(CUSTOMERS):
        tell_of(store, customer, created * 1000)
    with api_over(store, shop, asynctask_tokens={**TOKENS, **MORE}) as made:
        yield made


# -- the API


@pytest.mark.parametrize("who", OF)
def test_each_customer_has_its_own(api: Api, who: str) -> None:
    own = f"of {OF[who]}"
    for more in ({}, {"customer": str(OF[who])}):
        assert api.ok(f"/async-tasks/{SHARED}", who, **more)["taskArgs"] == [own]
        attempts = api.ok(f"/async-tasks/{SHARED}/attempts", who, **more)["results"]
        assert [(one["attempt"], one["retries"], one["outcome"]) for one in attempts] == [
            (1, 0, "retried"), (2, 1, "succeeded"),
        ]  # fmt: skip
        assert attempts[0]["worker"] == f"celery@{OF[who]}"
        members = api.ok(f"/async-tasks/{SHARED}/workflow", who, **more)["results"]
        assert [(one["celeryTaskId"], one["parentTaskId"], one["customerKey"]) for one in members] == [
            (SHARED, None, str(OF[who])), (f"child-of-{OF[who]}", SHARED, str(OF[who])),
        ]  # fmt: skip
    listed = json.dumps(api.ok("/async-tasks", who))
    assert not [other for other in OF.values() if other != OF[who] and f"of {other}" in listed]


def test_others_do_not_exist(api: Api) -> None:
    for below in ("", "/attempts", "/workflow"):
        for other in (TOWN, str(ONE), ""):
            is_problem(api.get(f"/async-tasks/{SHARED}{below}", "acme", customer=other), "not-found", 404)
    is_problem(api.ask("POST", f"/async-tasks/{SHARED}/rerun?customer={TOWN}", "acme", json={}), "not-found", 404)
    assert api.ids("acme", customer=TOWN) == []


def test_who_sees_several_gets_the_newest_and_the_others_by_customer(api: Api) -> None:
    for who, newest in ((ADMIN, ONE), ("two", TOWN)):
        assert api.ok(f"/async-tasks/{SHARED}", who)["taskArgs"] == [f"of {newest}"]
        assert len(api.ok(f"/async-tasks/{SHARED}/attempts", who)["results"]) == 2
        for customer in (ACME, TOWN):
            shown = api.ok(f"/async-tasks/{SHARED}", who, customer=customer)
            assert shown["taskArgs"] == [f"of {customer}"]
            assert shown["customer"] is None, "the resource has numbers alone"
            [run, _] = api.ok(f"/async-tasks/{SHARED}/attempts", who, customer=customer)["results"]
            assert run["worker"] == f"celery@{customer}"
            members = api.ok(f"/async-tasks/{SHARED}/workflow", who, customer=customer)["results"]
            assert {one["customerKey"] for one in members} == {customer}, "each has a workflow of its own"
            assert len(members) == 2
    is_problem(api.get(f"/async-tasks/{SHARED}", customer=""), "not-found", 404)
    is_problem(api.get(f"/async-tasks/{SHARED}", customer="nobody"), "not-found", 404)
    is_problem(api.get(f"/async-tasks/{SHARED}", customer=" x"), "invalid-parameter", 422, "customer")
    is_problem(api.get(f"/async-tasks/{SHARED}", customer="a\0b"), "invalid-parameter", 422, "customer")


def test_a_task_without_a_customer_is_named_by_an_empty_text(api: Api, store: Store) -> None:
    tell_of(store, None, 500)
    assert api.ok(f"/async-tasks/{SHARED}", customer="")["taskArgs"] == ["of None"]
    assert len(api.ok(f"/async-tasks/{SHARED}/workflow", customer="")["results"]) == 2


def test_a_workflow_may_lead_to_another_customer(api: Api, store: Store) -> None:
    """A task sends one for another customer: who sees both sees it below its sender."""
    sent = about([published(5, 5, root=SHARED, parent=SHARED, customer_key="other")], "across")
    store.write(lines(sent))
    members = {one["celeryTaskId"]: one for one in api.ok(f"/async-tasks/{SHARED}/workflow")["results"]}
    assert members.keys() == {SHARED, f"child-of-{ONE}", "across"}
    assert members["across"]["depth"] == 1
    assert [one["celeryTaskId"] for one in api.ok(f"/async-tasks/{SHARED}/workflow", "acme")["results"]] == [
        SHARED, "child-of-acme",
    ]  # fmt: skip


@pytest.mark.parametrize("customer", [ACME, TOWN, ONE])
def test_searches_by_customer(api: Api, store: Store, customer: str | int) -> None:
    found = api.ok("/async-tasks", search=f"customer:{customer} id:{SHARED}")["results"]
    assert [one["taskArgs"] for one in found] == [[f"of {customer}"]]
    assert api.ok("/async-tasks", customer=customer, celeryTaskId=SHARED)["results"] == found
    for key in ("worker", "queue"):
        name = {"worker": f"celery@{customer}", "queue": f"queue-{customer}"}[key]
        assert [one["taskArgs"] for one in api.ok("/async-tasks", search=f"{key}:{name}")["results"]] == [
            [f"of {customer}"]
        ], "attempts are of their own customer's task"
    with store.engine.begin() as connection:
        connection.execute(update(AsyncTask).values(created_by_key="ada@x", created_by=None))
    assert len(api.ok("/async-tasks", createdBy="ada@x", customer=customer)["results"]) == 2


def test_a_rerun_is_of_the_customer_s_own(api: Api, store: Store, shop: Celery) -> None:
    """Reruns of other customers' tasks with the same id neither refuse it nor become known by it."""
    told = {"args": [1, "a"], "kwargs": {"currency": "EUR"}}
    for created, customer in enumerate(CUSTOMERS):
        tell_of(store, customer, created * 1000, "again", **told)
    content = {"rerun_of": "again", "rerun_by": "x"}
    store.write(lines(about([published(3000, 3000, customer_key=TOWN, content=content, root="new")], "new")))
    refused = api.ask("POST", "/async-tasks/again/rerun", "town", json={"dryRun": True})
    assert "it was already rerun" in is_problem(refused, "refused", 409)
    made = api.ask("POST", f"/async-tasks/again/rerun?customer={ACME}", ADMIN, json={})
    assert made.status_code == 201, made.text
    with shop.connection() as connection, connection.SimpleQueue(shop.conf.task_default_queue) as queue:
        message = queue.get_nowait()
        message.ack()
    assert message.headers["asynctask"]["customer"] == ACME
    for who, path in ((ADMIN, f"/async-tasks/again/rerun?customer={ONE}"), ("one", "/async-tasks/again/rerun")):
        assert api.ask("POST", path, who, json={"dryRun": True}).status_code == 200, "that was another customer's"


def test_a_purge_and_an_erasure_leave_the_others_theirs(api: Api, store: Store) -> None:
    before = stored_rows(store)
    with closing(Writer(store.settings)) as writer:
        assert sum(one.tasks for one in Erasure(writer, TOWN).run()) == 2
    after = stored_rows(store)
    assert {identity for identity in before if before[identity] != after[identity]} == {
        (SHARED, TOWN), (f"child-of-{TOWN}", TOWN),
    }  # fmt: skip
    assert "retry of" not in json.dumps(list(after[SHARED, TOWN].attempts.values()))
    done = api.post("/async-tasks/purge", "acme", olderThan="1d", dryRun=False).json()
    assert (done["tasks"], done["attempts"]) == (1, 2), "the child has not ended"
    assert stored_rows(store).keys() == before.keys() - {(SHARED, ACME)}
    assert stored_rows(store)[SHARED, str(ONE)] == before[SHARED, str(ONE)]


# -- the console


def test_pages_of_each(api: Api) -> None:
    newest = look(api, f"/tasks/{SHARED}")
    assert f"result of {ONE}" in newest
    assert "Other customers use this id, too" in words(newest)
    for customer in (ACME, TOWN):
        assert f"?customer={customer}" in newest
        moved = api.get(f"/console/tasks/{SHARED}", customer=customer)
        assert moved.status_code == 302
        path = moved.headers["location"].removeprefix("/console")
        page = look(api, path)
        assert f"result of {customer}" in page
        assert f"result of {ONE}" not in page
        assert f"retry of {customer}" in page
        assert f"{path}/workflow" in page
        tree = words(look(api, f"{path}/workflow"))
        assert tree.count("shop.charge") >= 2
        assert "2 2" not in tree
    own = look(api, f"/tasks/{SHARED}", "acme")
    assert "result of acme" in own
    assert "Other customers" not in own
    assert "customer=" not in own
    for other in (TOWN, str(ONE)):
        assert look(api, f"/tasks/{SHARED}", "acme", customer=other) == own, "as if there were none"
        assert f"of {other}" not in own


def test_lists_lead_to_the_task_that_they_name(api: Api) -> None:
    page = look(api, "/tasks", search=f"id:{SHARED}")
    for customer in (ACME, TOWN, ONE):
        assert f'href="/console/tasks/{SHARED}?customer={customer}"' in page
        assert f">{customer}</a>" in page
    assert f'href="/console/tasks/{SHARED}"' in look(api, "/tasks", "town", search=f"id:{SHARED}")


def test_the_form_of_a_rerun_is_for_the_customer_s_own(api: Api) -> None:
    path = api.get(f"/console/tasks/{SHARED}", customer=ACME).headers["location"].removeprefix("/console")
    assert f"Customer {ACME}" in words(look(api, f"{path}/rerun"))
    assert sent_form(api, f"{path}/rerun", "town").status_code == 404


# -- the command line


def test_commands_take_a_customer(api: Api, store: Store, tmp_path: Path) -> None:
    project = Project(tmp_path, asynctask_url=store.settings.url)
    assert f"of {ONE}" in project.run("show", SHARED).out
    assert "Other customers use this id, too" in project.run("show", SHARED).err
    for customer in (ACME, TOWN):
        options = ("--customer", customer)
        shown = project.run("show", SHARED, *options)
        assert f"of {customer}" in shown.out
        assert f"celery@{customer}" in shown.out
        assert f"of {ONE}" not in shown.out
        assert len(project.run("tree", SHARED, "--json", *options).values) == 2
        [told] = project.run("why", SHARED, "--json", *options).values
        assert "That was attempt 2; those before it: ValueError (1)." in told["reasons"]
        exported = project.run("export", "--workflow", SHARED, *options).lines
        assert [json.loads(one)["customer_key"] for one in exported[1:-1]] == [customer] * 2
        preview = project.run("rerun", SHARED, "--json", "--force-name", *options)
        assert preview.values[0]["customer_key"] == customer
    for command in ("show", "why", "tree"):
        ended = project.run(command, SHARED, "--customer", "nobody")
        assert (ended.code, ended.out) == (1, "")
        assert f"No task of customer nobody has the id {SHARED}" in ended.err
        assert project.run(command, SHARED, "--customer", " ").code == 2
    assert "--customer is for task ids" in project.run("rerun", "--search", "x", "--customer", ACME).err
    assert "--customer is for --workflow" in project.run("export", "--customer", ACME).err


# -- ids used again, and tasks that are not to be recorded


def test_attempts_of_earlier_executions_say_so(api: Api, store: Store, tmp_path: Path) -> None:
    store.write(lines(about(HISTORIES["used_again"](), "again")))
    runs = api.ok("/async-tasks/again/attempts")["results"]
    assert [(one["attempt"], one["earlierExecution"]) for one in runs] == [(1, True), (2, True), (3, False)]
    assert words(look(api, "/tasks/again")).count("of an earlier execution") == 2
    assert "2 attempts of earlier executions are not counted here" in words(look(api, "/tasks/again"))
    project = Project(tmp_path, asynctask_url=store.settings.url)
    assert project.run("show", "again").out.count("of an earlier execution") == 2
    [shown] = project.run("show", "again", "--json").values
    assert [one["earlier_execution"] for one in shown["attempts"]] == [True, True, False]
    [told] = project.run("why", "again", "--json").values
    assert not [one for one in told["reasons"] if "That was attempt" in one]
    [drawn] = project.run("tree", "again", "--waterfall", "--json").values
    assert len(drawn["attempts"]) == 1


def test_nobody_searches_in_attempts_that_they_do_not_see(store: Store, shop: Celery) -> None:
    """An earlier execution under the id may be of another creator."""
    first, second = Delivery(2, created_by=8), Delivery(2000, created=2000, created_by=7)
    events = [first.started(3, worker="celery@first", queue="first"), first.ended(Kind.SUCCEEDED, 4)]
    events += [published(2000, 2000, created_by=7), second.started(2003, worker="celery@second", queue="second")]
    store.write(lines(about([*events, second.ended(Kind.SUCCEEDED, 2004)], "again")))
    grants = {"seven": grant("seven", created_by=[7], rights=("read", "errors", "purge"))}
    with api_over(store, shop, asynctask_tokens={**TOKENS, **grants}) as api:
        for who, search, count in (
            (ADMIN, "worker:celery@first", 1), (ADMIN, "queue:first", 1), (ADMIN, "-worker:celery@first", 0),
            ("seven", "worker:celery@first", 0), ("seven", "queue:f*", 0), ("seven", "-worker:celery@first", 1),
            ("seven", "worker:celery@second queue:second", 1),
        ):  # fmt: skip
            assert len(api.ok("/async-tasks", who, search=search)["results"]) == count, (who, search)
            stats = api.ok("/async-tasks/stats", who, search=search, createdAfter="2020-01-01T00:00:00Z")
            assert len(stats["results"]) == count, (who, search)
            if who != ADMIN:
                asked = api.ask("POST", "/async-tasks/purge", who, json={"olderThan": "0s", "search": search})
                assert asked.json()["due"] == count, search
        pages = [look(api, "/tasks", "seven", search=f"worker:celery@{one}") for one in ("first", "second")]
        assert ["/tasks/again" in page for page in pages] == [False, True]


def test_attempts_of_earlier_executions_explain_no_failure(api: Api, store: Store) -> None:
    """The newest one failed before it ran: no line of code is its place."""
    first = Delivery(2)
    refused = Delivery(2000, created=2000)
    error = failure("boom", traceback='  File "/app/shop/tasks.py", line 8, in ship\n')
    events = [first.started(3), first.ended(Kind.FAILED, 4, **error), published(2000, 2000)]
    over = {**refused.received(), "kind": Kind.FAILED.value, "error_type": "NotRegistered", "error_message": "x"}
    store.write(lines(about([*events, variant(refused.received(), **over)], "twice")))
    page = words(look(api, "/errors", search="id:twice"))
    assert "NotRegistered" in page
    assert "tasks.py:8" not in page


def _timeless(api: Api, path: str) -> str:
    """The words of a page without the minutes that hours end at on the overview: they go on between two looks."""
    return re.sub(r"\b\d\d:\d\d\b", "", words(look(api, path)))


def test_tasks_that_are_not_to_be_recorded_are_hidden(api: Api, store: Store, tmp_path: Path) -> None:
    seen = api.ok("/async-tasks")["results"]
    pages = {path: _timeless(api, path) for path in ("/tasks", "/", "/names", "/errors", f"/tasks/{SHARED}")}
    day = {"createdAfter": "2020-01-01T00:00:00Z"}
    stats = api.ok("/async-tasks/stats", **day)
    child = {"root": SHARED, "parent": SHARED, "customer": ONE}
    for events in (HISTORIES["unrecorded"](), [variant(one, **child) for one in HISTORIES["unrecorded"]()]):
        store.write(lines(about(events, "hidden")))
    assert ("hidden", "") in stored_rows(store)
    assert api.ok("/async-tasks")["results"] == seen
    assert api.ok("/async-tasks/stats", **day)["results"] == stats["results"]
    assert len(api.ok(f"/async-tasks/{SHARED}/workflow")["results"]) == 2
    for path in ("/async-tasks/hidden", "/async-tasks/hidden/attempts", "/async-tasks/hidden/workflow"):
        is_problem(api.get(path), "not-found", 404)
        is_problem(api.get(path, "one"), "not-found", 404)
    is_problem(api.post("/async-tasks/hidden/rerun", dryRun=True), "not-found", 404)
    is_problem(api.get("/async-tasks", search="status:UNRECORDED"), "invalid-parameter", 422, "search")
    is_problem(api.get("/async-tasks", status="UNRECORDED"), "invalid-parameter", 422, "status")
    for search in ("id:hidden", "-status:SUCCESS id:hidden", "status:* id:hidden", "parent:" + SHARED + " id:hidden"):
        assert api.ids(search=search) == [], search
    assert {path: _timeless(api, path) for path in pages} == pages
    look(api, "/tasks/hidden", status=404)
    project = Project(tmp_path, asynctask_url=store.settings.url)
    for command in ("show", "why", "tree"):
        assert project.run(command, "hidden").code == 1
    assert "hidden" not in project.run("export").out
    assert "hidden" not in project.run("list", "--json").out
    due = api.post("/async-tasks/purge", olderThan="1d", unfinished=True).json()["due"]
    assert due == len(seen), "a purge neither counts nor deletes it; the recorder does"
