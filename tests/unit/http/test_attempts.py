"""Failed sign-ins: delays that grow, and entries that are bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
import pytest
from starlette.requests import Request

from celery_asynctask.operations.audit import Entry, Outcome
from celery_asynctask.web import attempts
from celery_asynctask.web.attempts import FREE, LONGEST_DELAY, MAX_COUNTED, MAX_ENTRIES, Attempts, Delays, Entries
from celery_asynctask.web.origin import Origins, share
from celery_asynctask.web.problem import ProblemError
from tests.pace import patience


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_delay_grows_and_is_forgotten() -> None:
    clock = Clock()
    delays = Delays(clock)
    assert [delays.failed("a") for _ in range(FREE)] == [0.0] * FREE
    assert [delays.failed("a") for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, LONGEST_DELAY, LONGEST_DELAY]
    assert delays.failed("b") == 0
    clock.now += 59.9
    assert delays.failed("a") == LONGEST_DELAY
    clock.now += 60
    assert delays.failed("a") == 0


def test_the_longest_delay_of_a_name_and_an_address_counts() -> None:
    delays = Delays(Clock())
    for number in range(FREE):
        delays.failed(f"address {number}", "name ops")
    assert delays.failed("address new", "name ops") == 0.5
    assert delays.failed("address new") == 0


def test_what_is_counted_is_bounded() -> None:
    delays, entries = Delays(Clock()), Entries(Clock())
    for number in range(MAX_COUNTED + 100):
        delays.failed(str(number))
        entries.failed("x", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", "wrong token")
    assert len(delays._counts) == len(entries._counted) == MAX_COUNTED


def failing(write: Callable[[Entry], None]) -> Attempts:
    return Attempts(write, Clock())


def test_who_waits_holds_no_thread_and_too_many_are_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = anyio.Event()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await waiting.wait()

    monkeypatch.setattr("celery_asynctask.web.attempts.anyio.sleep", sleep)
    monkeypatch.setattr(attempts, "MAX_DELAYED", 3)

    async def flood() -> None:
        tried = failing(lambda _: None)
        for _ in range(FREE):
            await tried.failed("10.0.0.1", "wrong token")
        assert slept == []
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(tried.failed, "10.0.0.1", "wrong token")
            await anyio.lowlevel.checkpoint()
            with pytest.raises(ProblemError) as refused:
                await tried.failed("10.0.0.1", "wrong token")
            assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "5")
            waiting.set()
        assert slept == [0.5, 1.0, 2.0]
        await tried.failed("10.0.0.1", "wrong token")  # those before have left

    asyncio.run(asyncio.wait_for(flood(), patience(5)))


# -- entries of the audit


def test_the_first_failure_has_an_entry_at_once_and_the_rest_one_a_minute() -> None:
    clock = Clock()
    entries = Entries(clock)
    [first] = entries.failed("ops", "10.0.0.1", "wrong token")
    assert (first.actor, first.origin, first.outcome, first.detail) == (
        "ops",
        "10.0.0.1",
        Outcome.REFUSED,
        "wrong token",
    )
    assert [entries.failed("ops", "10.0.0.1", "wrong token") for _ in range(7)] == [[]] * 7
    clock.now += 60
    [counted, other] = entries.failed("(unknown)", "10.0.0.2", "wrong token")
    assert (counted.origin, counted.detail) == ("10.0.0.1", "7 failed sign-ins: wrong token")
    assert other.origin == "10.0.0.2"
    entries.failed("(unknown)", "10.0.0.2", "wrong token")
    [rest] = entries.rest()
    assert (rest.origin, rest.detail) == ("10.0.0.2", "wrong token")
    assert entries.rest() == []


def test_a_flood_from_many_addresses_is_counted_and_bounded() -> None:
    clock = Clock()
    entries = Entries(clock)
    flood = 3 * MAX_ENTRIES
    made = [entry for number in range(flood) for entry in entries.failed("x", f"10.0.1.{number}", "wrong token")]
    assert len(made) == MAX_ENTRIES
    clock.now += 60
    [others, _] = entries.failed("x", "10.0.2.1", "wrong token")
    assert (others.detail or "").startswith(f"{flood - MAX_ENTRIES} failed sign-ins")


# -- addresses


def request(peer: str | None, *forwarded: str, proto: str = "") -> Request:
    headers = [(b"x-forwarded-for", one.encode()) for one in forwarded] + [(b"x-forwarded-proto", proto.encode())]
    client = None if peer is None else (peer, 1)
    return Request({"type": "http", "scheme": "http", "headers": headers, "client": client})


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("1.2.3.4",), "1.2.3.4"),
        ("10.0.0.1", ("6.6.6.6, 1.2.3.4",), "1.2.3.4"),
        ("10.0.0.1", ("6.6.6.6, 1.2.3.4, 10.0.0.7",), "1.2.3.4"),
        ("10.0.0.1", ("6.6.6.6", "1.2.3.4, 10.0.0.7"), "1.2.3.4"),
        ("10.0.0.1", ("10.0.0.9",), "10.0.0.9"),
        ("10.0.0.1", ("1.2.3.4, evil",), "10.0.0.1"),
        ("10.0.0.1", ("evil, 10.0.0.7",), "10.0.0.7"),
        ("10.0.0.1", ("6.6.6.6," + "10.0.0.7," * 1000 + "10.0.0.8",), "10.0.0.7"),
        ("10.0.0.1", ("2001:db8::1",), "2001:db8::1"),
        ("10.0.0.1", ("1.2.3.4, fe80::1%" + "x" * 60_000,), "10.0.0.1"),
        ("::ffff:10.0.0.1", ("1.2.3.4",), "1.2.3.4"),
        ("9.9.9.9", ("1.2.3.4",), "9.9.9.9"),
        (None, ("1.2.3.4",), ""),
        ("unix", ("1.2.3.4",), "unix"),
    ],
)
def test_only_named_proxies_say_for_whom_they_ask(peer: str | None, forwarded: tuple[str, ...], address: str) -> None:
    assert Origins(["10.0.0.0/8"]).address(request(peer, *forwarded)) == address
    assert Origins([]).address(request(peer, *forwarded)) == (peer or "")


def test_only_named_proxies_say_that_it_was_https() -> None:
    trusted = Origins(["10.0.0.1"])
    assert trusted.is_https(request("10.0.0.1", proto="https"))
    assert not trusted.is_https(request("10.0.0.1", proto="http"))
    assert not trusted.is_https(request("10.0.0.2", proto="https"))
    assert not Origins([]).is_https(request("10.0.0.1", proto="https"))


def test_a_network_of_ipv6_counts_as_one() -> None:
    assert share("2001:db8:1:2:3::4") == share("2001:db8:1:2::") == "2001:db8:1:2::/64"
    assert share("2001:db8:1:3::4") != share("2001:db8:1:2::")
    assert share("::ffff:10.0.0.1") == share("10.0.0.1") == "10.0.0.1"
    assert share("unix") == "unix"
    assert share("fe80::1%eth0") == "fe80::/64"
