"""Which tasks can be rerun, and the reasons why others cannot, for rows as the payload encoder makes them."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from celery import Celery
from kombu import Connection
from kombu.exceptions import EncodeError, OperationalError

from celery_asynctask import context, install, uninstall
from celery_asynctask.capture.context import FIELDS
from celery_asynctask.capture.instrumentation import instrumentation_of
from celery_asynctask.capture.payload import Encoder
from celery_asynctask.capture.payload.names import SENSITIVE_NAMES
from celery_asynctask.capture.payload.redaction import Redaction
from celery_asynctask.core import keys
from celery_asynctask.core.fold import project
from celery_asynctask.core.reasons import Code
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.errors import AsyncTaskError
from celery_asynctask.operations.erase import ERASED
from celery_asynctask.operations.rerun import (
    Candidate,
    Options,
    assess,
    is_elsewhere,
    is_unreachable,
    link,
    prepare,
    reach_broker,
    rebuilt,
    send,
)
from celery_asynctask.present.reasons import reasons
from celery_asynctask.queries.reruns import Rerun
from celery_asynctask.settings import Settings
from celery_asynctask.store.models import AsyncTask
from tests.histories import HISTORIES, ID, NAME, fold, published

VALUES = [
    dt.datetime(2026, 1, 31, 14, 5, 6, 789, tzinfo=dt.timezone.utc),
    dt.datetime(2026, 1, 31),
    dt.date(2026, 1, 31),
    dt.time(14, 5),
    uuid.UUID("12345678123456781234567812345678"),
    Decimal("1.50"),
    b"text",
    b"\xff\x00",
    {"nested": [Decimal("0.1"), {"at": dt.date(2026, 1, 1)}]},
    [1, 2.5, None, True, "é\n"],
    2**70,
]


GIVEN, CHANGED = (
    keys.content_key(project(published()).task["order_key"], whose) for whose in (keys.GIVEN, keys.CHANGED)
)


def make_app() -> Celery:
    """An app without the tasks that apps of other tests share."""
    made = Celery("rerun", broker="memory://", set_as_current=False)
    made.finalize()
    for name in [name for name in made.tasks if not name.startswith("celery.")]:
        made.tasks.unregister(name)
    return made


@pytest.fixture
def app() -> Iterator[Celery]:
    made = make_app()

    @made.task(name=NAME, shared=False)
    def charge(amount: Any = 0, unit: Any = "", currency: str = "") -> None: ...

    yield made
    made.close()


def row(**more: Any) -> AsyncTask:
    """A task that has ended."""
    known = {
        "celery_task_id": ID,
        "name": NAME,
        "status": AsyncTaskStatus.FAILURE,
        "customer_key": "",
        "origin_key": "0",
        "content_key": "",
    }
    return AsyncTask(**{**known, "task_args": [7], "task_kwargs": {"currency": "EUR"}, **more})


def look(app: Celery, task: AsyncTask, before: Any = (), came_by: str | None = None, **options: Any) -> Candidate:
    return assess(app, task, Options(**options), before, came_by)


def refusal(app: Celery, task: AsyncTask, **options: Any) -> str:
    return "; ".join(reasons(look(app, task, **options).refusals, {"unfinished": "--unfinished does"}))


def test_what_is_sent(app: Celery) -> None:
    found = look(app, row())
    assert (found.args, found.kwargs, found.queue) == ([7], {"currency": "EUR"}, "celery")
    assert (found.refusals, found.remarks) == ([], [])
    assert look(app, row(), queue="slow").queue == "slow"
    app.conf.task_routes = {NAME: {"queue": "money"}}
    assert look(app, row(), came_by="money").queue == "celery", "the router was made before"


def test_values_come_back_as_celery_would_deliver_them() -> None:
    args, kwargs = Encoder().arguments(VALUES, {"value": VALUES[0]})
    found = rebuilt(args)
    assert found == VALUES
    assert [type(one) for one in found] == [type(one) for one in VALUES]
    assert rebuilt(kwargs) == {"value": VALUES[0]}


def test_an_envelope_that_kombu_does_not_know(app: Celery) -> None:
    told = refusal(app, row(task_args=[{"__type__": "money", "__value__": "1"}]))
    assert told.startswith("its arguments cannot be read back: ValueError")
    assert "cannot be read back" in refusal(app, row(task_args=[{"__type__": "uuid", "__value__": 7}]))


@pytest.mark.parametrize(
    ("args", "kwargs", "told"),
    [
        ((), {"password": "x"}, "its kwargs are incomplete: password is redacted"),
        ((["see mail of ada", {"api key": "x"}],), {}, "its args are incomplete: 0.1.api key is redacted"),
        (("x" * 400,), {}, "its args are incomplete: 0 is cut"),
        ((list(range(2000)),), {}, "its args are incomplete: 0 is cut: list of 2,000 items"),
        ((), {"a": dict.fromkeys(map(str, range(999)))}, "its kwargs are incomplete: a is cut: dict of 999 items"),
        (({1, 2},), {}, "its args are incomplete: 0 is of type set, which JSON does not have"),
        ((object(),), {}, "0 is of type object, not looked into"),
        ((), {"path": PurePosixPath("/x")}, "path is of type pathlib"),
        (("a\0b",), {}, "0 is stored with characters replaced"),
        (({(1, 2): 3},), {}, "0 is stored with other keys"),
        (({"$asynctask": 1},), {}, "0.$$asynctask has a key like our own"),
        ((float("nan"),), {}, "0 is of type float, which JSON does not have"),
    ],
)
def test_arguments_that_are_not_whole(app: Celery, args: Any, kwargs: Any, told: str) -> None:
    encoder = Encoder(256, Redaction(SENSITIVE_NAMES, None, lambda _exc: None))
    stored_args, stored_kwargs = encoder.arguments(args, kwargs)
    task = row(task_args=stored_args, task_kwargs=stored_kwargs)
    assert told in refusal(app, task)
    [untold] = reasons(assess(app, task, Options(), (), None, values=False).refusals)
    assert untold in ("its args are incomplete", "its kwargs are incomplete")


def test_arguments_that_were_erased(app: Celery) -> None:
    told = refusal(app, row(task_args=ERASED, task_kwargs=ERASED))
    assert told == "its args are incomplete: all of it is erased; its kwargs are incomplete: all of it is erased"


def test_arguments_that_were_not_recorded(app: Celery) -> None:
    assert refusal(app, row(task_args=None)) == "its args were not recorded"
    assert refusal(app, row(task_kwargs=None)) == "its kwargs were not recorded"
    assert refusal(app, row(task_args={"a": 1})) == "its args are not a list"


def test_the_message(app: Celery) -> None:
    """To the requested queue, even if the app does not know the task."""
    stored, _ = Encoder().arguments([Decimal("1.50")], {})
    for name in (NAME, "shop.renamed"):
        one = look(app, row(name=name, task_args=stored), force_name=True)
        new = send(app, one, "Grace", "slow")
        with app.connection() as connection, connection.SimpleQueue("slow") as queue:
            message = queue.get_nowait()
            message.ack()
        assert (message.headers["id"], message.headers["task"]) == (new, name)
        assert message.payload[:2] == [[Decimal("1.50")], {"currency": "EUR"}]


def test_a_caller_passes_nothing_on_to_it(tmp_path: Path) -> None:
    """The new execution has the original's customer and creator, or none: not those of the request or the task around
    it."""
    app = make_app()
    app.conf.update(
        asynctask_url=f"sqlite:///{tmp_path / 'rows.db'}",
        asynctask_journal_dir=tmp_path / "journal",
        asynctask_context=lambda: {"customer": 8, "created_by": 8, "created_by_name": "Eve", "content": {"a": 8}},
    )
    install(app)
    asks: dict[str, Any] = {"customer": 7, "created_by": 7, "created_by_name": "Eve", "content": {"a": 7}}

    @app.task(name="asks", shared=False)
    def ask(task: AsyncTask) -> None:
        send(app, look(app, task), "Grace", "slow")

    def header() -> Any:
        with app.connection() as connection, connection.SimpleQueue("slow") as queue:
            message = queue.get_nowait()
            message.ack()
        found = message.headers["asynctask"]
        return {name: found[name] for name in found.keys() & set(FIELDS)}

    link = json.dumps({"rerun_of": ID, "rerun_by": "Grace"})
    try:
        whoses: list[dict[str, Any]] = [
            {},
            {"customer": 3},
            {"customer": "acme", "created_by": "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d"},
            {"created_by": 4},
        ]
        for whose in whoses:
            keys = {f"{name}_key": str(value) for name, value in whose.items()}
            task = row(name="shop.renamed", **keys)
            send(app, look(app, task, force_name=True), "Grace", "slow")
            assert header() == {**whose, "content": link}, "what asynctask_context says"
            with context(**asks):
                send(app, look(app, task, force_name=True), "Grace", "slow")
            assert header() == {**whose, "content": link}, "what is said around it"
        with context(**asks):
            ask.apply((row(name="asks", task_kwargs={}),), throw=True)
        assert header() == {"content": link}, "whom the running task is for"
        app.send_task("shop.renamed", queue="slow")
        assert header()["customer"] == 8, "it ends with the rerun"
    finally:
        uninstall(app)
        app.close()


@pytest.mark.parametrize("name", sorted(HISTORIES))
def test_every_history(app: Celery, name: str) -> None:
    """A task that ended and was sent can be rerun; one that was planned and never sent cannot."""
    found = fold(HISTORIES[name]()).task
    task = row(status=AsyncTaskStatus(found["status"]), origin_key=found["origin_key"])
    told = refusal(app, task)
    if name in ("never_sent", "body_of_failed_chord"):
        assert "never sent" in told
    elif found["completed_at"] is None:
        assert told == f"it is still {found['status']} (--unfinished does)"
        assert refusal(app, task, unfinished=True) == ""
        assert "its work is done twice" in reasons(look(app, task, unfinished=True).remarks)[0]
    else:
        assert told == ""


@pytest.mark.parametrize("key", ["", "x", "é"])
def test_a_key_that_the_recorder_did_not_write(app: Celery, key: str) -> None:
    task = row(status=AsyncTaskStatus.SUCCESS, origin_key=key, content_key=key, content={"order": 1})
    assert refusal(app, task) == ""
    assert look(app, task).content == {"order": 1}


def test_a_planned_step_is_not_sent_however_much_one_wants(app: Celery) -> None:
    planned = project(HISTORIES["planned_and_run"]()[0]).task
    task = row(status=AsyncTaskStatus.PENDING, origin_key=planned["origin_key"])
    assert "never sent" in refusal(app, task, unfinished=True)


def test_args_that_only_a_worker_can_say(app: Celery) -> None:
    """The producer does not know the task, and so not what of them is not to be recorded."""
    blind = project(published(blind=True)).task
    task = row(status=AsyncTaskStatus.PENDING, origin_key=blind["origin_key"], task_args=None, task_kwargs=None)
    for name in ("args", "kwargs"):
        assert (
            f"its {name} are not known yet: the process that sent it does not know the task, and no worker has said "
            "them" in refusal(app, task, unfinished=True)
        )
    seen = project(published()).task
    assert "its args were not recorded" in refusal(app, row(origin_key=seen["origin_key"], task_args=None))


def test_a_lost_task_may_be_done_twice(app: Celery) -> None:
    assert "it is LOST: if it still runs" in reasons(look(app, row(status=AsyncTaskStatus.LOST)).remarks)[0]


def test_a_name_that_the_app_does_not_know(app: Celery) -> None:
    unknown = row(name="shop.renamed")
    assert "this app has no task of that name" in refusal(app, unknown)
    forced = look(app, unknown, force_name=True)
    assert (forced.refusals, len(forced.remarks)) == ([], 1)
    sender = make_app()
    found = look(sender, unknown)
    assert (found.refusals, "are not checked" in reasons(found.remarks)[0]) == ([], True)
    sender.close()


def test_arguments_that_do_not_fit_any_more(app: Celery) -> None:
    assert "do not fit the task's present signature" in refusal(app, row(task_kwargs={"removed": 1}))
    assert "do not fit the task's present signature" in refusal(app, row(task_args=[1, 2, 3, 4]))


def test_an_earlier_rerun_is_a_reason(app: Celery) -> None:
    at = dt.datetime(2026, 1, 31, tzinfo=dt.timezone.utc)
    before = [Rerun("new-2", at), Rerun("new-1", at)]
    [told] = reasons(look(app, row(), before).refusals)
    assert told == "it was already rerun 2 times, last as new-2"
    found = look(app, row(), before[1:], again=True)
    assert (found.refusals, reasons(found.remarks)) == ([], ["it was already rerun once, last as new-1"])


def test_which_way_it_came(app: Celery) -> None:
    assert look(app, row(), came_by="celery").remarks == []
    assert reasons(look(app, row(), came_by="slow").remarks) == ["its last attempt had the routing key slow"]
    assert look(app, row(), came_by="slow", queue="slow").remarks == []


def test_a_queue_that_is_not_there(app: Celery) -> None:
    app.conf.task_create_missing_queues = False
    assert "it cannot be routed" in refusal(app, row(), queue="nowhere")


def test_content(app: Celery) -> None:
    """The given content is given again, except the facts about how it came to be sent."""
    given = {"order": 17, "rerun_of": "x", "rerun_by": "y", "periodic_task_name": "z"}
    assert look(app, row(content=given, content_key=GIVEN)).content == {"order": 17}
    for content, key, told in (
        (given, CHANGED, "an attempt changed it"),
        ({"order": {"$asynctask": "redacted"}}, GIVEN, "it is incomplete"),
        ({"order": "x" * 16_300}, GIVEN, "it is too long"),
    ):
        found = look(app, row(content=content, content_key=key))
        assert (found.content, reasons(found.remarks)) == ({}, [f"its content is not passed on: {told}"])
    assert look(app, row(content=None)).content == {}


def test_the_link_is_sent_however_much_else_is(tmp_path: Path) -> None:
    app = make_app()
    app.conf.update(
        asynctask_url=f"sqlite:///{tmp_path / 'rows.db'}",
        asynctask_journal_dir=tmp_path / "journal",
        asynctask_max_value_bytes=256,
    )
    install(app)
    try:
        task = row(content={"order": "x" * 200, "lines": [17] * 900}, content_key="0a")
        send(app, look(app, task, force_name=True), "Grace", "slow")
        with app.connection() as connection, connection.SimpleQueue("slow") as queue:
            message = queue.get_nowait()
            message.ack()
    finally:
        uninstall(app)
        app.close()
    content = json.loads(message.headers["asynctask"]["content"])
    assert (content["rerun_of"], content["rerun_by"]) == (ID, "Grace")


def test_the_link_is_sent_where_only_some_tasks_are_recorded(app: Celery, tmp_path: Path) -> None:
    """From then on, nothing else of that app is recorded for it: others record the task."""
    app.conf.update(asynctask_url=f"sqlite:///{tmp_path / 'rows.db'}", asynctask_journal_dir=tmp_path / "journal")
    install(app, whole_app=False)
    instrumentation = instrumentation_of(app)
    try:
        link(app)
        assert instrumentation is not None
        assert not instrumentation.records(NAME)
        send(app, look(app, row(customer_key="3")), "Grace", "slow")
        with app.connection() as connection, connection.SimpleQueue("slow") as queue:
            message = queue.get_nowait()
            message.ack()
    finally:
        uninstall(app)
    header = message.headers["asynctask"]
    assert (json.loads(header["content"]), header["customer"]) == ({"rerun_of": ID, "rerun_by": "Grace"}, 3)


def backend_error(app: Celery) -> Exception:
    """As Celery's Redis backend raises it if Redis is away."""
    app.conf.result_backend = "redis://127.0.0.1:9/0"
    [kind, *_] = app.backend.connection_errors
    made = RuntimeError("Retry limit exceeded")
    made.__cause__ = kind("away")
    return made


def test_what_says_that_something_is_away(app: Celery) -> None:
    for exc in (ConnectionRefusedError(), TimeoutError(), OperationalError("away"), backend_error(app)):
        assert is_unreachable(app, exc), repr(exc)
    for exc in (EncodeError("no JSON"), TypeError("away"), RuntimeError("away"), AsyncTaskError("away")):
        assert not is_unreachable(app, exc), repr(exc)


def test_the_options_of_a_broker_are_not_all_shown(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of kombu's transports leave them in the URL."""
    monkeypatch.setattr(Connection, "as_uri", lambda _: "mongodb://h/d?tls=true&tlsCertificateKeyFilePassword=secret")
    monkeypatch.setattr(Connection, "ensure_connection", lambda *_, **__: 1 / 0)
    with pytest.raises(AsyncTaskError, match=r"mongodb://h/d\?tls=true&tlsCertificateKeyFilePassword=\*\*\* cannot"):
        reach_broker(app)


def test_an_app_that_would_run_it_here(app: Celery) -> None:
    app.conf.task_always_eager = True
    with pytest.raises(AsyncTaskError, match="task_always_eager"):
        prepare(app)


def test_an_app_that_cannot_be_loaded(app: Celery) -> None:
    app.conf.imports = ["nowhere_at_all"]
    with pytest.raises(AsyncTaskError, match="No module named 'nowhere_at_all'"):
        prepare(app)


def test_a_task_of_elsewhere(app: Celery) -> None:
    refused = assess(app, row(), Options(), (), None, elsewhere=True)
    assert [(one.code, one.remedy) for one in refused.refusals] == [(Code.ELSEWHERE, "from_elsewhere")]
    wanted = assess(app, row(), Options(from_elsewhere=True), (), None, elsewhere=True)
    assert not wanted.refusals
    assert Code.ELSEWHERE in [one.code for one in wanted.remarks]


@pytest.mark.parametrize(
    ("url", "elsewhere"),
    [
        ("sqlite:///rows.db", False),
        ("sqlite:///./rows.db?timeout=3", False),
        ("sqlite:///incident.db", True),
        ("sqlite:///:memory:", True),
        ("postgresql://h/shop", True),
    ],
)
def test_which_record_is_another_one(app: Celery, url: str, elsewhere: bool) -> None:
    app.conf.asynctask_url = "sqlite:///rows.db"
    assert is_elsewhere(app, Settings.from_app(app).at(url)) is elsewhere
    app.conf.asynctask_url = "postgresql://worker:secret@h:5432/shop"
    assert is_elsewhere(app, Settings.from_app(app).at("postgresql+psycopg://reader@h/shop")) is False
