"""The short-lived memory of a server: recent reruns, and values that take long to make."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from celery_asynctask.web import memory
from celery_asynctask.web.memory import SENT_SECONDS, Latest, RecentReruns, SingleFlightCache
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


def test_it_is_known_for_a_while(clock: SimpleNamespace) -> None:
    sent = RecentReruns()
    assert "a" not in sent
    assert [sent.add("a"), sent.add("a"), sent.add("b")] == [True, False, True]
    clock.now += SENT_SECONDS - 1
    assert "a" in sent
    assert sent.add("a") is False
    clock.now += 1
    assert "a" not in sent
    assert [sent.add("a"), sent.add("a")] == [True, False]


def test_what_was_not_sent_is_forgotten() -> None:
    sent = RecentReruns()
    sent.add("a")
    sent.discard("a")
    sent.discard("never")
    assert "a" not in sent
    assert sent.add("a") is True


def test_the_latest_are_remembered(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_RECENT", 3)
    sent = RecentReruns()
    sent.add("a")
    clock.now += SENT_SECONDS
    for one in ("b", "a", "c", "d"):
        sent.add(one)
    assert [one in sent for one in "abcd"] == [True, False, True, True]


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
