"""How much one caller may ask: rates, and shares of the threads."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from celery_asynctask.web.problem import ProblemError
from celery_asynctask.web.share import FILES, PURGES, RERUNS, Rate, Rates, Shares

RATE = Rate("things", 6, 3)
"""One in ten seconds."""


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(now=1000.0)


@pytest.fixture
def rates(clock: SimpleNamespace) -> Rates:
    return Rates(lambda: clock.now)


def taken(rates: Rates, who: str, times: int, rate: Rate = RATE) -> int:
    """How many of some are allowed."""
    allowed = 0
    for _ in range(times):
        try:
            rates.take(rate, who)
        except ProblemError as exc:
            refused = exc.kind, exc.status, exc.headers["Retry-After"] in exc.detail
            assert refused == ("too-many-requests", 429, True)
        else:
            allowed += 1
    return allowed


def test_a_burst_and_then_the_rate(rates: Rates, clock: SimpleNamespace) -> None:
    assert taken(rates, "a", 10) == 3
    assert taken(rates, "b", 10) == 3, "others have their own"
    assert taken(rates, "a", 10, PURGES) == 10, "of each kind"
    clock.now += 9.9
    assert taken(rates, "a", 10) == 0
    clock.now += 0.1
    assert taken(rates, "a", 10) == 1
    clock.now += 25
    assert taken(rates, "a", 10) == 2
    clock.now += 3600
    assert taken(rates, "a", 10) == 3, "an hour without any saves no more"


def test_it_says_when_to_try_again(rates: Rates, clock: SimpleNamespace) -> None:
    taken(rates, "a", 3)
    clock.now += 3.5
    with pytest.raises(ProblemError, match=r"At most 6 things a minute\. Try again in 7 s\.") as refused:
        rates.take(RATE, "a")
    clock.now += int(refused.value.headers["Retry-After"])
    assert taken(rates, "a", 1) == 1


@pytest.mark.parametrize(("rate", "in_a_minute"), [(RERUNS, 90), (FILES, 20), (PURGES, 60)])
def test_the_rates(rates: Rates, clock: SimpleNamespace, rate: Rate, in_a_minute: int) -> None:
    """What one gets in a minute who tries all the time."""
    allowed = 0
    for _ in range(601):
        allowed += taken(rates, "a", 1, rate)
        clock.now += 0.1
    assert abs(allowed - in_a_minute) <= 1


def test_the_memory_of_rates_is_bounded(rates: Rates) -> None:
    for number in range(11_000):
        rates.take(RATE, str(number))
    assert len(rates._whole_at) == 10_000


def test_a_caller_has_a_share() -> None:
    """Two threads and three places behind them, each; nothing is kept of callers without requests."""
    shares = Shares(2, 3)

    async def ask() -> None:
        free = asyncio.Event()
        running: list[str] = []

        async def request(who: str) -> str:
            try:
                with shares.of(who) as turn:
                    async with turn:
                        running.append(who)
                        await free.wait()
                        running.remove(who)
            except ProblemError as exc:
                return f"{exc.status} {exc.kind}, {exc.headers['Retry-After']}"
            return "answered"

        requests = [asyncio.ensure_future(request(who)) for who in "aaaaaaaabb"]
        for _ in range(5):
            await asyncio.sleep(0)
        assert sorted(running) == ["a", "a", "b", "b"]
        requests[0].cancel()
        requests[2].cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert sorted(running)[-2:] == ["b", "b"]
        free.set()
        answers = await asyncio.gather(*requests, return_exceptions=True)
        kinds = ["cancelled" if isinstance(one, BaseException) else one for one in answers]
        assert kinds == [
            "cancelled", "answered", "cancelled", "answered", "answered", *["429 too-many-requests, 1"] * 3,
            *["answered"] * 2,
        ]  # fmt: skip

    asyncio.run(ask())
    assert not shares._of
