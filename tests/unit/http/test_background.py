"""Writes that no request waits for: done in order, bounded, and never lost in silence."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any

import pytest

from celery_asynctask.errors import StoreError
from celery_asynctask.web import background
from celery_asynctask.web.background import Background
from tests.pace import patience


def failing(exc: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise exc

    return fail


def test_work_is_done_in_order() -> None:
    done: list[int] = []
    made = Background()
    for number in range(20):
        made.submit(lambda number=number: done.append(number), "x")  # type: ignore[misc]
    made.close()
    assert done == list(range(20))


def test_what_fails_is_logged_and_the_rest_is_done(caplog: pytest.LogCaptureFixture) -> None:
    done = Event()
    made = Background()
    made.submit(failing(ValueError("a slip")), "a: 1")
    made.submit(failing(StoreError("It is away.", "Start it.")), "a: 2")
    made.submit(done.set, "a: 3")
    assert done.wait(patience(5))
    made.close()
    assert caplog.messages == [
        "Not written: a: 1. ValueError('a slip').",
        "Not written: a: 2. It is away. Start it.",
    ]


def test_a_flood_of_failures_is_counted(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(background, "time", type("Clock", (), {"monotonic": lambda: now}))
    made = Background()
    for number in range(7):
        made._do(failing(StoreError("It is away.")), f"a: {number}", 60.0)
    made._do(failing(StoreError("It is away.")), "b", 60.0)
    now = 60.0
    made._do(failing(StoreError("It is away.")), "a: 8", 60.0)
    assert caplog.messages == [
        "Not written: a: 0. It is away.",
        "Not written: b. It is away.",
        "Not written: a: 8. It is away. Before, 6 of this kind were not written either.",
    ]


def test_what_waits_is_bounded(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "MAX_WAITING", 3)
    go_on, done = Event(), []
    made = Background()

    def wait() -> None:
        go_on.wait()
        done.append(1)

    for _ in range(5):
        made.submit(wait, "x")
    go_on.set()
    made.close()
    assert len(done) == 3
    assert caplog.messages == ["Not written: x. Too much waits to be written."] * 2


def test_the_end_of_a_server_does_not_wait_for_a_database_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[Any] = []
    go_on = Event()
    made = Background()

    def away() -> None:
        tried.append(1)
        go_on.wait()
        raise StoreError("It is away.")

    for _ in range(3):
        made.submit(away, "x")
    made._is_closing = True
    go_on.set()
    made.close()
    assert tried == [1]
    assert caplog.messages[1:] == ["Not written: x. The server ends, and the database is away."] * 2
