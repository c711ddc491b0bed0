"""Reruns over HTTP: of tasks that the caller sees, once unless overridden, recorded with the caller's name."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import pytest
from celery import Celery
from kombu.serialization import registry
from sqlalchemy import update

from celery_asynctask import uninstall
from celery_asynctask.core.text import rfc3339
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask
from tests.histories import HISTORIES, about, lines
from tests.integration.http.client import OURS, THEIRS, Api, api_over, is_problem, tell
from tests.integration.rows import rows
from tests.pace import patience

lookup = sys.modules["celery_asynctask.queries.reruns"]
"""The module; in its package, a function may have the name."""


@pytest.mark.every_database
def test_a_rerun_names_its_caller(store: Store, shop: Celery, api: Api) -> None:
    tell(store, "old", OURS, created_by=7, created_by_name="Ada", content={"order": 17})
    answer = api.post("/async-tasks/old/rerun", "ours")
    assert answer.status_code == 201, answer.text
    rerun = answer.json()
    new = rerun["celeryTaskId"]
    queue, remarks = shop.conf.task_default_queue, ["its last attempt had the routing key celery"]
    assert rerun == {"celeryTaskId": new, "rerunOf": "old", "queue": queue, "remarks": remarks}
    with shop.connection_for_read() as connection:
        queue = connection.SimpleQueue(rerun["queue"])
        message = queue.get(timeout=patience(10))
        message.ack()
        queue.close()
    args, kwargs, _ = message.payload
    assert (message.headers["id"], message.headers["task"], args, kwargs) == (
        new, "shop.charge", [7, "é"], {"currency": "EUR"},
    )  # fmt: skip
    uninstall(shop)  # stores what is on its way
    row = rows(store)[new]
    assert (row.customer, row.created_by, row.created_by_name) == (OURS, 7, "Ada")
    assert row.content == {"order": 17, "rerun_of": "old", "rerun_by": "ours"}
    assert api.ok(f"/async-tasks/{new}", "ours")["content"] == row.content, "its caller reads it at once"
    is_problem(api.get(f"/async-tasks/{new}", "theirs"), "not-found", 404)
    detail = is_problem(api.post("/async-tasks/old/rerun", "ours"), "refused", 409)
    assert f"already rerun once, last as {new}" in detail


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "application/json"}])
def test_an_empty_body_means_the_defaults(store: Store, shop: Celery, api: Api, headers: dict[str, str]) -> None:
    tell(store, "old", OURS)
    answer = api.ask("POST", "/async-tasks/old/rerun", "ours", headers)
    assert (answer.status_code, answer.json()["rerunOf"]) == (201, "old")
    uninstall(shop)
    assert len(rows(store)) == 2


def test_a_record_of_elsewhere_sends_nothing(store: Store, shop: Celery, api: Api) -> None:
    """Whoever made it has chosen names and arguments; the app would run them for real."""
    tell(store, "made-up", OURS)
    shop.conf.asynctask_url = "sqlite:///ours.db"
    for dry_run in (True, False):
        answer = api.post("/async-tasks/made-up/rerun", again=True, unfinished=True, dryRun=dry_run)
        assert "it is from another record than the app's" in is_problem(answer, "refused", 409)
    page = api.get("/console/tasks/made-up/rerun").text
    assert "t is from another record than the app" in page
    sent = api.ask("POST", "/console/tasks/made-up/rerun", data={"again": "1"})
    assert sent.status_code in {403, 409}
    api.app.state.asynctask.from_elsewhere = True  # as `serve --from-elsewhere` says
    answer = api.post("/async-tasks/made-up/rerun", dryRun=True)
    assert answer.status_code == 200, answer.text
    assert "it is from another record than the app's" in answer.json()["remarks"][0]


def test_a_dry_run_sends_nothing(store: Store, shop: Celery, api: Api) -> None:
    tell(store, "old", OURS)
    answer = api.post("/async-tasks/old/rerun", "ours", dryRun=True)
    assert (answer.status_code, answer.json()["celeryTaskId"], answer.json()["rerunOf"]) == (200, None, "old")
    uninstall(shop)
    assert rows(store).keys() == {"old"}


def test_what_is_refused(store: Store, shop: Celery, api: Api) -> None:
    """A dry run, too."""
    tell(store, "redacted", OURS, kwargs={"password": {"$asynctask": "redacted"}})
    tell(store, "misfit", OURS, kwargs={"color": "red"})
    tell(store, "unknown", OURS)
    store.write(lines(about(HISTORIES["success"]()[:3], "running")))
    store.write(lines(about(HISTORIES["never_sent"](), "never-sent")))
    with store.engine.begin() as connection:
        connection.execute(update(AsyncTask).where(AsyncTask.celery_task_id == "unknown").values(name="shop.gone"))
    for task_id, why in (
        ("redacted", "password is redacted"),
        ("misfit", "do not fit the task's present signature"),
        ("running", "it is still STARTED"),
        ("never-sent", "never sent"),
        ("unknown", "this app has no task of that name"),
    ):
        for dry in (True, False):
            assert why in is_problem(api.post(f"/async-tasks/{task_id}/rerun", dryRun=dry), "refused", 409)
    for body, field in (({"again": "perhaps"}, "again"), ({"queue": "x"}, "queue"), ({"dry_run": True}, "dry_run")):
        is_problem(api.post("/async-tasks/running/rerun", **body), "invalid-parameter", 422, field)
    allowed = api.post("/async-tasks/running/rerun", unfinished=True)
    assert allowed.status_code == 201
    assert "done twice" in str(allowed.json()["remarks"])
    uninstall(shop)
    assert len(rows(store)) == 6


@pytest.mark.parametrize("dry", [True, False])
def test_a_number_that_means_two_tasks_sends_neither(store: Store, shop: Celery, api: Api, dry: bool) -> None:
    tell(store, "first", OURS)
    number = rows(store)["first"].id
    tell(store, str(number), THEIRS)
    other = rows(store)[str(number)].id
    detail = is_problem(api.post(f"/async-tasks/{number}/rerun", dryRun=dry), "refused", 409)
    assert f"of the task 'first', and the Celery id of the task with the `id` {other}" in detail
    assert rows(store).keys() == {"first", str(number)}
    for who, path, meant in (("admin", other, str(number)), ("ours", number, "first"), ("admin", "first", "first")):
        answer = api.post(f"/async-tasks/{path}/rerun", who, dryRun=dry, again=True)
        assert (answer.status_code, answer.json()["rerunOf"]) == (200 if dry else 201, meant)
    uninstall(shop)


SECRET = "4111-1111-1111-1111"
HIDDEN: dict[str, tuple[dict[str, Any], str]] = {
    "redacted": ({"kwargs": {SECRET: {"$asynctask": "redacted"}}}, "its kwargs are incomplete"),
    "list": ({"args": [{SECRET: {"$asynctask": "cut"}}]}, "its args are incomplete"),
    "type": (
        {"kwargs": {"text": {"$asynctask": "object", "type": SECRET}}},
        "its kwargs are incomplete",
    ),
    "envelope": (
        {"kwargs": {"text": {"__type__": "datetime", "__value__": SECRET}}},
        "its arguments cannot be read back",
    ),
    "misfit": ({"kwargs": {SECRET: 1}}, "its arguments do not fit the task's present signature"),
    "route": ({"kwargs": {"text": SECRET}}, "it cannot be routed"),
}


@pytest.mark.parametrize("case", HIDDEN)
def test_without_the_right_to_values_a_refusal_tells_nothing_of_them(store: Store, shop: Celery, case: str) -> None:
    """No key, type or part of them; a caller with the right gets the details."""
    more, refusal = HIDDEN[case]
    tell(store, "old", OURS, **{"args": [7] if case == "route" else [7, "é"], "kwargs": {}, **more})

    def route(_name: str, _args: Any, kwargs: Any, *_: Any, **__: Any) -> None:
        if kwargs.get("text") == SECRET:
            raise ValueError(f"no queue for {SECRET}")

    with api_over(store, shop, task_routes=[route]) as api:
        for dry in (True, False):
            detail = is_problem(api.post("/async-tasks/old/rerun", "ours-rerun", dryRun=dry), "refused", 409)
            assert detail == f"Not rerun: {refusal}."
        assert SECRET in is_problem(api.post("/async-tasks/old/rerun", "ours"), "refused", 409)


@pytest.mark.usefixtures("not_stored")
def test_a_second_click(store: Store, shop: Celery, api: Api) -> None:
    tell(store, "old", OURS)
    tell(store, "other", OURS)
    first = api.post("/async-tasks/old/rerun", "ours")
    assert first.status_code == 201
    for body in ({}, {"dryRun": True}):
        detail = is_problem(api.post("/async-tasks/old/rerun", "ours", **body), "refused", 409)
        assert detail == "Not rerun: it was rerun a moment ago (`again` overrides this)."
    assert api.post("/async-tasks/old/rerun", "ours", again=True, dryRun=True).status_code == 200
    assert api.post("/async-tasks/other/rerun", "ours").status_code == 201
    assert api.post("/async-tasks/old/rerun", "ours", again=True).status_code == 201
    uninstall(shop)
    assert len(rows(store)) == 5


@pytest.mark.usefixtures("not_stored")
def test_clicks_at_once(store: Store, shop: Celery, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even before the first rerun is sent."""
    tell(store, "old", OURS)
    task, answers = shop.tasks["shop.charge"], []
    real = type(task).apply_async

    def apply(*args: Any, **options: Any) -> Any:
        with api_like(api) as second:
            answers.append(second.post("/async-tasks/old/rerun", "ours"))
        return real(task, *args, **options)

    monkeypatch.setattr(task, "apply_async", apply)
    assert api.post("/async-tasks/old/rerun", "ours").status_code == 201
    assert len(answers) == 1
    assert "a moment ago" in is_problem(answers[0], "refused", 409)


@contextmanager
def api_like(api: Api) -> Iterator[Api]:
    """The same application, called from a thread that handles one of its requests."""
    second = copy(api)
    second.loop = asyncio.new_event_loop()
    try:
        yield second
    finally:
        second.loop.close()


@pytest.mark.usefixtures("not_stored")
def test_a_rerun_that_was_not_sent_may_be_sent_at_once(
    store: Store, shop: Celery, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But a task that was rerun stays so, even if another rerun fails."""
    tell(store, "old", OURS)

    def fail(*_: Any, **__: Any) -> Any:
        raise ConnectionResetError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(shop.tasks["shop.charge"], "apply_async", fail)
        is_problem(api.post("/async-tasks/old/rerun"), "broker-unavailable", 503)
    assert api.post("/async-tasks/old/rerun").status_code == 201
    with monkeypatch.context() as patched:
        patched.setattr(shop.tasks["shop.charge"], "apply_async", fail)
        is_problem(api.post("/async-tasks/old/rerun", again=True), "broker-unavailable", 503)
    assert "a moment ago" in is_problem(api.post("/async-tasks/old/rerun"), "refused", 409)


@pytest.mark.every_database
def test_where_earlier_reruns_were_not_looked_for(store: Store, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(store, "old", OURS)
    for number in range(3):
        tell(store, f"new-{number}", OURS)
    remarks = api.post("/async-tasks/old/rerun", dryRun=True).json()["remarks"]
    assert not any("earlier reruns" in one for one in remarks)
    monkeypatch.setattr(lookup, "MAX_SCANNED", 2)
    remarks = api.post("/async-tasks/old/rerun", dryRun=True).json()["remarks"]
    since = rfc3339(rows(store)["old"].created_at)
    remark = f"earlier reruns were searched among the newest 100,000 tasks of its name only, since {since}"
    assert remark in remarks


@pytest.mark.parametrize("options", [{}, {"again": True}])
def test_arguments_that_cannot_be_serialized(
    store: Store, shop: Celery, api: Api, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    """By the task's serializer; the broker is reachable."""

    def refuse(_value: Any) -> Any:
        raise TypeError("not as YAML")

    tell(store, "old", OURS)
    registry.register("strict", refuse, None, "application/x-strict")
    shop.tasks["shop.charge"].serializer = "strict"
    try:
        detail = is_problem(api.post("/async-tasks/old/rerun", **options), "refused", 409)
    finally:
        registry.unregister("strict")
    assert "its arguments cannot be serialized, or the app refuses to send it" in detail
    assert "old could not be rerun: EncodeError: not as YAML" in caplog.text
    uninstall(shop)
    assert rows(store).keys() == {"old"}


@pytest.mark.parametrize("fault", [TypeError("not like this"), ValueError("too late"), LookupError("whose?")])
def test_a_task_that_does_not_want_it(
    store: Store, shop: Celery, api: Api, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    tell(store, "old", OURS)

    def fail(*_: Any, **__: Any) -> Any:
        raise fault

    monkeypatch.setattr(shop.tasks["shop.charge"], "apply_async", fail)
    detail = is_problem(api.post("/async-tasks/old/rerun"), "refused", 409)
    assert str(fault) not in detail
