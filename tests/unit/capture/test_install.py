"""The hooks that every task pays for contain their own errors, as `errors.guard` does for the others."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from billiard.exceptions import SoftTimeLimitExceeded

from celery_asynctask import errors
from celery_asynctask.capture import start
from celery_asynctask.capture.run import on_postrun
from celery_asynctask.capture.start import on_task_init
from celery_asynctask.capture.worker import on_received
from celery_asynctask.errors import failures


class Broken:
    """Raises on any access."""

    def __init__(self, error: type[BaseException]) -> None:
        self.__dict__["error"] = error

    def __getattr__(self, name: str) -> NoReturn:
        raise self.error(name)


HOOKS: dict[str, Callable[[Any], None]] = {
    "on_task_init": lambda broken: on_task_init("abc", broken),
    "on_postrun": lambda broken: on_postrun(broken, "abc", None, "SUCCESS", signal=None),
    "on_received": lambda broken: on_received(SimpleNamespace(id="abc", task=broken), signal=None, sender=None),
}


@pytest.fixture(autouse=True)
def no_failures_yet() -> Iterator[None]:
    failures.clear()
    yield
    failures.clear()


@pytest.mark.parametrize("name", HOOKS)
def test_what_a_hook_raises_is_said_and_goes_no_further(name: str, caplog: pytest.LogCaptureFixture) -> None:
    HOOKS[name](Broken(RuntimeError))
    assert failures == {f"{name}: RuntimeError": 1}
    assert f"could not record {name} of task abc: RuntimeError(" in caplog.text


@pytest.mark.parametrize("name", ["on_task_init", "on_postrun"])
def test_the_task_s_soft_time_limit_is_let_through(name: str) -> None:
    with pytest.raises(SoftTimeLimitExceeded):
        HOOKS[name](Broken(SoftTimeLimitExceeded))
    assert not failures


def at_once(work: Callable[[int], object]) -> None:
    """Numbers from 0 to 19,999, by threads that compete. Raises their errors."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            for _ in threads.map(lambda start: [*map(work, range(start, 20_000, 8))], range(8)):
                pass
    finally:
        sys.setswitchinterval(interval)


def test_threads_keep_the_headers_of_their_eager_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest ones, whatever other threads do."""
    monkeypatch.setattr(start, "_eager", {})

    def attempt(number: int) -> Any:
        return SimpleNamespace(id="one", delivery_info={"number": number})

    def keep(number: int) -> None:
        start._keep(attempt(number), {"run": number})

    at_once(keep)
    assert len(start._eager) <= 2 * start._EAGER_KEPT
    first, other = attempt(0), attempt(1)
    start._keep(first, {"run": 0})
    for number in range(start._EAGER_KEPT - 1):
        keep(number)
    assert start.eager_header(first) == {"run": 0}
    start._keep(first, {"run": 1})
    for number in range(start._EAGER_KEPT - 1):
        start._keep(other, {"run": number})
    assert start.eager_header(first) == {"run": 1}
    assert start.eager_header(attempt(0)) == {}, "of another attempt with the same id"
    assert start.eager_header(SimpleNamespace(delivery_info=None)) == {}
    start._keep(SimpleNamespace(delivery_info=None), {"run": 2})
    assert start.eager_header(SimpleNamespace(delivery_info=None)) == {}


def test_threads_that_fail_at_once_are_all_counted_and_the_first_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        at_once(lambda number: errors.report(f"hook {number // 8}", number, ValueError()))
    assert set(failures.values()) == {8}
    assert len(caplog.records) == len(failures) == 2_500
