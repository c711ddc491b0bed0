"""Every history gives the right row and attempts, in any order of its events."""

from __future__ import annotations

import random
from typing import Any

import pytest

from celery_asynctask.core.columns import TASK
from celery_asynctask.core.event import Event
from celery_asynctask.core.fold import TASK_GROUPS, merge
from celery_asynctask.core.status import TERMINAL
from tests.histories import HISTORIES, ID, NAME, PARENT, ROOT, SOURCE, fold, ms

ASKED = {
    **dict.fromkeys(one.name for one in TASK if one.nullable),
    "celery_task_id": ID,
    "customer_key": "",
    "name": NAME,
    "root_task_id": ROOT,
    "parent_task_id": PARENT,
    "task_args": [7, "é"],
    "task_kwargs": {"currency": "EUR"},
    "created_at": ms(0),
}
NOTHING_ASKED = dict.fromkeys(("root_task_id", "parent_task_id", "task_args", "task_kwargs"))
NO_ERROR = {"error_type": None, "error_message": None}


def error(message: str, error_type: str = "ValueError") -> dict[str, Any]:
    return {"error_type": error_type, "error_message": message}


def row(status: str, completed: int | None = None, started: int | None = 3, **more: Any) -> dict[str, Any]:
    """An expected row, its times in milliseconds after the start."""
    return {
        **ASKED,
        **NO_ERROR,
        "status": status,
        "completed_at": None if completed is None else ms(completed),
        "started_at": None if started is None else ms(started),
        "retries": 0,
        "result": None,
        **more,
    }


# By history: the row, and of each attempt in order: its outcome, start, end, retries.
EXPECTED: dict[str, tuple[dict[str, Any], list[tuple[str | None, int | None, int | None, int]]]] = {
    "success": (row("SUCCESS", 9, result={"paid": True}), [("succeeded", 3, 9, 0)]),
    "ends_carry_starts": (
        row(
            "SUCCESS",
            29,
            result=[1],
            retries=1,
            customer=42,
            customer_key="42",
            content={"order": 1, "done": 1},
            trace_id="t2",
            span_id="s2",
        ),
        [("retried", 3, 9, 0), ("succeeded", 21, 29, 1)],
    ),
    "noted": (
        row(
            "SUCCESS",
            29,
            retries=1,
            customer=42,
            customer_key="42",
            created_by=7,
            created_by_key="7",
            created_by_name="Ada",
            content={"order": 1, "done": 2},
            trace_id="t2",
            span_id="s2",
        ),
        [("retried", 3, 9, 0), ("succeeded", 21, 29, 1)],
    ),
    "failed": (row("FAILURE", 9, **error("no money")), [("failed", 3, 9, 0)]),
    "retries_overlap": (
        row("SUCCESS", 12, retries=1, result="second"),
        [("retried", 3, 1000, 0), ("succeeded", 11, 12, 1)],
    ),
    "retries_exhausted": (
        row("FAILURE", 25, started=1, retries=2, **error("no 2")),
        [("retried", 1, 5, 0), ("retried", 11, 15, 1), ("failed", 21, 25, 2)],
    ),
    "ignored": (row("IGNORED", 4), [("ignored", 3, 4, 0)]),
    "rejected": (row("REJECTED", 4, **error("not mine", "Reject")), [("rejected", 3, 4, 0)]),
    "requeued": (row("SUCCESS", 8, result="taken"), [("requeued", 3, 4, 0), ("succeeded", 7, 8, 0)]),
    "replaced": (row("SUCCESS", 7, result="refunded"), [("replaced", 3, 1000, 0), ("succeeded", 6, 7, 0)]),
    "redelivered": (row("SUCCESS", 70, result=1), [(None, 3, None, 0), ("succeeded", 61, 70, 0)]),
    "over_hard_limit": (
        row("FAILURE", 1004, **error("TimeLimitExceeded(1,)", "TimeLimitExceeded")),
        [("failed", 3, 1004, 0)],
    ),
    "killed_after_success": (row("SUCCESS", 5, result="kept"), [("succeeded", 3, 5, 0)]),
    "killed": (row("FAILURE", 6, **error("signal 9", "WorkerLostError")), [("failed", 3, 6, 0)]),
    "revoked": (row("REVOKED", 2, started=None, **error("revoked")), []),
    "terminated": (row("REVOKED", 50, **error("SIGTERM", "TaskRevokedError")), [("terminated", 3, 50, 0)]),
    "never_sent": (
        row("FAILURE", 8, started=None, **error("Not sent: upstream task shop.check [x] ended with boom")),
        [],
    ),
    "planned_and_run": (
        row("SUCCESS", 14, started=13, task_args=["from before"]),
        [("succeeded", 13, 14, 0)],
    ),
    "body_of_failed_chord": (
        row(
            "FAILURE",
            7,
            started=None,
            task_args=[],
            root_task_id="header-1",
            parent_task_id="header-1",
            **error("not sent: header-2"),
        ),
        [],
    ),
    "sent_after_all": (row("SUCCESS", 32, started=31, result="after all"), [("succeeded", 31, 32, 0)]),
    "body_of_chord": (
        row("SUCCESS", 62, started=61, created_at=ms(1), task_args=[[1, 2]], result=3),
        [("succeeded", 61, 62, 0)],
    ),
    "used_again": (
        row("SUCCESS", 103, started=102, created_at=ms(100), task_args=["second"], result="second"),
        [("retried", 3, 4, 0), ("failed", 11, 12, 1), ("succeeded", 102, 103, 0)],
    ),
    "blind_producer": (
        row("SUCCESS", 301, started=300, customer=42, customer_key="42", task_args=[7, "seen"]),
        [("succeeded", 300, 301, 0)],
    ),
    "wire_form": (row("SUCCESS", 4, task_args=["text"]), [("succeeded", 3, 4, 0)]),
    "unrecorded": (
        row("UNRECORDED", started=None, created_at=ms(2), **NOTHING_ASKED),
        [],
    ),
    "recorded_again": (row("SUCCESS", 104, started=103, created_at=ms(100)), [("succeeded", 103, 104, 0)]),
    "received_and_released": (row("RECEIVED", started=None, holder="another"), []),
    "released": (row("RETRY", retries=1, holder=SOURCE), [("retried", 3, 4, 0)]),
    "for_a_customer_with_a_name": (
        row("FAILURE", 4, customer_key="acme", created_by_key="f3a1", **error("no money")),
        [("failed", 3, 4, 0)],
    ),
    "unrecorded_producer": (row("SUCCESS", 4, result=[1, 2], created_at=ms(2)), [("succeeded", 3, 4, 0)]),
    "lost_and_redelivered": (row("SUCCESS", 510, result="found"), [("lost", 3, 100, 0), ("succeeded", 501, 510, 0)]),
    "lost": (row("LOST", 100, **error("shut down", "WorkerShutdown")), [("lost", 3, 100, 0)]),
    "lost_and_found": (row("SUCCESS", 300, result=1), [("succeeded", 3, 300, 0)]),
    "found_and_running": (row("STARTED"), [(None, 3, None, 0)]),
    "cancelled_and_redelivered": (
        row("FAILURE", 502, **error("second")),
        [("requeued", 3, 100, 0), ("failed", 501, 502, 0)],
    ),
    "unknown_task": (row("FAILURE", 3, started=None, **error("NotRegistered")), []),
    "eager": (
        row("SUCCESS", 4, started=1, retries=1, result=2, created_at=ms(1)),
        [("retried", 1, 2, 0), ("succeeded", 3, 4, 1)],
    ),
    "backend_down": (row("FAILURE", 3, **error("backend is down")), [("failed", 3, 3, 0)]),
}


def attempts_of(events: list[Event]) -> list[dict[str, Any]]:
    attempts = fold(events).attempts
    return [attempts[key] for key in sorted(attempts)]


def test_every_history_has_an_expected_row() -> None:
    assert EXPECTED.keys() == HISTORIES.keys()


@pytest.mark.parametrize("name", HISTORIES)
def test_row(name: str) -> None:
    task = dict(fold(HISTORIES[name]()).task)
    for group in TASK_GROUPS:
        del task[group.key]
    assert task == EXPECTED[name][0]


@pytest.mark.parametrize("name", HISTORIES)
def test_attempts(name: str) -> None:
    def shown(at: int | None) -> int | None:
        return None if at is None else (at - ms(0)) // 1000

    assert [
        (one["outcome"], shown(one["started_at"]), shown(one["ended_at"]), one["retries"])
        for one in attempts_of(HISTORIES[name]())
    ] == EXPECTED[name][1]


@pytest.mark.parametrize("name", HISTORIES)
def test_completed_exactly_when_terminal_after_every_event(name: str) -> None:
    events = HISTORIES[name]()
    for count in range(1, len(events) + 1):
        task = fold(events[:count]).task
        assert (task["completed_at"] is not None) == (task["status"] in TERMINAL)


@pytest.mark.parametrize("name", HISTORIES)
def test_any_order_any_duplicates_any_batches(name: str) -> None:
    events = HISTORIES[name]()
    expected = fold(events)
    chance = random.Random(name)
    for _ in range(200):
        shuffled = events + chance.choices(events, k=3)
        chance.shuffle(shuffled)
        cut = chance.randrange(1, len(shuffled))
        assert merge(fold(shuffled[:cut]), fold(shuffled[cut:])) == expected
