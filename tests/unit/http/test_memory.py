"""The short-lived memory of a server: recent reruns, and values that take long to make."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from celery_asynctask.web import memory
from celery_asynctask.web.memory import REFUSALS, SENT_SECONDS, Latest, RecentReruns, Refusals, SingleFlightCache
from tests.pace import patience


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    made = SimpleNamespace(now=1000.0)
    made.monotonic = lambda: made.now
    monkeypatch.setattr(memory, "time", made)
    return made


def test_what_was_set_last_is_there() -> None:
    latest: Latest[int, int] = Latest(1000)
    for number in range(1500):
        latest[number] = number
        latest[1] = number
    assert (len(latest), latest[1499], latest[1], latest.get(500)) == (1000, 1499, 1499, None)


A, B, C, D = ("a", ""), ("b", ""), ("a", "acme"), ("d", "7")
"""Tasks by id and customer; two have one id."""


def test_it_is_known_for_a_while(clock: SimpleNamespace) -> None:
    sent = RecentReruns()
    assert A not in sent
    assert [sent.add(A), sent.add(A), sent.add(B)] == [True, False, True]
    clock.now += SENT_SECONDS - 1
    assert A in sent
    assert sent.add(A) is False
    clock.now += 1
    assert A not in sent
    assert [sent.add(A), sent.add(A)] == [True, False]


def test_what_was_not_sent_is_forgotten() -> None:
    sent = RecentReruns()
    sent.add(A)
    sent.discard(A)
    sent.discard(C)
    assert A not in sent
    assert sent.add(A) is True


def test_the_latest_are_remembered(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_RECENT", 3)
    sent = RecentReruns()
    sent.add(A)
    clock.now += SENT_SECONDS
    for one in (B, A, C, D):
        sent.add(one)
    assert [one in sent for one in (A, B, C, D)] == [True, False, True, True]


def test_nobody_waits_where_there_is_an_older_value() -> None:
    kept: SingleFlightCache[int] = SingleFlightCache()
    assert kept.get(lambda: 1, 0) == 1
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> int:
        begun.set()
        assert go_on.wait(patience(10))
        return 2

    with ThreadPoolExecutor(1) as pool:
        newer = pool.submit(kept.get, slow, 60)
        assert begun.wait(patience(10))
        assert kept.get(lambda: 3, 60) == 1
        go_on.set()
        assert newer.result(patience(10)) == 2
    assert kept.get(lambda: 3, 60) == 2


def test_a_flood_of_refusals_is_counted(clock: SimpleNamespace) -> None:
    """Of each kind for itself, and in each minute anew."""
    refusals = Refusals()
    audited = [number for number in range(1, 10_001) if refusals.count("a") == number]
    assert audited[: REFUSALS + 3] == [1, 2, 3, 4, 5, 10, 20, 40]
    assert len(audited) == REFUSALS + 10
    assert refusals.count("b") == 1
    clock.now += 59
    assert refusals.count("a") is None
    clock.now += 1
    assert refusals.count("a") == 1
