"""Behavior of Celery, kombu and billiard that we rely on without a promise: the installed releases still have it."""

from __future__ import annotations

import datetime as dt
import importlib.util
import subprocess
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import billiard
import celery
import pytest
from billiard.einfo import ExceptionInfo
from celery import Celery, Task, _state, signals
from celery.app import trace, utils
from celery.app.amqp import AMQP
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.beat import Scheduler, Service
from celery.bin.base import LOG_LEVEL
from celery.concurrency import get_implementation
from celery.exceptions import WorkerLostError
from celery.loaders.base import BaseLoader
from celery.worker import control, state
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from kombu.exceptions import DecodeError
from kombu.utils import json
from sqlalchemy.engine import make_url

import celery_asynctask
from celery_asynctask.capture import celery_private
from celery_asynctask.capture.celery_private import hide_settings
from celery_asynctask.capture.install import attach
from celery_asynctask.core.censor import censored
from celery_asynctask.settings import Settings

PACKAGE = Path(celery_asynctask.__file__).parent
SINCE_5_7 = celery.VERSION[:2] >= (5, 7)


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("contract", broker="memory://", backend="cache+memory://", set_as_current=False)
    made.conf.update(task_default_queue=f"contract-{uuid.uuid4().hex}")
    yield made
    made.close()


def task_of(app: Celery, function: Callable[..., Any] = lambda: None, **options: Any) -> Any:
    function.__name__ = "body"  # Celery compiles a function of that name
    made = app.task(name=f"contract.{uuid.uuid4().hex}", shared=False, **options)(function)
    app.finalize()
    return app.tasks[made.name]


def received(app: Celery, task: Any, *args: Any) -> Request:
    """A worker's Request for a message that was really sent."""
    task.apply_async(args)
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(app.amqp.default_queue)
        try:
            message = queue.get(timeout=5)
        finally:
            queue.close()
        message.ack()
    return Request(message, app=app, task=task, hostname="here", on_ack=lambda *_: None)


@contextmanager
def renamed(module: ModuleType, name: str) -> Iterator[Any]:
    """Our module, as if another module lacked the name."""
    spec = importlib.util.spec_from_file_location("celery_private_without", celery_private.__file__)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(module, name)
        spec.loader.exec_module(made)
    yield made


# -- the running task


def test_the_current_task(app: Celery) -> None:
    seen: list[Any] = []
    task = task_of(app, lambda: seen.append(celery_private.get_current_task()))
    task.apply()
    assert celery_private.get_current_task is _state.get_current_task  # no call in between
    assert (seen, celery_private.get_current_task()) == ([task], None)


def test_the_current_task_by_what_is_public(app: Celery) -> None:
    seen: list[Any] = []
    with renamed(_state, "get_current_task") as ours:
        task = task_of(app, lambda: seen.append(ours.get_current_task().name))
        task.apply()
        assert (seen, ours.get_current_task()) == ([task.name], None)


def test_what_runs_here(app: Celery) -> None:
    """On Celery's stacks, a task may be there twice, and a direct call with a copy of the request below it."""
    seen: list[Any] = []

    def look() -> None:
        seen.extend(celery_private.executions_here())
        seen.append([request.id for request in outer.request_stack.stack])

    inner = task_of(app, look)
    between = task_of(app, lambda: (outer(0), inner()))
    outer = task_of(app, lambda depth: outer(depth - 1) if depth > 1 else depth and between.apply(task_id="between"))
    outer.apply((2,), task_id="outer")
    *executions, ids = seen
    assert [(task, request.id, list(request.args)) for task, request in executions] == [
        (between, "between", []),
        (outer, "outer", [2]),
    ]
    assert ids == ["outer", "outer"]
    assert list(celery_private.executions_here()) == []


def test_no_stack() -> None:
    with renamed(_state, "_task_stack") as ours:
        assert list(ours.executions_here()) == []
        assert [one.name for one in ours.missing(Celery(set_as_current=False))] == ["celery._state._task_stack.stack"]


def test_a_worker_that_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (state.should_stop, state.should_terminate) == (None, None)
    assert not celery_private.is_stopping()
    for name in ("should_stop", "should_terminate"):
        for value, stops in ((0, True), (1, True), (False, False)):
            with monkeypatch.context() as patch:
                patch.setattr(state, name, value)
                assert celery_private.is_stopping() is stops
    monkeypatch.delitem(sys.modules, "celery.worker.state")
    assert not celery_private.is_stopping()


def test_a_strategy_of_a_task_s_own(app: Celery) -> None:
    class Collecting(Task):
        def Strategy(self, *_: Any) -> None: ...

    assert not celery_private.has_own_strategy(task_of(app))
    assert celery_private.has_own_strategy(task_of(app, base=Collecting))
    assert not celery_private.has_own_strategy(object())


def test_tracers_that_are_not_celery_s(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("prefork", "solo", "threads"):
        assert not celery_private.has_own_tracer(object.__new__(get_implementation(name)))
    assert celery_private.has_own_tracer(object())
    monkeypatch.setattr(trace, "build_tracer", lambda *_: None)
    assert celery_private.has_own_tracer(object.__new__(get_implementation("solo")))
    monkeypatch.delattr(trace, "build_tracer")
    assert not celery_private.has_own_tracer(object.__new__(get_implementation("solo")))


def test_a_request_of_a_task_has_a_dict() -> None:
    """It has the given options, without defaults, and keeps others that are left in it."""
    given = {"id": "abc", "asynctask": {"run": "x"}}
    request = Context(given, args=(1,))
    assert request.__dict__.items() >= {**given, "args": (1,)}.items()
    assert request.__dict__.keys() <= {*given, "args", "headers"}
    request.__dict__["asynctask_start"] = b"{}"
    assert request.asynctask_start == b"{}"
    assert (request.retries, request.is_eager, request.replaced_task_nesting) == (0, False, 0)


# -- publishing


def test_with_closes_an_app_by_what_it_has_under_that_name(app: Celery) -> None:
    closed: list[str] = []
    with app:
        app.__dict__["close"] = lambda: closed.append("ours")
    del app.__dict__["close"]
    assert closed == ["ours"]


def test_an_app_makes_its_amqp_on_first_use_of_what_its_class_names(app: Celery) -> None:
    assert celery_private.amqp_of(app) is None
    named = celery_private.amqp_class(app)
    assert named == "celery.app.amqp:AMQP"
    made: list[Any] = []

    def maker(app: Celery) -> Any:
        made.append(AMQP(app))
        return made[0]

    app.amqp_cls = maker
    assert not app.configured  # nothing up to here has read the configuration
    assert [app.amqp, app.amqp] == made * 2
    assert celery_private.amqp_of(app) is made[0]


@pytest.mark.parametrize("protocol", [1, 2])
def test_every_publish_calls_what_stands_in_the_dict(app: Celery, protocol: int) -> None:
    app.conf.task_protocol = protocol
    calls: list[Any] = []
    assert celery_private.sends_messages(app.amqp)

    def stand_in(producer: Any, name: str, message: Any, **options: Any) -> Any:
        calls.append((name, message, options))
        return celery_private.own_send_task_message(app.amqp)(producer, name, message, **options)

    app.amqp.__dict__[celery_private.SEND_TASK_MESSAGE] = stand_in
    app.send_task("by.name", (1, 2), {"a": 3}, task_id="one", headers={"mine": 1})
    task_of(app).apply_async(task_id="two")
    [(name, message, options), (_, second, _)] = calls
    headers, _properties, body, _sent_event = message
    about = message.headers if protocol == 2 else message.body
    assert (name, about["id"], about["task"], about["retries"]) == ("by.name", "one", "by.name", 0)
    assert (second.headers if protocol == 2 else second.body)["id"] == "two"
    if protocol == 2:
        args, kwargs, embed = body
        assert (args, kwargs) == ((1, 2), {"a": 3})
        assert embed.keys() >= {"chain", "chord", "callbacks"}
    else:
        assert (body["args"], body["kwargs"], body["callbacks"], body["chord"]) == ((1, 2), {"a": 3}, None, None)
    assert headers is message.headers
    assert options["headers"]["mine"] == 1  # merged into the message's when it is sent
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(app.amqp.default_queue)
        sent = queue.get(timeout=5)
        sent.ack()
        queue.close()
    assert sent.headers["mine"] == 1


def test_celery_s_own_sender_is_created_again_on_access(app: Celery) -> None:
    """A cached property: a value in its place can be removed from the dict again."""
    app.amqp.__dict__[celery_private.SEND_TASK_MESSAGE] = theirs = object()
    assert app.amqp.send_task_message is theirs
    del app.amqp.__dict__[celery_private.SEND_TASK_MESSAGE]
    assert app.amqp.send_task_message is app.amqp.__dict__[celery_private.SEND_TASK_MESSAGE]


# -- runs


def test_the_loader_is_called_last_before_the_body(app: Celery) -> None:
    """The tracer looks it up when it is built."""
    calls: list[str] = []
    task = task_of(app, lambda: calls.append("body"))

    def prerun(**_: Any) -> None:
        calls.append("prerun")

    def run() -> list[str]:
        calls.clear()
        task.__trace__("one", (), {}, {"id": "one"})
        return [*calls]

    def hook(task_id: str, traced: Any) -> None:
        assert traced is task
        assert (task_id, traced.request.id) == ("one", "one")
        assert celery_private.get_current_task() is task
        calls.append("hook")

    own = celery_private.on_task_init_of(app)
    assert own.__func__ is BaseLoader.on_task_init
    task.__trace__ = build_tracer(task.name, task, app.loader, app=app)
    app.loader.__dict__[celery_private.ON_TASK_INIT] = hook
    signals.task_prerun.connect(prerun, sender=task)
    try:
        assert run() == ["prerun", "body"]
        celery_private.build_tracers_again(app)
        assert run() == ["prerun", "hook", "body"]
        del app.loader.__dict__[celery_private.ON_TASK_INIT]
        celery_private.build_tracers_again(app)
        assert run() == ["prerun", "body"]
    finally:
        signals.task_prerun.disconnect(prerun, sender=task)


def test_tasks_are_known_before_the_app_is_finalized(app: Celery) -> None:
    tasks = celery_private.registered_tasks(app)
    task = app.task(shared=False)(_exit_with_what_it_is)
    assert task.name in tasks
    assert not app.finalized
    assert celery_private.registered_tasks(app) is app.tasks  # which finalizes it


def test_the_tasks_by_what_is_public(app: Celery) -> None:
    class Hidden:
        tasks = app.tasks

    made: Any = Hidden()
    assert celery_private.registered_tasks(made) is app.tasks


def test_a_task_class_is_bound_before_its_tasks_can_be_sent(app: Celery) -> None:
    """And looks ``bound`` up before ``on_bound``: that would be too late for us."""
    calls: list[tuple[str, bool]] = []

    class Own(Task):
        abstract = True

        @classmethod
        def bind(cls, app: Celery) -> Any:
            calls.append(("bind", cls.__bound__))
            return super().bind(app)

        @classmethod
        def on_bound(cls, app: Celery) -> None:
            calls.append(("on_bound", cls.__bound__))

    def body() -> None: ...

    lazily = app.task(base=Own, shared=False, name="own")(body)
    assert calls == []
    _ = lazily.name
    assert calls == [("bind", False), ("on_bound", True)]
    assert issubclass(app.Task, Task)


def test_an_app_says_whether_it_has_read_its_configuration(app: Celery) -> None:
    assert celery_private.is_configured(app) is False
    _ = app.conf.task_default_queue
    assert celery_private.is_configured(app) is True


def test_only_a_child_of_billiard_s_has_a_parent() -> None:
    assert celery_private.is_pool_child() is False
    child = billiard.get_context("fork").Process(target=_exit_with_what_it_is)
    child.start()
    child.join()
    assert child.exitcode == 3


def _exit_with_what_it_is() -> None:
    import os

    os._exit(3 if celery_private.is_pool_child() else 4)


# -- a worker's main process


def test_what_a_worker_s_request_says_of_itself(app: Celery) -> None:
    request = received(app, task_of(app))
    assert celery_private.still_waits(request)
    assert not celery_private.is_acknowledged(request)
    request.on_accepted(1, 0.0)
    assert request.time_start is not None
    assert not celery_private.still_waits(request)
    request.acknowledge()
    assert celery_private.is_acknowledged(request)


def test_a_request_that_is_acknowledged_or_revoked_waits_no_more(app: Celery) -> None:
    acknowledged, revoked = (received(app, task_of(app)) for _ in range(2))
    acknowledged.acknowledge()
    assert not celery_private.still_waits(acknowledged)
    state.revoked.add(revoked.id)
    try:
        assert revoked.revoked() is True
    finally:
        state.revoked.pop_value(revoked.id)
    assert revoked._already_revoked is True
    revoked.acknowledged = False
    assert not celery_private.still_waits(revoked)


def test_a_child_is_sent_what_was_put_into_the_request(app: Celery) -> None:
    """The dict is live: a context made later has it as well, and is made once."""
    request = received(app, task_of(app, lambda one: None), 1)
    request.request_dict["asynctask"] = {"run": "token"}
    sent: list[Any] = []

    class Pool:
        def apply_async(self, _function: Any, args: Any, **_: Any) -> Any:
            sent.append(args)
            return lambda: None

    request.execute_using_pool(Pool())
    [(_name, task_id, request_dict, *_)] = sent
    assert (task_id, request_dict["asynctask"]) == (request.id, {"run": "token"})
    context = celery_private.context_of(request)
    assert type(context) is Context
    assert (context.id, context.asynctask) == (request.id, {"run": "token"})
    assert celery_private.context_of(request) is context


def test_requests_without_these_names() -> None:
    """As in a Celery that has renamed everything: each function still has an answer."""
    request = object()
    assert celery_private.still_waits(request) is True
    assert celery_private.is_acknowledged(request) is False
    assert celery_private.context_of(request) is None
    assert celery_private.started_at(request) is None


def test_a_result_that_a_lost_child_has_stored(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    if not SINCE_5_7:
        celery_private.hook_stored_results(lambda *_: None)
        assert not hasattr(Request, "_success_was_stored")
        return
    monkeypatch.setattr(Request, "_success_was_stored", Request._success_was_stored)
    for _ in range(2):  # the second one finds the first
        celery_private.hook_stored_results(lambda request, stored: calls.append((request, stored)))
    task = task_of(app, acks_late=True, reject_on_worker_lost=False)
    lost, kept = received(app, task), received(app, task)
    app.backend.store_result(kept.id, 7, "SUCCESS")
    for request in (lost, kept):
        with pytest.raises(WorkerLostError) as killed:
            raise WorkerLostError("killed")
        request.on_failure(ExceptionInfo((killed.type, killed.value, killed.tb)))
    [(request, stored)] = calls
    assert (request, stored["status"], stored["result"]) == (kept, "SUCCESS", 7)
    assert {"date_done"} <= stored.keys()


def test_a_consumer_looks_up_what_hears_of_bodies_it_cannot_decode(app: Celery) -> None:
    """For every message, on itself; its own method acknowledges the message, and is called as well."""
    calls: list[Any] = []
    consumer = object.__new__(Consumer)
    consumer.strategies, consumer.on_task_message = {}, set()
    handle = consumer.create_task_handler()
    celery_private.hook_decode_errors(consumer, lambda message, exc: calls.append((message.body, exc)))
    with app.connection_for_write() as connection:
        queue = app.amqp.default_queue(connection.default_channel)
        queue.declare()
        producer = connection.Producer()
        producer.publish(
            b"{broken", content_type="application/json", content_encoding="utf-8", routing_key=queue.routing_key
        )
        handle(message := queue.get())
        assert message.acknowledged
    [(body, exc)] = calls
    assert body in (b"{broken", "{broken")
    assert isinstance(exc, DecodeError)
    celery_private.hook_decode_errors(object(), lambda *_: None)  # one without the method


def test_beat_sends_an_entry_by_what_stands_on_its_scheduler(app: Celery) -> None:
    app.conf.beat_schedule = {"nightly": {"task": "clean", "schedule": dt.timedelta(0)}}
    service = Service(app, scheduler_cls=Scheduler)
    calls: list[str] = []

    def around(send: Callable[..., Any]) -> Callable[..., Any]:
        def apply_async(entry: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(entry.name)
            return send(entry, *args, **kwargs)

        return apply_async

    celery_private.hook_entries(service, around)
    service.scheduler.tick()
    assert calls == ["nightly"]
    celery_private.hook_entries(object(), around)  # a service without a scheduler


# -- reruns


def test_a_task_s_own_options(app: Celery) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in 5.7: without effect from 6.0 on
        task = task_of(app, queue="high", time_limit=5)
    options = celery_private.options_of_task(task)
    assert (options["queue"], options["time_limit"]) == ("high", 5)
    options["queue"] = "mine"
    assert celery_private.options_of_task(task)["queue"] == "high"
    assert celery_private.options_of_task(object()) == {}


def test_celery_s_check_of_arguments(app: Celery) -> None:
    check = celery_private.argument_check(task_of(app, lambda one, two=2: None))
    assert check is not None
    check(1)
    with pytest.raises(TypeError, match="one"):
        check()
    assert celery_private.argument_check(task_of(app, typing=False)) is None
    assert celery_private.argument_check(object()) is None


def test_where_a_task_would_be_sent(app: Celery) -> None:
    app.conf.task_routes = {"shop.*": {"queue": "shop"}}
    routed = celery_private.route(app, {"priority": 3}, "shop.charge", (1,), {}, None)
    assert (routed["queue"].name, routed["queue"].routing_key, routed["priority"]) == ("shop", "shop", 3)
    default = celery_private.route(app, {}, "other", (), {}, None)
    assert default["queue"].name == app.conf.task_default_queue


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime(2026, 1, 2, 3, 4, 5, 6, dt.timezone.utc),
        dt.date(2026, 1, 2),
        uuid.UUID("7b1f22f4-6a5a-4a4c-9c7e-5a0f0b2f3c4d"),
        Decimal("1.10"),
        b"\xff",
    ],
)
def test_what_json_does_not_have_comes_in_envelopes(value: Any) -> None:
    sent = json.dumps([value])
    assert celery_private.read_envelopes(sent) == [value]
    assert sent.startswith('[{"__type__":')
    assert '"__value__":' in sent


# -- behavior that others rely on as well


def test_the_configuration_has_keys_as_they_were_written() -> None:
    """And finds their values by their plain names."""
    app = Celery("layers", set_as_current=False)
    app.config_from_object({"CELERY_TASK_DEFAULT_QUEUE": "x", "CELERY_ASYNCTASK_FLUSH_INTERVAL": 7}, namespace="CELERY")
    assert "CELERY_ASYNCTASK_FLUSH_INTERVAL" in app.conf.keys()  # noqa: SIM118 - it is read as `settings` does
    assert app.conf.prefix == "CELERY_"
    assert app.conf["asynctask_flush_interval"] == 7
    assert Settings.from_app(app).flush_interval == 7
    other = Celery(set_as_current=False)
    assert other.conf.keys()
    assert other.conf.prefix in (None, "")
    app.close()


def test_celery_s_log_level_is_an_option_s_type() -> None:
    assert LOG_LEVEL.convert("warning", None, None) == 30


# -- what other tools show


SECRET = "hunter2"


@pytest.mark.parametrize("namespace", ["", "CELERY"])
def test_other_tools_do_not_show_our_secrets(namespace: str) -> None:
    """`celery report`, and `celery inspect conf`, whose answer Flower shows."""
    made = Celery("shown", broker=f"redis://:{SECRET}@h/0", set_as_current=False)
    prefix = f"{namespace}_ASYNCTASK" if namespace else "asynctask"
    values = {
        "url": f"postgresql+psycopg://shop:{SECRET}@h/d?sslmode=require&sslpassword={SECRET}",
        "urll": make_url(f"postgresql://shop:{SECRET}@h/d"),
        "engine_options": {"connect_args": {"conninfo": f"host=h user=shop pw={SECRET}"}},
        "tokens": {"support": {"sha256": SECRET, "customers": "*", "rights": []}},
        "trace_url": f"https://traces/{{trace_id}}?api_key={SECRET}",
        "links": {"Logs": f"https://logs/?q={{task_id}}&token={SECRET}"},
        "batch_size": 17,
        "retention": {"status:SUCCESS": "30d"},
    }
    conf = SimpleNamespace(**{f"{prefix}_{name.upper() if namespace else name}": one for name, one in values.items()})
    made.config_from_object(conf, namespace=namespace or None)
    attach(made, whole_app=False)
    shown = [made.bugreport(), made.conf.humanize(), control.conf(SimpleNamespace(app=made)), made.conf.table()]
    celery_asynctask.uninstall(made)
    made.close()
    for one in map(str, shown):
        assert SECRET not in one
        assert "postgresql+psycopg://shop:***@h/d?sslmode=require&sslpassword=***" in one
        assert "17" in one
        assert "30d" in one
    assert made.conf.table(censored=False)[next(iter(vars(conf)))] == values["url"], "the setting itself is unchanged"


def test_a_text_that_is_no_url_is_hidden_if_it_looks_like_one() -> None:
    assert censored({"asynctask_url": f"postgresql://u:{SECRET}@h:port/d", 5: 6}) == {"asynctask_url": "********", 5: 6}


@pytest.mark.parametrize("prefix", ["asynctask_", "CELERY_ASYNCTASK_"])
def test_a_value_of_the_wrong_form_is_hidden(prefix: str) -> None:
    wrong = {
        "url": f"shop:{SECRET}@h/d",
        "trace_url": f"shop:{SECRET}@traces/{{trace_id}}",
        "engine_options": [("password", SECRET)],
        "tokens": f"x://{SECRET}",
        "token": [{"sha256": SECRET}],
    }
    assert set(censored({f"{prefix}{name}": value for name, value in wrong.items()}).values()) == {"********"}
    right = {f"{prefix}{name}": value for name, value in {"url": None, "batch_size": "17", "include": ["a.*"]}.items()}
    assert censored({**right, "other": [SECRET]}) == {**right, "other": [SECRET]}


def test_what_hides_our_settings_is_put_there_once() -> None:
    hide_settings(censored)
    once = utils.filter_hidden_settings
    hide_settings(censored)
    assert utils.filter_hidden_settings is once


def test_a_celery_that_hides_in_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(utils, "filter_hidden_settings")
    hide_settings(censored)
    assert not hasattr(utils, "filter_hidden_settings")


def test_it_is_hidden_where_only_the_command_line_is_loaded(tmp_path: Path) -> None:
    """As by `celery report` of an app that nothing has used yet."""
    source = (
        'from celery import Celery\napp = Celery("proj", task_cls="celery_asynctask:RecordedTask")\n'
        f'app.conf.asynctask_url = "postgresql://shop:{SECRET}@h/d"\n'
    )
    (tmp_path / "proj.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "celery", "-A", "proj", "report"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, encoding="utf-8")
    assert "postgresql://shop:***@h/d" in done.stdout
