"""Whatever a message says: its task runs, and every event of it is made and stored, under its id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple
from unittest import mock
from warnings import catch_warnings, simplefilter

import pytest
from celery import Celery
from celery.app.task import Context
from celery.app.trace import build_tracer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from celery_asynctask import errors, install, uninstall
from celery_asynctask.capture import inflight, worker
from celery_asynctask.capture.attribute import attribute
from celery_asynctask.capture.instrumentation import Instrumentation, instrumentation_of
from celery_asynctask.capture.messages import recorded_id
from celery_asynctask.core.event import decode
from celery_asynctask.core.fold import fold_all
from celery_asynctask.core.time import now
from celery_asynctask.store import Store


class Deep(NamedTuple):
    """Stands for a value that is nested so deeply that Hypothesis cannot print it."""

    is_chain: bool
    depth: int

    def made(self) -> Any:
        value: Any = {"task": "next", "args": [], "kwargs": {}, "options": {"task_id": "y"}}
        for _ in range(self.depth):
            value = {"kwargs": {"tasks": [value]}, "subtask_type": "chain"} if self.is_chain else [value]
        return value


def made(value: Any) -> Any:
    if isinstance(value, Deep):
        return value.made()
    if isinstance(value, list):
        return [made(item) for item in value]
    return {key: made(item) for key, item in value.items()} if isinstance(value, dict) else value


TEXTS = st.text(max_size=8) | st.sampled_from(
    [
        "",
        "\0",
        "\ud800",
        "a" * 300,
        "é" * 300,
        "zzz",
        "-1",
        "1e999",
        "0" * 20,
        "\u202e",
        '","customer":"7',
        "args kwargs",
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 2**31, 2**56, 2**63, 10**30, float("nan"), float("inf"), 1.5])
    | TEXTS
)
ANYTHING = st.recursive(
    SCALARS | st.just(Deep(False, 900)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
TIMES = st.sampled_from(
    ["0001-01-01T00:00:00", "9999-12-31T23:59:59-23:59", "2026-01-02T03:04:05+00:00", "1969-12-31T23:59:59Z", "then"]
)
CONTENTS = st.sampled_from(
    [
        "[" * 3000,
        '{"a":' * 3000,
        '{"a": NaN}',
        '{"a": "\\ud800"}',
        "{" + " " * 5_000_000 + "}",
        '{"a": 1e999}',
        '{"n": 1}',
    ]
)
FIELDS = st.dictionaries(
    st.sampled_from(
        ("for", "created", "sent", "root", "blind", "hidden", "body", "run", "delivered", "here", "customer",
         "created_by", "created_by_name", "content", "v", "mac", "text")
    ),
    ANYTHING | CONTENTS,
)  # fmt: skip
HEADERS = ANYTHING | FIELDS | CONTENTS
TRACES = TEXTS | st.sampled_from(
    [f"00-{'a' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'b' * 16}-01-{' ' * 100_000}\nx", "x=" * 10_000]
)
STEPS = ANYTHING | st.sampled_from(
    [[Deep(True, 400)], [Deep(True, 3)], Deep(True, 3), [{"task": "next", "options": {"task_id": "y"}}]]
)
KEPT = tuple(f"asynctask_{one}" for one in ("start", "undo", "steps", "secrets", "encoder", "content", "sent_again"))
"""What hooks keep in a request, as a message might guess it."""
MESSAGES = st.fixed_dictionaries(
    {"id": st.uuids().map(str) | TEXTS.filter(bool)},
    optional={
        "asynctask": HEADERS,
        "headers": st.fixed_dictionaries({"asynctask": HEADERS}) | ANYTHING,
        "delivery_info": st.dictionaries(
            st.sampled_from(["exchange", "routing_key", "priority", "redelivered"]), ANYTHING
        ),
        "eta": TIMES | ANYTHING,
        "chain": STEPS,
        "chord": STEPS,
        "traceparent": TRACES | ANYTHING,
        "tracestate": TRACES | ANYTHING,
        "baggage": TRACES | ANYTHING,
        **dict.fromkeys(
            ("root_id", "parent_id", "retries", "replaced_task_nesting", "expires", "group", "origin", "argsrepr",
             "kwargsrepr", "stamps", "timelimit", "ignore_result", "shadow", "hostname", "meth", *KEPT),
            ANYTHING,
        ),
    },
)  # fmt: skip


class Request:
    """A worker's Request, as far as hooks read it."""

    acknowledged = _already_revoked = False
    time_start = None

    def __init__(self, task: Any, message: dict[str, Any]) -> None:
        self.task, self.id, self.request_dict = task, message["id"], message
        self.args, self.kwargs = [1], {"k": 2}


class Message:
    """A message of kombu."""

    def __init__(self, headers: dict[str, Any]) -> None:
        self.headers, self.delivery_info = headers, headers.get("delivery_info")
        self.payload = [[1], {}, {"chain": headers.get("chain"), "chord": headers.get("chord")}]


@pytest.fixture(scope="module", params=[None, ["k" * 32]], ids=["", "signed"])
def app(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Celery]:
    app = Celery("hostile", set_as_current=False, broker="memory://")
    app.conf.update(asynctask_url="sqlite://", asynctask_journal_dir=tmp_path_factory.mktemp("journal"))
    app.conf.asynctask_header_keys = request.param
    install(app)

    @app.task(name="body", shared=False)  # type: ignore[untyped-decorator]
    def body(*_: Any, **__: Any) -> None:
        pass

    app.finalize()
    with mock.patch.object(inflight, "_requests", {}):
        yield app
    uninstall(app)


def run(app: Celery, message: dict[str, Any]) -> None:
    """What hooks see of a message that a worker receives, runs, and finds revoked; and of one of an unknown task."""
    instrumentation = instrumentation_of(app)
    assert instrumentation is not None
    task, headers = app.tasks["body"], {**message, "task": "unknown"}
    request = Request(task, {**message})
    worker.on_received(request)
    worker._record_received(instrumentation, request, now())
    received = {"chain": None, "chord": None, **request.request_dict, "called_directly": False}
    with suppress(Exception):  # Celery's own, of steps that it cannot send; hooks never raise
        build_tracer("body", task, app=app)(message["id"], [1], {"k": 2}, received)
    worker.on_revoked(task, Context(request.request_dict), terminated=True, signum=9, expired=False)
    worker.on_unknown(app_of(app), message=Message(headers), name="unknown")


def app_of(app: Celery) -> Any:
    return mock.Mock(app=app)


def events_of(app: Celery, message: dict[str, Any]) -> list[bytes]:
    written: list[bytes] = []
    with (
        mock.patch.object(Instrumentation, "write", lambda _, data, slot=None: written.append(data)),
        mock.patch.object(Instrumentation, "begin", lambda _, start: written.append(start)),
        catch_warnings(),
    ):
        simplefilter("ignore")  # Celery's tracer warns of what it cannot send on
        run(app, message)
    return written


@pytest.mark.every_database
def test_every_event_of_a_hostile_message_is_made_and_stored(app: Celery, shared_store: Store) -> None:
    @settings(
        max_examples=25,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(MESSAGES)
    def tried(message: dict[str, Any]) -> None:
        before = errors.failures.copy()
        written = events_of(app, made(message))
        assert errors.failures - before == {}
        told = [decode(data) for data in written]
        own = recorded_id(message["id"])
        kinds = [event["kind"] for event in told if event["id"] == own]
        assert {"received", "started", "revoked", "failed"} <= set(kinds)
        assert message.keys() & {"chain", "chord"} or "succeeded" in kinds
        if app.conf.asynctask_header_keys:
            assert not any(
                event.keys() & {"customer", "customer_key", "created_by", "created_by_key"} for event in told
            )
        fold_all(told)
        shared_store.write(written)

    tried()


def test_no_message_can_set_what_hooks_keep_in_a_request(app: Celery) -> None:
    """An ``asynctask_start`` in a message hid the start of its task; an empty text in ``asynctask_secrets`` kept its
    worker busy forever once the task failed."""
    instrumentation = instrumentation_of(app)
    assert instrumentation is not None
    kept: set[str] = set()
    seen = mock.Mock(side_effect=lambda *_, **__: kept.update(app.tasks["body"].request.__dict__))
    with mock.patch.object(app.tasks["body"], "run", seen):
        events_of(app, {"id": "kept"})
    assert (ours := {name for name in kept if name.startswith("asynctask_")})
    assert not any(name in KEPT or not name.endswith(attribute("")[-16:]) for name in ours), ours
    told = [decode(data) for data in events_of(app, {"id": "kept", **{name: [""] for name in KEPT}})]
    assert {"received", "started", "succeeded"} <= {event["kind"] for event in told}
