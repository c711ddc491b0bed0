"""The deliveries in flight of a worker, of which several may have one id."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from functools import partial
from operator import is_
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, signals
from celery.app.task import Context
from celery.worker.request import Request

from celery_asynctask.capture import inflight, worker
from celery_asynctask.capture.headers import stamp
from celery_asynctask.capture.install import install, uninstall
from celery_asynctask.capture.instrumentation import instrumentation_of
from celery_asynctask.core.time import now
from tests.histories import ms

SINCE_5_7 = hasattr(Request, "_success_was_stored")


@pytest.fixture(autouse=True)
def requests(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    known: dict[str, Any] = {}
    monkeypatch.setattr(inflight, "_requests", known)
    monkeypatch.setattr(inflight, "_limit", 3)
    monkeypatch.setattr(inflight, "_MIN_LIMIT", 3)
    return known


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celery]:
    app = Celery("worker", set_as_current=False, broker="memory://", backend="cache+memory://")
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


class Live:
    """What a worker's main process has of a delivery."""

    def __init__(self, task_id: str) -> None:
        self.id = task_id


class Message:
    """A message of kombu."""

    content_type, content_encoding, delivery_info, properties = "application/json", "utf-8", None, None

    def __init__(self, headers: dict[str, Any], body: Any) -> None:
        self.headers, self.body, self.payload = headers, body, body

    def ack_log_error(self, *_: Any, **__: Any) -> None:
        """As of one that a worker acknowledges."""

    reject_log_error = ack_log_error


def received(app: Celery, customer: str, number: int = 0) -> Request:
    """A message with the id ``one``, as a worker received it."""
    header = {**stamp("one", ms(number), ms(number)), "customer": customer}
    headers = {"id": "one", "task": "work", "retries": 0, "asynctask": header}
    request = Request(Message(headers, [[customer], {}, {}]), app=app, task=app.tasks["work"], hostname="here")
    worker.on_received(request)
    return request


@pytest.fixture
def both(app: Celery) -> tuple[Request, Request]:
    def work(customer: str) -> None:
        """Never called."""

    app.task(shared=False, name="work")(work)
    app.finalize()
    return received(app, "A"), received(app, "B", 1)


def test_each_is_found_by_what_a_signal_tells(both: tuple[Request, Request]) -> None:
    for request in both:
        assert inflight.in_flight_of(request._context) is request
        assert inflight.in_flight_of(Context(request.request_dict)) is request, "in the process that runs the body"
        assert inflight.in_flight("one", partial(is_, request)) is request
    assert inflight.in_flight_of(Context({"id": "one"})) is None
    assert inflight.in_flight("one", lambda _: False) is None
    assert inflight.in_flight("one", lambda _: True) is None
    assert inflight.in_flight_of(Context({"id": "other"})) is None


def test_only_one_that_lives_needs_no_choice(requests: dict[str, Any]) -> None:
    first, second, third = Live("one"), Live("one"), Live("one")
    for request in (first, second, third):
        inflight.remember(request)
    assert len(requests["one"]) == 3
    del second, third, request
    assert inflight.in_flight("one", lambda _: False) is first
    fourth = Live("one")
    inflight.remember(fourth)
    assert len(requests["one"]) == 2
    del first
    assert inflight.in_flight("one", lambda _: False) is fourth
    del fourth
    assert inflight.in_flight("one", lambda _: True) is None
    for number in range(4):
        inflight.remember(Live(str(number)))
    assert "one" not in requests


def test_a_time_limit_ends_the_attempt_that_exceeded_it(
    both: tuple[Request, Request], recorded: list[dict[str, Any]]
) -> None:
    for request in both:
        request.on_timeout(soft=False, timeout=3)
    ended = [("failed", "A"), ("failed", "B")] if SINCE_5_7 else []  # earlier versions send no signal for it
    assert [(event["kind"], event["customer_key"]) for event in recorded] == ended


def test_a_time_limit_of_neither_is_recorded_for_none(
    both: tuple[Request, Request], recorded: list[dict[str, Any]]
) -> None:
    signals.task_failure.send(sender=both[0].task, task_id="one", exception=ValueError(), args=(), kwargs={})
    assert recorded == []


def test_the_message_of_the_attempt_decides_whether_it_is_lost(
    both: tuple[Request, Request], recorded: list[dict[str, Any]]
) -> None:
    both[0].acknowledged = True
    for request in both:
        signals.task_retry.send(sender=request.task, request=request._context, reason=None, einfo=None)
    assert [(event["kind"], event["customer_key"]) for event in recorded] == [("lost", "A"), ("retried", "B")]


def test_a_stored_result_that_may_be_of_another_is_left_out(
    both: tuple[Request, Request], recorded: list[dict[str, Any]], app: Celery
) -> None:
    """Result backends know tasks by their ids alone."""
    first, second = both
    first.time_start = 10.5
    stored = {"result": "secret", "date_done": "1970-01-01T00:00:11+00:00"}
    worker._on_success_stored(first, stored)
    second._request_dict["asynctask"]["customer"] = "A"  # delivered twice
    for date_done in (
        "1970-01-01T00:00:10.400000+00:00",
        "1970-01-01T00:00:09+00:00",
        "1970-01-01T00:00:10+00:00",
        None,
    ):
        worker._on_success_stored(first, {**stored, "date_done": date_done and dt.datetime.fromisoformat(date_done)})
    worker._on_success_stored(first, stored)
    first.time_start = None
    worker._on_success_stored(first, stored)
    assert {event["kind"] for event in recorded} == {"succeeded"}
    results = [event.get("result") for event in recorded]
    assert results == [None, None, None, "secret", "secret", "secret", "secret"]
    at = [event["at"] for event in recorded]
    assert (at[3], at[5:]) == (10_000_000, [11_000_000] * 2)
    assert all(abs(one - now()) < 60_000_000 for one in at[:3])
