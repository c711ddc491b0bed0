"""Signed headers: who has no key speaks for no customer, however a message is made."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from celery import Celery
from celery.app.task import Context
from celery.app.trace import build_tracer

from celery_asynctask import context, install, uninstall
from celery_asynctask.capture import inflight, publish, run, signing, start, worker
from celery_asynctask.capture.continuation import CHORD_UNLOCK
from celery_asynctask.capture.headers import HEADER, header_of, read, stamp
from celery_asynctask.capture.instrumentation import Instrumentation, instrumentation_of
from celery_asynctask.capture.signing import SIGNED, is_signed, is_verified, settle, sign
from celery_asynctask.core.event import Kind, decode
from tests.histories import ms

KEYS = (b"first" * 8, b"second" * 8)
OTHER = b"stolen from elsewhere, or guessed"
OURS: dict[str, Any] = {**stamp("x", ms(0), ms(1)), "customer": 7, "created_by_name": "Ann", "content": '{"order": 1}'}
UNSIGNED: dict[str, Any] = {key: value for key, value in OURS.items() if key not in signing.CLAIMS}
CLAIM = {"customer": 666, "created_by": 6, "created_by_name": "Mallory"}


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    app = Celery("signing", broker="memory://", set_as_current=False)
    app.conf.update(
        asynctask_url="sqlite://", asynctask_journal_dir=tmp_path / "journal", asynctask_header_keys=list(KEYS)
    )
    install(app)
    monkeypatch.setattr(signing, "_logged", 0)
    with mock.patch.object(inflight, "_requests", {}):
        yield app
    uninstall(app)


@pytest.fixture
def told(app: Celery, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The recorded events."""
    events: list[dict[str, Any]] = []

    def note(_: Instrumentation, data: bytes, _slot: int | None = None) -> None:
        events.append(dict(decode(data)))

    for write in ("write", "begin"):
        monkeypatch.setattr(Instrumentation, write, note)
    return events


@pytest.fixture
def sent(app: Celery) -> dict[str, Any]:
    """The headers of the messages that are sent, ours among them, by task id."""
    found: dict[str, Any] = {}

    def send(_: Any, __: str, message: Any, **options: Any) -> None:
        found[message.headers["id"]] = {**message.headers, **(options.get("headers") or {})}

    app.amqp.__dict__["send_task_message"]._send = send
    return found


def ours(sent: dict[str, Any], task_id: str) -> dict[str, Any]:
    """Our header in a message, which must be signed with the first key."""
    text = sent[task_id][HEADER]
    assert is_signed(text, task_id, KEYS[:1])
    header: dict[str, Any] = read(text, task_id)
    return header


def deliver(app: Celery, body: Callable[[], object], header: Any, **message: Any) -> None:
    """Receive and run a task, as a worker with a pool of threads does. ``embed``: what the body has of the request."""
    embed = message.pop("embed", {})
    fields = {
        "id": "x",
        "task": "body",
        "root_id": "x",
        "retries": 0,
        "called_directly": False,
        HEADER: header,
        **message,
    }

    @app.task(name="body", shared=False, bind=True)  # type: ignore[untyped-decorator]
    def task(self: Any) -> object:
        return body()

    app.finalize()
    request = Live(app.tasks["body"], fields)
    worker.on_received(request)
    build_tracer("body", request.task, app=app)("x", [], {}, {**request.request_dict, **embed})


class Live:
    """A worker's Request, as far as hooks read it."""

    acknowledged = _already_revoked = False
    time_start = None

    def __init__(self, task: Any, fields: dict[str, Any]) -> None:
        self.task, self.id, self.request_dict = task, fields["id"], fields
        self.args: Any = []
        self.kwargs: Any = {}


def claims(events: list[dict[str, Any]], *kinds: str) -> set[Any]:
    return {event.get("customer") for event in events if not kinds or event["kind"] in kinds}


# -- a signature


def test_who_has_either_key_verifies_what_the_first_signed() -> None:
    text = sign(OURS, "x", KEYS[0])
    assert is_signed(text, "x", KEYS)
    assert is_signed(text, "x", KEYS[::-1])
    assert not is_signed(text, "x", KEYS[1:])
    assert read(text, "x") == OURS, "without a key it is read as any other"
    assert json.loads(text)["v"] == 2


@pytest.mark.parametrize("task_id", ["y", "X", "x\n", "", 7, None])
def test_a_signature_is_of_one_task(task_id: Any) -> None:
    assert not is_signed(sign(OURS, "x", KEYS[0]), task_id, KEYS)
    assert is_signed(sign(OURS, task_id, KEYS[0]), task_id, KEYS)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"customer":7', '"customer":8'),
        lambda text: text.replace('"mac":"', '"mac":"0')[:-1],
        lambda text: text[:-3] + '"}',
        lambda text: text + " ",
        lambda text: " " + text,
        lambda text: text.replace('","mac"', '", "mac"'),
        lambda text: text.upper(),
        lambda text: text[:-5] + 'é"}',
        lambda text: text[-42:],
        lambda _: "",
    ],
)
def test_a_text_that_was_changed_is_not_signed(change: Any) -> None:
    text = sign(OURS, "x", KEYS[0])
    assert not is_signed(change(text), "x", KEYS)


def test_an_application_in_another_language_signs_as_the_documentation_says() -> None:
    header = '{"v":2,"customer":42}'
    mac = hmac.new(KEYS[0], f"{json.dumps('ä')}\n{header}".encode(), hashlib.sha256).hexdigest()[:32]
    fields: dict[str, Any] = {HEADER: f'{header[:-1]},"mac":"{mac}"}}'}
    assert not settle(fields, "ä", KEYS)
    assert fields[HEADER]["customer"] == 42


# -- what a worker reads

FORGED = {
    "mapping": OURS,
    "text": json.dumps({"v": 2, **OURS}),
    "wrong key": sign(OURS, "x", OTHER),
    "another task's": sign({key: value for key, value in OURS.items() if key != "for"}, "y", KEYS[0]),
    "marked": {**OURS, "here": list(SIGNED), "run": "0" * 20, "delivered": True},
    "marked, with a text of another key": {**OURS, "here": list(SIGNED), "text": sign(OURS, "x", OTHER)},
    "with a text for another task": {**OURS, "text": sign(OURS, "y", KEYS[0])},
}


@pytest.mark.parametrize("where", ["message", "nested"])
@pytest.mark.parametrize("name", FORGED)
def test_customer_and_creator_of_an_unsigned_header_are_left_out_and_nothing_else(name: str, where: str) -> None:
    fields: dict[str, Any] = {HEADER: FORGED[name]} if where == "message" else {"headers": {HEADER: FORGED[name]}}
    assert settle(fields, "x", KEYS)
    kept = {key: value for key, value in UNSIGNED.items() if key != "for" or name != "another task's"}
    assert fields[HEADER] == {**kept, "here": ()}
    assert fields.get("headers") in (None, {HEADER: fields[HEADER]})
    assert not settle(fields, "x", KEYS), "it is counted once"


@pytest.mark.parametrize("key", KEYS)
def test_a_signed_header_is_believed_also_where_a_broker_takes_it_back(key: bytes) -> None:
    fields: dict[str, Any] = {HEADER: sign(OURS, "x", key)}
    for _ in range(2):
        assert not settle(fields, "x", KEYS)
        assert is_verified(fields[HEADER])
        assert header_of(Context({"id": "x", **fields})) == {**OURS, "here": SIGNED, "text": sign(OURS, "x", key)}
        fields = json.loads(json.dumps(fields))  # as where the message goes back to the queue


@pytest.mark.parametrize("header", [None, "text", 7, [], UNSIGNED, {"customer": None}])
def test_what_names_nobody_is_not_counted(header: Any) -> None:
    assert not settle({HEADER: header}, "x", KEYS)


def test_the_first_unsigned_header_is_logged(
    app: Celery, caplog: pytest.LogCaptureFixture, told: list[dict[str, Any]]
) -> None:
    with caplog.at_level(logging.WARNING, "celery_asynctask"):
        for _ in range(2):
            settle({HEADER: CLAIM}, "a\nb", KEYS)
    [record] = caplog.records
    assert "asynctask_header_keys" in record.getMessage()
    assert "\n" not in record.getMessage(), "an id forges no line"
    assert "666" not in record.getMessage()


@pytest.mark.parametrize("name", FORGED)
def test_no_event_of_an_unsigned_message_names_its_customer(
    app: Celery, told: list[dict[str, Any]], sent: dict[str, Any], name: str
) -> None:
    deliver(app, lambda: None, FORGED[name])
    assert [event["kind"] for event in told] == ["received", "started", "succeeded"]
    assert told[0]["unsigned"]
    assert claims(told) == {None}
    assert not any("created_by_name" in event for event in told)
    assert told[1]["content"] == {"order": 1}


def test_a_signed_message_costs_no_event_and_names_its_customer(
    app: Celery, told: list[dict[str, Any]], sent: dict[str, Any]
) -> None:
    deliver(app, lambda: None, sign(OURS, "x", KEYS[1]))
    assert [event["kind"] for event in told] == ["started", "succeeded"]
    assert claims(told) == {7}


@pytest.mark.parametrize("is_eager", [False, True])
def test_a_body_that_replaces_the_header_of_the_request_is_not_believed(
    app: Celery, told: list[dict[str, Any]], sent: dict[str, Any], monkeypatch: pytest.MonkeyPatch, is_eager: bool
) -> None:
    """Celery lets it replace any field, after the worker's main process has read the header."""
    monkeypatch.setattr(start, "is_worker", lambda: True)
    embed = {HEADER: {**CLAIM, "here": list(SIGNED)}, "is_eager": is_eager, "headers": {HEADER: CLAIM}}
    deliver(app, lambda: app.send_task("one", task_id="y"), sign(OURS, "x", KEYS[0]), embed=embed)
    assert claims(told) == {None}
    assert "customer" not in ours(sent, "y")


def test_what_never_becomes_a_task_is_not_believed(app: Celery, told: list[dict[str, Any]]) -> None:
    message = SimpleNamespace(
        headers={"id": "x", "task": "none", HEADER: OURS}, delivery_info=None, payload=[[], {}, {"chain": [step()]}]
    )
    worker.on_unknown(SimpleNamespace(app=app), message=message, name="none")
    assert [event["kind"] for event in told] == ["failed", "unsent"]
    assert told[0]["unsigned"]
    assert claims(told) == {None}
    worker.on_revoked(task_of(app), Context(message.headers), terminated=False, signum=None, expired=True)
    assert claims(told, "revoked") == {None}


def task_of(app: Celery) -> Any:
    @app.task(name="revoked", shared=False)  # type: ignore[untyped-decorator]
    def task() -> None:
        pass

    return app.tasks["revoked"]


def test_an_end_that_only_the_main_process_sees_is_not_believed(app: Celery, told: list[dict[str, Any]]) -> None:
    found = instrumentation_of(app)
    assert found is not None
    request = Context({"id": "x", HEADER: OURS})
    run.record_end(found, Kind.LOST, task_of(app), request, {}, inferred=True)  # type: ignore[typeddict-item]
    assert claims(told) == {None}


# -- what is sent


def test_all_that_is_sent_here_is_signed(app: Celery, sent: dict[str, Any]) -> None:
    with context(customer=7):
        app.send_task("one", task_id="a")
        app.send_task(CHORD_UNLOCK, task_id="b")
    app.send_task("one", task_id="c", headers={HEADER: {"customer": 8}, "mine": 1})
    token = publish._entry.set("every day")
    try:
        app.send_task("one", task_id="d", headers={HEADER: {"customer": 9}})
    finally:
        publish._entry.reset(token)
    assert [ours(sent, task_id).get("customer") for task_id in "abcd"] == [7, 7, 8, 9]
    assert sent["c"]["mine"] == 1
    assert json.loads(ours(sent, "d")["content"]) == {"periodic_task_name": "every day"}


def sends(app: Celery) -> Callable[[], None]:
    """A body that sends a task with what it has, one with a mapping, one with a context."""

    def body() -> None:
        app.send_task("one", task_id="inherits")
        app.send_task("one", task_id="mapping", headers={HEADER: {"customer": 8}})
        with context(customer=9):
            app.send_task("one", task_id="context")

    return body


def test_a_signed_task_hands_its_customer_on(app: Celery, sent: dict[str, Any], told: list[dict[str, Any]]) -> None:
    deliver(app, sends(app), sign(OURS, "x", KEYS[1]))
    assert [ours(sent, task_id).get("customer") for task_id in ("inherits", "mapping", "context")] == [7, 8, 9]


@pytest.mark.parametrize("header", [OURS, UNSIGNED, None])
def test_an_unsigned_task_speaks_for_no_customer(
    app: Celery, sent: dict[str, Any], told: list[dict[str, Any]], header: Any
) -> None:
    """A mapping may come from its message; a context cannot."""
    deliver(app, sends(app), header)
    assert [ours(sent, task_id).get("customer") for task_id in ("inherits", "mapping", "context")] == [None, None, 9]
    assert claims(told, "started", "succeeded") == {None}


def step() -> dict[str, Any]:
    """The signature of a step for a customer of its own."""
    options = {"task_id": "y", "headers": {HEADER: {"customer": 8}}}
    return {"task": "next", "args": [], "kwargs": {}, "subtask_type": None, "options": options}


BOTH = pytest.mark.parametrize(("header", "customer"), [(OURS, None), (sign(OURS, "x", KEYS[0]), 8)], ids=["no", "yes"])


@BOTH
def test_steps_of_an_unsigned_task_are_for_no_customer(
    app: Celery, sent: dict[str, Any], told: list[dict[str, Any]], header: Any, customer: int | None
) -> None:
    deliver(app, lambda: None, header, chain=[step()])
    assert ours(sent, "y").get("customer") == customer
    assert claims([event for event in told if event["id"] == "y"]) == {customer}


@BOTH
def test_steps_that_an_unsigned_task_never_sends_are_for_no_customer(
    app: Celery, told: list[dict[str, Any]], header: Any, customer: int | None
) -> None:
    def fail() -> None:
        raise ValueError

    deliver(app, fail, header, chain=[step()])
    assert claims(told, "unsent") == {customer}


@BOTH
def test_steps_that_an_unsigned_task_plans_are_for_no_customer(
    app: Celery, told: list[dict[str, Any]], header: Any, customer: int | None
) -> None:
    """The worker knows that the second step is not recorded, and its producer did not."""
    blind = sign({**OURS, "blind": True}, "x", KEYS[0]) if isinstance(header, str) else {**OURS, "blind": True}
    deliver(app, lambda: None, blind, chain=[step()])
    assert claims(told, "planned") == {customer}


@pytest.mark.parametrize(("header", "customer"), [(OURS, None), (sign(OURS, "x", KEYS[0]), 7)])
def test_a_retry_is_signed_again(
    app: Celery, sent: dict[str, Any], told: list[dict[str, Any]], header: Any, customer: int | None
) -> None:
    def again() -> None:
        raise app.tasks["body"].retry(countdown=1)

    deliver(app, again, header)
    found = ours(sent, "x")
    assert (found.get("customer"), found["created"], found["content"]) == (customer, ms(0), OURS["content"])
    assert found.keys().isdisjoint({"here", "text", "run", "delivered"})


def test_a_retry_that_the_worker_sends_for_a_killed_child_believes_no_message(
    app: Celery, sent: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"task_id": "x", "retries": 1}
    app.send_task("one", **options, headers={HEADER: OURS})
    assert ours(sent, "x")["customer"] == 7, "a process that sends tasks says what it likes"
    monkeypatch.setattr(publish, "is_worker", lambda: True)
    app.send_task("one", **options, headers={HEADER: OURS})
    assert "customer" not in ours(sent, "x")
    fields = {HEADER: sign(OURS, "x", KEYS[0])}
    settle(fields, "x", KEYS)
    app.send_task("one", **options, headers=fields)
    assert ours(sent, "x")["customer"] == 7


# -- eager


def test_eager_tasks_have_the_customer_that_is_given_here(app: Celery, told: list[dict[str, Any]]) -> None:
    task_of(app).apply(headers={HEADER: {"customer": 8}})
    with context(customer=9):
        task_of(app).apply()
    assert [event["customer"] for event in told if event["kind"] == "started"] == [8, 9]


@BOTH
def test_eager_tasks_of_an_unsigned_task_speak_for_nobody(
    app: Celery, told: list[dict[str, Any]], sent: dict[str, Any], header: Any, customer: int | None
) -> None:
    inner = task_of(app)
    deliver(app, lambda: inner.apply(task_id="y", headers={HEADER: {"customer": 8}}).state, header)
    assert claims([event for event in told if event["id"] == "y"]) == {customer}


def test_an_eager_retry_keeps_what_is_believed(app: Celery, told: list[dict[str, Any]]) -> None:
    @app.task(name="retries", shared=False, bind=True)  # type: ignore[untyped-decorator]
    def task(self: Any) -> None:
        if not self.request.retries:
            raise self.retry(countdown=0)

    app.tasks["retries"].apply(headers={HEADER: {"customer": 8}})
    assert [event["customer"] for event in told if event["kind"] == "started"] == [8, 8]


@BOTH
def test_an_eager_retry_of_an_unsigned_task_speaks_for_nobody(
    app: Celery, told: list[dict[str, Any]], sent: dict[str, Any], header: Any, customer: int | None
) -> None:
    @app.task(name="retries", shared=False, bind=True)  # type: ignore[untyped-decorator]
    def task(self: Any) -> None:
        if not self.request.retries:
            raise self.retry(countdown=0)
        app.send_task("one", task_id="child", headers={HEADER: {"customer": 8}})

    app.finalize()
    deliver(app, lambda: app.tasks["retries"].apply(task_id="y", headers={HEADER: {"customer": 8}}).state, header)
    starts = [event for event in told if (event["id"], event["kind"]) == ("y", "started")]
    assert [event.get("customer") for event in starts] == [customer] * 2
    assert ours(sent, "child").get("customer") == customer


@BOTH
def test_steps_that_an_unsigned_task_sends_on_are_for_no_customer(
    app: Celery, told: list[dict[str, Any]], sent: dict[str, Any], header: Any, customer: int | None
) -> None:
    deliver(app, lambda: app.send_task("one", task_id="z", chain=[step()]), header)
    assert claims([event for event in told if event["id"] == "y"]) == {customer}


def test_a_delivery_that_waits_is_checked_again(app: Celery, told: list[dict[str, Any]]) -> None:
    """Celery puts the fields of a body into the request when it has to say something of it."""
    found = instrumentation_of(app)
    assert found is not None
    request = Live(task_of(app), {"id": "x", HEADER: sign(OURS, "x", KEYS[0])})
    worker.on_received(request)
    worker._record_received(found, request, ms(2))
    request.request_dict[HEADER] = CLAIM
    worker._record_received(found, request, ms(2))
    assert [event.get("customer") for event in told] == [7, None]
