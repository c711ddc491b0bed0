"""A start is written as text; it equals the event that would be made from the same request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context

from celery_asynctask import install, uninstall
from celery_asynctask.capture import extract
from celery_asynctask.capture.instrumentation import Instrumentation, instrumentation_of
from celery_asynctask.capture.tracing import Ids
from celery_asynctask.core.event import Event, Kind, decode, encode, encode_end
from celery_asynctask.core.time import AGO, AHEAD
from tests.histories import ms

RUN = f"{ms(2):014x}a1b2c3"
OURS: dict[str, Any] = {"created": ms(0), "sent": ms(1), "run": RUN, "delivered": True, "here": ()}
REQUESTS: dict[str, dict[str, Any]] = {
    "usual": {"asynctask": OURS, "root_id": "x", "parent_id": None},
    "child": {"asynctask": OURS, "root_id": "r", "parent_id": "p"},
    "retry": {"asynctask": OURS, "retries": 3, "root_id": "x", "parent_id": "x"},
    "replaced": {"asynctask": OURS, "replaced_task_nesting": 2},
    "redelivered": {"asynctask": OURS, "delivery_info": {"redelivered": True, "routing_key": "q"}},
    "waiting": {"asynctask": OURS, "eta": "2026-01-02T03:04:05+00:00"},
    "whose": {"asynctask": {**OURS, "customer": 4, "created_by": 5, "created_by_name": "é", "content": '{"a":1}'}},
    "unrecorded producer": {"asynctask": {"run": RUN, "delivered": True, "here": ()}},
    "no token": {},
    "odd header": {"asynctask": {"run": RUN, "created": "then", "sent": None, "customer": "many"}},
    "rooted": {"asynctask": {**OURS, "root": "elsewhere"}, "root_id": "x", "parent_id": "p"},
    "odd id": {"asynctask": OURS, "id": 'a "quoted" \u20ac\n', "root_id": 'a "quoted" \u20ac\n'},
    "no worker": {"asynctask": OURS, "hostname": None, "delivery_info": None},
}


@pytest.fixture
def instrumentation(tmp_path: Path) -> Any:
    app = Celery("facts", set_as_current=False)
    app.conf.update(asynctask_url="sqlite://", asynctask_journal_dir=tmp_path / "journal")
    install(app)
    yield instrumentation_of(app)
    uninstall(app)


def start_of(instrumentation: Instrumentation, request: Context, ids: Ids | None) -> bytes:
    return extract.start(instrumentation, instrumentation.policies["a.task"], "a.task", request, ms(3), ids)


@pytest.mark.parametrize("ids", [None, Ids("t" * 32, "s" * 16)], ids=["no span", "span"])
@pytest.mark.parametrize("name", REQUESTS)
def test_a_start_is_the_event_of_its_request(instrumentation: Instrumentation, name: str, ids: Ids | None) -> None:
    about = {
        "id": "x",
        "hostname": "celery@one",
        "delivery_info": {"routing_key": "q"},
        "args": (1,),
        "kwargs": {"k": 2},
    }
    request = Context({**about, **REQUESTS[name]})
    event: dict[str, Any] = dict(decode(start_of(instrumentation, request, ids)))
    expected = extract.from_request(Kind.STARTED, "a.task", request, ms(3))
    extract.add_requested(expected, instrumentation, "a.task", request)
    told_where = {
        key: event.pop(key, None) for key in ("pid", "source", "worker", "queue", "sent", "trace", "span", "eta")
    }
    assert event == expected
    assert told_where["source"] == instrumentation.journal.source
    assert told_where["worker"] == (request.hostname or None)
    assert told_where["queue"] == ("q" if request.delivery_info else None)
    assert (told_where["trace"], told_where["span"]) == (ids or (None, None))
    assert (told_where["eta"] is not None) == (name == "waiting")


def test_an_end_is_its_start_and_more(instrumentation: Instrumentation) -> None:
    start = start_of(instrumentation, Context({"id": "x", "asynctask": OURS, "args": (), "kwargs": {}}), None)
    assert decode(encode_end(start, Kind.SUCCEEDED, ms(9), {"result": [1]})) == {  # type: ignore[typeddict-item]
        **decode(start),
        "kind": "succeeded",
        "at": ms(9),
        "started": ms(3),
        "result": [1],
    }


def test_a_request_without_a_token_keeps_the_one_it_gets(instrumentation: Instrumentation) -> None:
    request = Context({"id": "x", "args": (), "kwargs": {}})
    first, second = (decode(start_of(instrumentation, request, None)) for _ in range(2))
    assert first["run"] == second["run"]


def test_a_start_begins_as_its_end_expects(instrumentation: Instrumentation) -> None:
    """The contents of an end are found by the order of these keys."""
    event: Event = decode(
        start_of(instrumentation, Context({"id": "x", "asynctask": OURS, "args": (), "kwargs": {}}), None)
    )
    assert list(event)[:4] == ["id", "run", "kind", "at"]
    assert encode(event)


# -- headers that anybody could have written

NO_TIMES = ['1,"customer":7', None, True, 1.5, -1, 2**56, 10**30, [1]]


@pytest.mark.parametrize("created", NO_TIMES, ids=repr)
def test_a_header_from_anywhere_puts_nothing_into_the_event_of_a_message(
    instrumentation: Instrumentation, created: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where it says when a retried task was first created."""
    written: list[bytes] = []
    monkeypatch.setattr(instrumentation, "write", written.append)
    instrumentation.app.send_task("a.task", retries=1, headers={"asynctask": {"created": created, "root": 7}})
    [line] = written
    event = decode(line)
    assert "created" not in event
    assert "customer" not in event
    assert event["root"] == event["id"]


def test_a_message_keeps_when_its_task_was_created(
    instrumentation: Instrumentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(instrumentation, "write", written.append)
    instrumentation.app.send_task("a.task", retries=1, headers={"asynctask": {"created": ms(0), "root": "elsewhere"}})
    event = decode(written[0])
    assert (event["created"], event["root"]) == (ms(0), "elsewhere")


@pytest.mark.parametrize("run", ['x","customer":"7', "", "short", RUN.upper(), f"{RUN}\n", 7, None, [RUN]], ids=repr)
def test_a_token_from_anywhere_is_replaced(instrumentation: Instrumentation, run: Any) -> None:
    request = Context({"id": "x", "asynctask": {**OURS, "run": run}, "args": (), "kwargs": {}})
    event = decode(start_of(instrumentation, request, None))
    assert (event["run"][:14], len(event["run"])) == (f"{ms(3):014x}", 20)
    assert "customer" not in event
    assert extract.from_request(Kind.SUCCEEDED, "a.task", request, ms(9))["run"] == event["run"], (
        "the end is of this run"
    )


@pytest.mark.parametrize("time", NO_TIMES, ids=repr)
def test_times_from_anywhere_are_left_out_of_a_start(instrumentation: Instrumentation, time: Any) -> None:
    request = Context({"id": "x", "asynctask": {**OURS, "created": time, "sent": time}, "args": (), "kwargs": {}})
    event = decode(start_of(instrumentation, request, None))
    assert event.keys().isdisjoint({"created", "sent", "customer"})
    assert "created" not in extract.from_request(Kind.SUCCEEDED, "a.task", request, ms(9))


@pytest.mark.parametrize(
    ("given", "known"),
    [(3, 3), (10**30, 2**31 - 1), (0, None), (-1, None), (True, None), ("zzz", None), (1.0, None), ([1], None)],
    ids=repr,
)
def test_a_count_from_anywhere_is_a_number_that_a_column_holds(
    instrumentation: Instrumentation, given: Any, known: int | None
) -> None:
    request = Context({"id": "x", "asynctask": OURS, "retries": given, "replaced_task_nesting": given})
    event = decode(start_of(instrumentation, request, None))
    assert (event.get("retries"), event.get("nesting")) == (known, known)


@pytest.mark.parametrize("eta", ["0001-01-01T00:00:00", "9999-12-31T23:59:59-23:59", "then", 7, {}], ids=repr)
def test_an_eta_that_is_no_time_of_a_database_is_left_out(instrumentation: Instrumentation, eta: Any) -> None:
    assert "eta" not in decode(start_of(instrumentation, Context({"id": "x", "asynctask": OURS, "eta": eta}), None))


@pytest.mark.parametrize("sent", [ms(3) - AGO - 1, ms(3) + AHEAD + 1])
def test_a_message_that_was_sent_in_another_year_tells_no_time(instrumentation: Instrumentation, sent: int) -> None:
    request = Context({"id": "x", "asynctask": {**OURS, "sent": sent}})
    assert "sent" not in decode(start_of(instrumentation, request, None))


@pytest.mark.parametrize(
    "fields", [{"hostname": {}}, {"delivery_info": {"routing_key": ["q"]}}, {"delivery_info": "x"}], ids=repr
)
def test_a_place_that_is_no_text_is_not_known(instrumentation: Instrumentation, fields: dict[str, Any]) -> None:
    """A body may have fields of the request, and Celery lets them replace the worker's own."""
    request = Context({"id": "x", "asynctask": OURS, **fields})
    assert decode(start_of(instrumentation, request, None)).keys().isdisjoint({"worker", "queue"})


def test_places_of_any_length_take_no_memory(instrumentation: Instrumentation) -> None:
    start_of(
        instrumentation, Context({"id": "x", "asynctask": OURS, "delivery_info": {"routing_key": "q" * 99_999}}), None
    )
    assert all(len(queue or "") <= 255 for _, _, queue in instrumentation.places)


@pytest.mark.parametrize("hidden", [["args"], {}, 7, True])
def test_what_says_wrongly_what_is_hidden_hides_everything(instrumentation: Instrumentation, hidden: Any) -> None:
    request = Context({"id": "x", "asynctask": {**OURS, "hidden": hidden}, "args": (1,), "kwargs": {"k": 2}})
    assert decode(start_of(instrumentation, request, None)).keys().isdisjoint({"args", "kwargs"})


def test_an_unknown_error_is_not_recorded(instrumentation: Instrumentation) -> None:
    event: Any = {}
    extract.add_error(event, instrumentation.encoder, None, object())
    assert event == {}
    extract.add_error(event, instrumentation.encoder, KeyError("a"), "Traceback")
    assert event == {"error_type": "KeyError", "error_message": "'a'", "traceback": "Traceback"}


# -- names


def test_names_of_every_kind_have_room(instrumentation: Instrumentation) -> None:
    """A column has 255 characters for each, and no database takes NUL."""
    place = instrumentation.places["shop." + "x" * 300, "worker\0" + "x" * 300, "q" * 300]
    said = json.loads(f"{{{place}}}")
    assert [len(said[key]) for key in ("name", "worker", "queue")] == [255, 255, 255]
    assert "\0" not in said["worker"]
    event = decode(start_of(instrumentation, Context({"id": "x", "asynctask": OURS, "hostname": "w" * 300}), None))
    assert len(event["worker"]) == 255


def test_names_have_no_credentials(instrumentation: Instrumentation) -> None:
    """Of the task, worker, queue and creator, and of the class of an exception; in every event."""
    secret = "redis://:hunter2@cache"
    instrumentation.policies[secret] = instrumentation.policies["a.task"]
    about = {"id": "x", "hostname": secret, "delivery_info": {"routing_key": secret}, "args": (), "kwargs": {}}
    request = Context({**about, "asynctask": {**OURS, "created_by_name": secret}})
    event = dict(
        decode(extract.start(instrumentation, instrumentation.policies["a.task"], secret, request, ms(3), None))
    )
    shown = "redis://***@cache"
    assert {key: event[key] for key in ("name", "worker", "queue", "created_by_name")} == dict.fromkeys(
        ("name", "worker", "queue", "created_by_name"), shown
    )
    other = extract.from_request(Kind.RECEIVED, secret, request, ms(3))
    extract.add_requested(other, instrumentation, secret, request)
    extract.add_error(other, instrumentation.encoder, type(secret, (Exception,), {})())
    assert (other["name"], other["created_by_name"], other["error_type"]) == (shown, shown, shown)
    assert instrumentation.names[secret] == f'"name":"{shown}"'
