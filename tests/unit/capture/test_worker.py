"""Messages that cannot become a task in a worker: what is read from them, whatever they contain."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task, signals
from celery.concurrency import get_implementation

from celery_asynctask.capture import instrumentation, worker
from celery_asynctask.capture.install import install, uninstall
from celery_asynctask.capture.instrumentation import instrumentation_of
from celery_asynctask.core.keys import AttemptKey, attempt_key, new_token
from tests.histories import ms


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celery]:
    app = Celery("worker", set_as_current=False)
    app.conf.update(asynctask_url="sqlite://", asynctask_journal_dir=tmp_path / "journal")
    install(app)
    yield app
    uninstall(app)


@pytest.fixture
def recorded(app: Celery, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The recorded events."""
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(instrumentation_of(app), "record", lambda event: events.append(dict(event)))
    return events


class Message:
    """A message of kombu; one whose body raises cannot be decoded."""

    def __init__(self, headers: Any, body: Any, **delivery_info: Any) -> None:
        self.headers = headers
        self.delivery_info = delivery_info or None
        self._body = body

    @property
    def payload(self) -> Any:
        if isinstance(self._body, Exception):
            raise self._body
        return self._body


def unknown(app: Celery, message: Message) -> None:
    worker.on_unknown(SimpleNamespace(app=app), message=message, name="no.such")


def rejected(app: Celery, message: Message, exc: Exception | None = None) -> None:
    worker.on_rejected(SimpleNamespace(app=app), message=message, exc=exc)


OURS = {"created": ms(0), "sent": ms(1), "customer": 7, "created_by_name": "Ann", "content": '{"order": 1}'}
HEADERS = {"id": "x", "task": "no.such", "root_id": "r", "parent_id": "p", "retries": 2, "asynctask": OURS}
STEP = {"task": "next.one", "args": [3], "kwargs": {}, "options": {"task_id": "y"}}


def test_what_a_message_is_refused_for_does_not_quote_its_secrets(app: Celery, recorded: list[dict[str, Any]]) -> None:
    secret = "correct horse battery staple"
    message = Message(HEADERS, [[], {"password": secret}, {"chain": [STEP]}])
    rejected(app, message, ValueError(f"kwargs are wrong: {secret!r}"))
    event, step = recorded
    assert event["blind"]
    assert event["error_message"] == "kwargs are wrong: '***'"
    assert step["error_message"].endswith("kwargs are wrong: '***'")


def test_an_unknown_task_fails_and_what_follows_it_is_not_sent(app: Celery, recorded: list[dict[str, Any]]) -> None:
    unknown(app, Message(HEADERS, [[1], {"k": 2}, {"chain": [STEP]}], redelivered=True))
    event, step = recorded
    assert AttemptKey.parse(attempt_key(event)) == (ms(0), 0, 2, True, event["run"])  # type: ignore[arg-type]
    del event["run"], event["at"]
    assert event == {
        "kind": "failed",
        "id": "x",
        "name": "no.such",
        "asked": True,
        "root": "r",
        "parent": "p",
        "retries": 2,
        "redelivered": True,
        "created": ms(0),
        "customer": 7,
        "created_by_name": "Ann",
        "content": {"order": 1},
        "blind": True,
        "inferred": True,
        "error_type": "NotRegistered",
        "error_message": "'no.such'",
    }
    assert (step["kind"], step["id"], step["name"], step["parent"]) == ("unsent", "y", "next.one", "x")
    assert (step["root"], step["customer"], step["blind"]) == ("r", 7, True)


@pytest.mark.parametrize(
    ("own", "context", "reason"),
    [
        ({}, (7, None, "Ann", {"order": 1}), "'no.such'"),
        ({"customer": 7}, (7, None, "Ann", {"order": 1}), "'no.such'"),
        ({"customer": "globex"}, (None, "globex", None, None), "an error of another customer"),
        ({"customer": 8, "content": {"a": 2}}, (8, None, None, {"a": 2}), "an error of another customer"),
    ],
)
def test_a_step_for_another_customer_has_nothing_of_this_one(
    app: Celery, recorded: list[dict[str, Any]], own: dict[str, Any], context: tuple[Any, ...], reason: str
) -> None:
    step = {**STEP, "options": {"task_id": "y", "headers": {"asynctask": own}}}
    unknown(app, Message(HEADERS, [[1], {}, {"chain": [step]}]))
    told = recorded[1]
    keys = ("customer", "customer_key", "created_by_name", "content")
    assert tuple(told.get(key) for key in keys) == context
    assert told["error_message"] == f"Not sent: upstream task no.such [x] ended with {reason}"


def test_an_unknown_task_that_replaces_another(app: Celery, recorded: list[dict[str, Any]]) -> None:
    """Or was sent by a task without a row, whose own link would lead nowhere."""
    unknown(app, Message({**HEADERS, "replaced_task_nesting": 3, "asynctask": {**OURS, "root": "s"}}, [[], {}, {}]))
    [event] = recorded
    assert AttemptKey.parse(attempt_key(event)) == (ms(0), 3, 2, False, event["run"])  # type: ignore[arg-type]
    assert (event["root"], event["parent"]) == ("s", None)


def test_of_a_body_that_cannot_be_read_the_headers_are(app: Celery, recorded: list[dict[str, Any]]) -> None:
    rejected(app, Message(HEADERS, ValueError("not JSON")), ValueError("not JSON"))
    [event] = recorded
    assert (event["kind"], event["id"], event["name"], event["customer"]) == ("rejected", "x", "no.such", 7)
    assert (event["error_type"], event["error_message"]) == ("ValueError", "not JSON")
    assert event.keys().isdisjoint({"args", "kwargs"})


def test_a_token_in_the_header_is_of_another_task(app: Celery, recorded: list[dict[str, Any]]) -> None:
    """A task has passed its own header on."""
    token = new_token(ms(2))
    unknown(app, Message({**HEADERS, "asynctask": {**OURS, "run": token}}, [[], {}, {}]))
    [event] = recorded
    assert event["run"] != token


def test_the_description_of_a_process(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instrumentation, "_worker_pid", 0)
    role = instrumentation._role
    assert role() == "producer"
    worker.on_worker_init(SimpleNamespace(app=app))
    assert role() == "worker"
    monkeypatch.setattr(instrumentation, "is_pool_child", lambda: True)
    assert role() == "child"
    monkeypatch.undo()
    monkeypatch.setattr(instrumentation, "_worker_pid", os.getppid())  # a process that a worker has forked itself
    assert role() == "producer"


def test_a_message_of_protocol_1(app: Celery, recorded: list[dict[str, Any]]) -> None:
    body = {"id": "x", "task": "no.such", "args": [1], "kwargs": {}, "retries": 1, "callbacks": [STEP]}
    unknown(app, Message(None, body))
    event, step = recorded
    assert (event["id"], event["root"], event["parent"], event["retries"]) == ("x", None, None, 1)
    assert (event["blind"], step["id"]) == (True, "y")


@pytest.mark.parametrize(
    ("headers", "body"),
    [({}, [[], {}, {}]), (None, "text"), ({"id": [4], "task": "t"}, [[], {}, {}]), (["id"], None)],
)
def test_a_message_without_an_id(app: Celery, recorded: list[dict[str, Any]], headers: Any, body: Any) -> None:
    rejected(app, Message(headers, body))
    assert recorded == []


def test_a_message_of_odd_things(app: Celery, recorded: list[dict[str, Any]]) -> None:
    odd = {
        "id": "x",
        "task": 5,
        "root_id": 1,
        "parent_id": [],
        "retries": "many",
        "replaced_task_nesting": "deep",
        "asynctask": "ours",
    }
    rejected(app, Message(odd, [[1], {}, {"id": "z", "chain": 9, "replaced_task_nesting": "deep", "asynctask": 1}]))
    [event] = recorded
    assert (event["id"], event["name"], event["root"], event["parent"]) == ("x", "unknown", "1", None)
    assert AttemptKey.parse(attempt_key(event)) == (0, 0, 0, False, event["run"])  # type: ignore[arg-type]
    assert (event["error_type"], event["blind"]) == ("ValueError", True)


def test_a_task_that_is_left_out(app: Celery, recorded: list[dict[str, Any]]) -> None:
    unknown(app, Message({"id": "x", "task": "celery.chord_unlock"}, [[], {}, {}]))
    assert recorded == []


@pytest.mark.parametrize(("strategy", "kinds"), [(Task.Strategy, ["received"]), (lambda *_: None, [])])
def test_a_message_whose_execution_may_never_be_seen_is_not_received(
    app: Celery, recorded: list[dict[str, Any]], strategy: Any, kinds: list[str]
) -> None:
    """It would be so for ever: the task's own strategy may run it past Celery's tracer."""
    task = SimpleNamespace(name="collect", Strategy=strategy)
    request = SimpleNamespace(task=task, request_dict={"id": "x", "asynctask": {}}, args=(), kwargs={})
    worker._record_received(instrumentation_of(app), request, ms(0))  # type: ignore[arg-type]
    assert [event["kind"] for event in recorded] == kinds


def test_only_a_worker_whose_tracers_are_not_celery_s_follows_each_execution(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal more for each task: none pays for it who does not need it."""
    monkeypatch.setattr(instrumentation_of(app), "start", lambda: None)
    before = len(signals.task_prerun.receivers)
    for pool, more in ((object.__new__(get_implementation("solo")), 0), (object(), 1), (object(), 1)):
        worker.on_worker_ready(SimpleNamespace(app=app, pool=pool))
        assert len(signals.task_prerun.receivers) == before + more
    uninstall(app)
    assert len(signals.task_prerun.receivers) == before
