"""What the HTTP API does: sends tasks again, deletes old ones; within what the caller sees, and on record."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.serialization import registry
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from celery_asynctask import uninstall
from celery_asynctask.errors import StoreError
from celery_asynctask.http import actions
from celery_asynctask.model import AsyncTask, AsyncTaskAttempt
from celery_asynctask.store import Store
from celery_asynctask.store import purge as purging
from celery_asynctask.store import writer as writing
from tests import services
from tests.histories import HISTORIES, about, lines
from tests.integration.http import OURS, THEIRS, Api, api_over, is_problem
from tests.integration.test_http_access import tell

lookup = sys.modules["celery_asynctask.queries.reruns"]
"""The module; in its package, a function may have the name."""
PATH = "/async-tasks/purge"


def rows(store: Store) -> dict[str, AsyncTask]:
    with Session(store.engine, expire_on_commit=False) as session:
        return {one.celery_task_id: one for one in session.scalars(select(AsyncTask))}


# -- rerun


@pytest.fixture
def app(store: Store, tmp_path: Path) -> Iterator[Celery]:
    """An app that knows the task of the histories."""
    made = Celery("shop", broker="memory://", set_as_current=False)
    made.conf.update(asynctask_journal_dir=str(tmp_path / "journal"), task_default_queue=f"shop-{uuid.uuid4().hex}")

    @made.task(shared=False, name="shop.charge")
    def charge(number: int, text: str, currency: str = "EUR") -> None: ...

    yield made
    uninstall(made)
    made.close()


@pytest.fixture
def api(store: Store, app: Celery) -> Iterator[Api]:
    with api_over(store, app) as made:
        yield made


def test_a_task_is_sent_again_and_says_by_whom(store: Store, app: Celery, api: Api) -> None:
    tell(store, "old", OURS, created_by=7, created_by_name="Ada", content={"order": 17})
    answer = api.post("/async-tasks/old/rerun", "ours")
    assert answer.status_code == 201, answer.text
    said = answer.json()
    new = said["celeryTaskId"]
    queue, remarks = app.conf.task_default_queue, ["its last run came by celery"]
    assert said == {"celeryTaskId": new, "rerunOf": "old", "queue": queue, "remarks": remarks}
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(said["queue"])
        message = queue.get(timeout=10)
        message.ack()
        queue.close()
    args, kwargs, _ = message.payload
    assert (message.headers["id"], message.headers["task"], args, kwargs) == (
        new, "shop.charge", [7, "é"], {"currency": "EUR"},
    )  # fmt: skip
    uninstall(app)  # stores what is on its way
    row = rows(store)[new]
    assert (row.customer, row.created_by, row.created_by_name) == (OURS, 7, "Ada")
    assert row.content == {"order": 17, "rerun_of": "old", "rerun_by": "ours"}
    assert api.ok(f"/async-tasks/{new}", "ours")["content"] == row.content, "its caller reads it at once"
    is_problem(api.get(f"/async-tasks/{new}", "theirs"), "not-found", 404)
    said = is_problem(api.post("/async-tasks/old/rerun", "ours"), "refused", 409)
    assert f"sent again before, once, last as {new}" in said


def test_a_dry_run_sends_nothing(store: Store, app: Celery, api: Api) -> None:
    tell(store, "old", OURS)
    answer = api.post("/async-tasks/old/rerun", "ours", dryRun=True)
    assert (answer.status_code, answer.json()["celeryTaskId"], answer.json()["rerunOf"]) == (200, None, "old")
    uninstall(app)
    assert rows(store).keys() == {"old"}


def test_what_is_refused(store: Store, app: Celery, api: Api) -> None:
    """Also what only a dry run asks."""
    tell(store, "redacted", OURS, kwargs={"password": {"$asynctask": "redacted"}})
    tell(store, "misfit", OURS, kwargs={"colour": "red"})
    tell(store, "unknown", OURS)
    store.write(lines(about(HISTORIES["success"]()[:3], "running")))
    store.write(lines(about(HISTORIES["never_sent"](), "never-sent")))
    with store.engine.begin() as connection:
        connection.execute(update(AsyncTask).where(AsyncTask.celery_task_id == "unknown").values(name="shop.gone"))
    for task_id, why in (
        ("redacted", "password is redacted"),
        ("misfit", "do not fit the task as it is now"),
        ("running", "it is not over, but STARTED"),
        ("never-sent", "never sent"),
        ("unknown", "this app knows no task of that name"),
    ):
        for dry in (True, False):
            assert why in is_problem(api.post(f"/async-tasks/{task_id}/rerun", dryRun=dry), "refused", 409)
    for body, field in (({"again": "perhaps"}, "again"), ({"queue": "x"}, "queue"), ({"dry_run": True}, "dry_run")):
        is_problem(api.post("/async-tasks/running/rerun", **body), "invalid-parameter", 422, field)
    allowed = api.post("/async-tasks/running/rerun", unfinished=True)
    assert allowed.status_code == 201
    assert "done twice" in str(allowed.json()["remarks"])
    uninstall(app)
    assert len(rows(store)) == 6


SECRET = "4111-1111-1111-1111"
UNTOLD: dict[str, tuple[dict[str, Any], str]] = {
    "redacted": ({"kwargs": {SECRET: {"$asynctask": "redacted"}}}, "its kwargs are not whole"),
    "list": ({"args": [{SECRET: {"$asynctask": "cut"}}]}, "its args are not whole"),
    "type": (
        {"kwargs": {"text": {"$asynctask": "object", "type": SECRET}}},
        "its kwargs are not whole",
    ),
    "envelope": (
        {"kwargs": {"text": {"__type__": "datetime", "__value__": SECRET}}},
        "its arguments cannot be read back",
    ),
    "misfit": ({"kwargs": {SECRET: 1}}, "its arguments do not fit the task as it is now"),
    "route": ({"kwargs": {"text": SECRET}}, "it cannot be routed"),
}


@pytest.mark.parametrize("case", UNTOLD)
def test_without_the_right_to_values_a_refusal_tells_nothing_of_them(store: Store, app: Celery, case: str) -> None:
    """No key, no type, no piece: who has the right is told where to look."""
    more, told = UNTOLD[case]
    tell(store, "old", OURS, **{"args": [7] if case == "route" else [7, "é"], "kwargs": {}, **more})

    def route(_name: str, _args: Any, kwargs: Any, *_: Any, **__: Any) -> None:
        if kwargs.get("text") == SECRET:
            raise ValueError(f"no queue for {SECRET}")

    with api_over(store, app, task_routes=[route]) as api:
        for dry in (True, False):
            said = is_problem(api.post("/async-tasks/old/rerun", "ours-rerun", dryRun=dry), "refused", 409)
            assert said == f"It is not sent again: {told}."
        assert SECRET in is_problem(api.post("/async-tasks/old/rerun", "ours"), "refused", 409)


@pytest.fixture
def not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record does not know yet what was sent again: no recorder has looked since."""
    monkeypatch.setattr(actions, "reruns", lambda *_: lookup.Reruns({}, None))


@pytest.mark.usefixtures("not_stored")
def test_a_second_click(store: Store, app: Celery, api: Api) -> None:
    tell(store, "old", OURS)
    tell(store, "other", OURS)
    first = api.post("/async-tasks/old/rerun", "ours")
    assert first.status_code == 201
    for body in ({}, {"dryRun": True}):
        said = is_problem(api.post("/async-tasks/old/rerun", "ours", **body), "refused", 409)
        assert said == "It is not sent again: it was sent again a moment ago (`again` sends it once more)."
    assert api.post("/async-tasks/old/rerun", "ours", again=True, dryRun=True).status_code == 200
    assert api.post("/async-tasks/other/rerun", "ours").status_code == 201
    assert api.post("/async-tasks/old/rerun", "ours", again=True).status_code == 201
    uninstall(app)
    assert len(rows(store)) == 5


@pytest.mark.usefixtures("not_stored")
def test_clicks_at_once(store: Store, app: Celery, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before the first is sent."""
    tell(store, "old", OURS)
    task, answers = app.tasks["shop.charge"], []
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
    """The same application, asked out of a thread that one of its requests is in."""
    second = copy(api)
    second.loop = asyncio.new_event_loop()
    try:
        yield second
    finally:
        second.loop.close()


@pytest.mark.usefixtures("not_stored")
def test_what_was_not_sent_may_be_sent_at_once(
    store: Store, app: Celery, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But what was sent before stays so, whatever becomes of it once more."""
    tell(store, "old", OURS)

    def fail(*_: Any, **__: Any) -> Any:
        raise ConnectionResetError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(app.tasks["shop.charge"], "apply_async", fail)
        is_problem(api.post("/async-tasks/old/rerun"), "broker-unavailable", 503)
    assert api.post("/async-tasks/old/rerun").status_code == 201
    with monkeypatch.context() as patched:
        patched.setattr(app.tasks["shop.charge"], "apply_async", fail)
        is_problem(api.post("/async-tasks/old/rerun", again=True), "broker-unavailable", 503)
    assert "a moment ago" in is_problem(api.post("/async-tasks/old/rerun"), "refused", 409)


def test_where_earlier_reruns_were_not_looked_for(store: Store, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(store, "old", OURS)
    for number in range(3):
        tell(store, f"new-{number}", OURS)
    said = api.post("/async-tasks/old/rerun", dryRun=True).json()["remarks"]
    assert not any("earlier reruns" in one for one in said)
    monkeypatch.setattr(lookup, "MOST_LOOKED_AT", 2)
    said = api.post("/async-tasks/old/rerun", dryRun=True).json()["remarks"]
    since = f"{rows(store)['old'].created_at:%Y-%m-%dT%H:%M:%SZ}"
    told = f"earlier reruns were looked for in the newest 100,000 tasks of its name alone, since {since}"
    assert told in said


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"task_always_eager": True}, "task_always_eager is set"),
        ({"asynctask_enabled": False}, "asynctask_enabled is False"),
        ({"imports": ["no.such.module"]}, "No module named 'no'"),
    ],
    ids=["eager", "off", "imports"],
)
def test_what_the_server_is_not_set_up_for(
    store: Store, app: Celery, settings: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """How it is, is for who reads the log."""
    tell(store, "old", OURS)
    with api_over(store, app, **settings) as api:
        said = is_problem(api.post("/async-tasks/old/rerun", "ours"), "refused", 409)
    assert said == "This server is not set up to send tasks again. Its log says why."
    assert told in caplog.text
    uninstall(app)
    assert rows(store).keys() == {"old"}


def test_a_broker_that_is_away(store: Store, app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """Where it is, is for who reads the log."""
    tell(store, "old", OURS)
    with api_over(store, app, broker_url="redis://:secret@127.0.0.1:9/0") as api:
        answer = api.post("/async-tasks/old/rerun", "ours")
    said = is_problem(answer, "broker-unavailable", 503)
    assert "redis" not in said
    assert answer.headers["retry-after"] == "5"
    assert "redis://:**@127.0.0.1:9/0 cannot be reached" in caplog.text
    assert "secret" not in caplog.text
    uninstall(app)
    assert rows(store).keys() == {"old"}


def test_a_broker_that_refuses_it(
    store: Store, app: Celery, api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was there a moment ago."""
    tell(store, "old", OURS)

    def fail(*_: Any, **__: Any) -> Any:
        raise ConnectionResetError("gone")

    monkeypatch.setattr(app.tasks["shop.charge"], "apply_async", fail)
    is_problem(api.post("/async-tasks/old/rerun"), "broker-unavailable", 503)
    assert "old could not be sent again: ConnectionResetError: gone" in caplog.text


@pytest.mark.parametrize("options", [{}, {"again": True}])
def test_arguments_that_cannot_be_serialized(
    store: Store, app: Celery, api: Api, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    """By the serializer of the task; the broker is there all the while."""

    def refuse(_value: Any) -> Any:
        raise TypeError("not as YAML")

    tell(store, "old", OURS)
    registry.register("strict", refuse, None, "application/x-strict")
    app.tasks["shop.charge"].serializer = "strict"
    try:
        said = is_problem(api.post("/async-tasks/old/rerun", **options), "refused", 409)
    finally:
        registry.unregister("strict")
    assert "its arguments cannot be serialized, or the app does not want it sent like this" in said
    assert "old could not be sent again: EncodeError: not as YAML" in caplog.text
    uninstall(app)
    assert rows(store).keys() == {"old"}


@pytest.mark.parametrize("fault", [TypeError("not like this"), ValueError("too late"), LookupError("whose?")])
def test_a_task_that_does_not_want_it(
    store: Store, app: Celery, api: Api, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    tell(store, "old", OURS)

    def fail(*_: Any, **__: Any) -> Any:
        raise fault

    monkeypatch.setattr(app.tasks["shop.charge"], "apply_async", fail)
    said = is_problem(api.post("/async-tasks/old/rerun"), "refused", 409)
    assert str(fault) not in said


@pytest.mark.parametrize("shared_store", ["sqlite"], indirect=True)
@pytest.mark.parametrize("broker", ["redis", "amqp"])
def test_a_broker_that_goes_away_after_it_was_reached(
    store: Store, app: Celery, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each says so in its own way."""
    tell(store, "old", OURS)
    url = {"redis": "redis://127.0.0.1:9/0", "amqp": "amqp://127.0.0.1:9//"}[broker]
    monkeypatch.setattr(actions, "reach_broker", lambda _app: None)
    with api_over(store, app, broker_url=url, task_publish_retry=False) as api:
        is_problem(api.post("/async-tasks/old/rerun"), "broker-unavailable", 503)


def test_a_result_backend_that_is_away(store: Store, app: Celery) -> None:
    """It is told of each task before that is sent."""
    tell(store, "old", OURS)
    app.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 0, "timeout": 1}}
    with api_over(store, app, result_backend="redis://127.0.0.1:9/0", redis_retry_on_timeout=False) as api:
        is_problem(api.post("/async-tasks/old/rerun"), "broker-unavailable", 503)


def test_over_a_real_broker(store: Store, app: Celery) -> None:
    url = services.redis_url(7)
    tell(store, "old", OURS)
    queue = f"http-{dt.datetime.now(dt.timezone.utc).timestamp():.6f}"
    with api_over(store, app, broker_url=url, task_default_queue=queue) as api:
        new = api.post("/async-tasks/old/rerun", "ours-rerun").json()["celeryTaskId"]
    with app.connection_for_read() as connection:
        waiting = connection.SimpleQueue(queue)
        message = waiting.get(timeout=10)
        message.ack()
        waiting.queue.delete()
        waiting.close()
    assert message.headers["id"] == new
    uninstall(app)
    assert rows(store)[new].content == {"rerun_of": "old", "rerun_by": "ours-rerun"}


# -- purge


@pytest.fixture
def old(store: Store) -> Callable[[], dict[str, set[str]]]:
    """Old tasks of two customers and of none; which ones are left of each."""
    for prefix, customer in (("ours", OURS), ("theirs", THEIRS), ("none", None)):
        for number in range(5):
            tell(store, f"{prefix}-{number}", customer)

    def left() -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for task_id in rows(store):
            found.setdefault(task_id.rpartition("-")[0], set()).add(task_id)
        return found

    return left


def attempts(store: Store) -> int:
    with store.engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(AsyncTaskAttempt)) or 0


def test_a_purge_only_counts_unless_it_is_told(store: Store, api: Api, old: Callable[[], Any]) -> None:
    assert api.post(PATH, "ours", olderThan="1d").json() == {"due": 5, "tasks": 0, "attempts": 0, "complete": True}
    assert api.post(PATH, "ours", olderThan="90y").json() == {"due": 0, "tasks": 0, "attempts": 0, "complete": True}
    assert len(rows(store)) == 15


def test_counting_deletes_nothing_else(store: Store, api: Api) -> None:
    """Attempts whose task is gone are tidied up by a purge, and not by a look at what it would do."""
    tell(store, "gone", OURS)
    with store.engine.begin() as connection:
        connection.execute(delete(AsyncTask))
    assert api.post(PATH, olderThan="1d").json() == {"due": 0, "tasks": 0, "attempts": 0, "complete": True}
    assert attempts(store) == 1
    api.post(PATH, olderThan="1d", dryRun=False)
    assert attempts(store) == 0


def test_a_purge_deletes_ones_own(store: Store, api: Api, old: Callable[[], Any]) -> None:
    done = api.post(PATH, "ours-purge", olderThan="1d", search="id:ours-*", dryRun=False).json()
    assert done == {"due": None, "tasks": 5, "attempts": 5, "complete": True}
    assert {name: len(left) for name, left in old().items()} == {"theirs": 5, "none": 5}
    assert attempts(store) == 10
    for search in ("", "customer:none", f"customer:{THEIRS}", "-customer:1", "*"):
        done = api.post(PATH, "ours-purge", olderThan="1d", search=search, dryRun=False).json()
        assert done == {"due": None, "tasks": 0, "attempts": 0, "complete": True}, search
    assert len(rows(store)) == 10
    done = api.post(PATH, "nobody", olderThan="1d", dryRun=False).json()
    assert done["tasks"] == 0
    assert api.post(PATH, olderThan="1d", dryRun=False).json()["tasks"] == 10


def test_what_is_not_over_stays_unless_it_is_meant(store: Store, api: Api) -> None:
    store.write(lines(about(HISTORIES["success"]()[:1], "waits")))
    assert api.post(PATH, olderThan="1d", dryRun=False).json()["tasks"] == 0
    assert api.post(PATH, olderThan="1d", dryRun=False, unfinished=True).json()["tasks"] == 1
    assert rows(store) == {}


def test_a_request_deletes_so_many_at_most(
    store: Store, api: Api, old: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "MOST_PURGED", 4)
    monkeypatch.setattr(purging.Purge.__init__, "__kwdefaults__", {**purging.Purge.__init__.__kwdefaults__, "batch": 2})
    told = []
    while not (done := api.post(PATH, olderThan="1d", dryRun=False).json())["complete"]:
        told.append(done["tasks"])
    assert [*told, done["tasks"]] == [4, 4, 4, 3]
    assert rows(store) == {}


@pytest.mark.parametrize("who", ["admin", "both"])
def test_a_dry_run_looks_at_so_many_at_most(
    store: Store, api: Api, old: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Five of each of two customers, the first of them too young."""
    with store.engine.begin() as connection:
        now = dt.datetime.now(dt.timezone.utc)
        connection.execute(update(AsyncTask).where(AsyncTask.celery_task_id == "ours-0").values(completed_at=now))
        connection.execute(delete(AsyncTask).where(AsyncTask.customer.is_(None)))
    for module in (writing, purging):
        monkeypatch.setattr(module, "WINDOW", 2)
    for most, due, complete in ((3, 3, False), (4, 3, False), (10, 9, True), (11, 9, True)):
        monkeypatch.setattr(actions, "MOST_COUNTED", most)
        assert api.post(PATH, who, olderThan="1d").json() == {
            "due": due, "tasks": 0, "attempts": 0, "complete": complete
        }  # fmt: skip
    assert len(rows(store)) == 10


def test_who_deleted_how_many_is_on_record(
    store: Store, api: Api, old: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """By what, too, but not what was looked for."""
    api.post(PATH, "ours", olderThan="90d")
    assert caplog.records == []
    search = "-content.order:4711 id:ours-*"
    assert api.post(PATH, "ours", olderThan="90d", search=search, dryRun=False).json()["tasks"] == 5
    [told] = caplog.records
    assert (told.levelname, told.name) == ("WARNING", "celery_asynctask")
    assert told.getMessage() == (
        "'ours' deleted 5 tasks and 5 attempts over HTTP: older than 90d, found by content, id."
    )
    caplog.clear()
    api.post(PATH, olderThan="1d", dryRun=False)
    assert [one.getMessage() for one in caplog.records] == [
        "'admin' deleted 10 tasks and 10 attempts over HTTP: older than 1d."
    ]


def test_what_was_deleted_before_it_broke_off_is_on_record(
    store: Store, api: Api, old: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(purging.Purge.__init__, "__kwdefaults__", {**purging.Purge.__init__.__kwdefaults__, "batch": 4})
    real = writing.Writer.batch

    def batch(self: writing.Writer, work: Any) -> Any:
        if len(rows(store)) < 8:
            raise StoreError("The database is away.")
        return real(self, work)

    monkeypatch.setattr(writing.Writer, "batch", batch)
    is_problem(api.post(PATH, olderThan="1d", dryRun=False), "database-unavailable", 503)
    assert "'admin' deleted 8 tasks and 8 attempts over HTTP" in caplog.text
    assert len(rows(store)) == 7


NOT_UNDERSTOOD: list[tuple[dict[str, Any], str]] = [
    ({}, "olderThan"),
    ({"olderThan": ""}, "olderThan"),
    ({"olderThan": "soon"}, "olderThan"),
    ({"olderThan": "-1d"}, "olderThan"),
    ({"olderThan": 5}, "olderThan"),
    ({"olderThan": "999999999y"}, "olderThan"),
    ({"olderThan": "1d", "search": "nokey:1"}, "search"),
    ({"olderThan": "1d", "search": None}, "search"),
    ({"olderThan": "1d", "dryRun": "maybe"}, "dryRun"),
    ({"olderThan": "1d", "dryrun": False}, "dryrun"),
    ({"olderThan": "1d", "older_than": "1d"}, "older_than"),
    ({"olderThan": "1d", "dry_run": False}, "dry_run"),
    ({"olderThan": "1d", "customer": 5}, "customer"),
]


def test_what_is_not_understood_deletes_nothing(store: Store, api: Api) -> None:
    tell(store, "old", OURS)
    for body, named in NOT_UNDERSTOOD:
        is_problem(api.ask("POST", PATH, json={"dryRun": False, **body}), "invalid-parameter", 422, named)
    is_problem(api.ask("POST", f"{PATH}?dryRun=false", json={"olderThan": "1d"}), "invalid-parameter", 422, "dryRun")
    assert len(rows(store)) == 1
