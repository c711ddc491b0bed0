"""The event that liveness makes about an attempt belongs to that attempt."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from celery_asynctask.core.event import Event, Kind
from celery_asynctask.core.fold import customer_key
from celery_asynctask.core.keys import attempt_key
from celery_asynctask.journal import Directory
from celery_asynctask.recorder import liveness
from celery_asynctask.store import HeldTask, Open, OpenAttempt
from tests.histories import ID, NAME, SOURCE, Delivery, fold, ms

SEEN = dt.datetime(2026, 1, 31, 9, 5, 7, tzinfo=dt.timezone.utc)

DELIVERIES = [
    Delivery(2),
    Delivery(2, nesting=0x1F, retries=0x1234, redelivered=True),
    Delivery(2, nesting=0xFF, retries=0xFFFF),
    Delivery(2, nesting=1, retries=2),
    Delivery(2, created=None),
]


def attempt_with(key: str) -> OpenAttempt:
    return OpenAttempt(ID, "acme", key, NAME, "db-1", 4711, "worker", SEEN)


def event_of(kind: Kind, key: str, evidence: str = "its process is gone") -> Event:
    event = liveness._event(kind, attempt_with(key), evidence)
    assert event is not None
    return event


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "now", lambda: ms(100))


@pytest.mark.parametrize("kind", [Kind.LOST, Kind.FOUND])
@pytest.mark.parametrize("run", DELIVERIES)
def test_the_event_has_the_key_of_the_attempt(kind: Kind, run: Delivery) -> None:
    """Each part as well: otherwise a key that is cut in other places would be put together again."""
    start = run.started(3)
    event = event_of(kind, attempt_key(start))
    assert attempt_key(event) == attempt_key(start)
    assert customer_key(event) == "acme"
    parts = [(one.get("nesting", 0), one.get("retries", 0), one.get("redelivered", False)) for one in (event, start)]
    assert parts[0] == parts[1]
    assert event["run"] == start["run"]


@pytest.mark.parametrize("key", ["", "x", "0", f"x{'0' * 40}", "0" * 42])
def test_an_attempt_whose_key_is_none_gets_no_event(key: str) -> None:
    """As an imported one may have: no event has that key."""
    assert liveness._event(Kind.LOST, attempt_with(key), "gone") is None


def test_a_key_that_the_recorder_did_not_write(tmp_path: Path) -> None:
    """An imported attempt may have one: it gets no event, but others do."""
    ours = attempt_key(Delivery(2).started(3))
    written: list[bytes] = []
    store: Any = SimpleNamespace(write=written.extend)
    attempts = [attempt_with(key) for key in ("", "x", f"x{ours[1:]}", ours)]
    liveness.Watch(Directory(tmp_path, "store"), store)._record(Open(attempts, []), Kind.LOST, Kind.RELEASED, "gone")
    assert [attempt_key(json.loads(one)) for one in written] == [ours]


def test_an_attempt_of_no_delivery() -> None:
    key = attempt_key(Delivery(2, run="").started(3))
    assert attempt_key(event_of(Kind.LOST, key)) == key


def test_lost_ends_the_attempt_and_says_why() -> None:
    start = Delivery(2, retries=1).started(3, customer_key="acme")
    folded = fold([start, event_of(Kind.LOST, attempt_key(start))])
    assert (folded.task["status"], folded.task["retries"], folded.task["completed_at"]) == ("LOST", 1, ms(100))
    [attempt] = folded.attempts.values()
    assert (attempt["outcome"], attempt["ended_at"], attempt["error_type"]) == ("lost", ms(100), "WorkerLostError")
    assert attempt["error_message"] == (
        "This attempt never reported its end, and its process is gone: worker 4711 on db-1, last seen 2026-01-31 "
        "09:05:07 UTC. If its message was not acknowledged, the broker delivers it again."
    )


def test_lost_and_found_are_what_the_main_process_infers() -> None:
    """So an end that the attempt itself reports outranks them, whenever it comes."""
    run = Delivery(2, customer_key="acme")
    start, end = run.started(3), run.ended(Kind.SUCCEEDED, 5, result="kept")
    for kind in (Kind.LOST, Kind.FOUND):
        event = event_of(kind, attempt_key(start))
        assert event["inferred"] is True
        assert fold([start, end, event]) == fold([start, end])


def test_an_attempt_whose_start_was_never_stored() -> None:
    [attempt] = fold([event_of(Kind.LOST, attempt_key(Delivery(2).received()))]).attempts.values()
    assert (attempt["name"], attempt["celery_task_id"], attempt["outcome"]) == (NAME, ID, "lost")


def test_found_takes_the_loss_back() -> None:
    run = Delivery(2, customer_key="acme")
    start = run.started(3)
    lost = run.ended(Kind.LOST, 50, inferred=True, error_type="WorkerLostError", error_message="gone")
    found = event_of(Kind.FOUND, attempt_key(start), "")
    assert "error_type" not in found
    folded = fold([start, lost, found])
    assert (folded.task["status"], folded.task["error_type"]) == ("STARTED", None)
    assert [(one["outcome"], one["error_message"]) for one in folded.attempts.values()] == [(None, None)]


# -- messages ------------------------------------------------------------------------


def held(received: Event) -> HeldTask:
    task = fold([received]).task
    return HeldTask(ID, task["customer_key"], task["order_key"], NAME, SOURCE)


def held_event(kind: Kind, task: HeldTask) -> Event:
    event = liveness._held_event(kind, task)
    assert event is not None
    return event


@pytest.mark.parametrize("run", [*DELIVERIES, Delivery(2, customer_key="acme")])
def test_a_message_is_released_right_after_it_was_received(run: Delivery) -> None:
    """And received again right after that, if its process lives after all; the next receive outranks both."""
    received = run.received(holder=SOURCE)
    released = held_event(Kind.RELEASED, held(received))
    folded = fold([released, received]).task
    assert folded["status"] == ("RETRY" if received.get("retries") else "PENDING")
    assert folded["holder"] == SOURCE
    again = held_event(Kind.RECEIVED, held(released))
    assert fold([again, released, received]).task["status"] == "RECEIVED" or received.get("retries")
    assert [one["at"] - received["at"] for one in (released, again)] == [1, 2]
    elsewhere = {**received, "at": ms(3), "holder": "another"}
    assert fold([elsewhere, again, released, received]).task["holder"] == "another"  # type: ignore[list-item]


def test_a_message_whose_key_is_none_gets_no_event() -> None:
    assert liveness._held_event(Kind.RELEASED, HeldTask(ID, "", "x", NAME, SOURCE)) is None
