"""Errors in their stored form: types, messages, reasons and tracebacks, whatever they contain."""

from __future__ import annotations

from typing import NoReturn

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import Reject, Retry
from celery.utils.serialization import UnpickleableExceptionWrapper

from celery_asynctask.capture.payload import (
    MAX_REPR,
    error_message,
    error_type,
    reason_text,
)
from celery_asynctask.core.limits import MAX_MESSAGE
from tests.unit.capture.payload.values import hostile


def test_error_type_and_message() -> None:
    assert (error_type(KeyError("a")), error_message(KeyError("a"))) == ("KeyError", "'a'")


def test_an_exception_that_celery_wrapped_is_called_by_its_own_name() -> None:
    wrapped = UnpickleableExceptionWrapper("shop.errors", "NoMoney", ["only", 3], "NoMoney('only', 3)")
    assert (error_type(wrapped), error_message(wrapped)) == ("NoMoney", "('only', 3)")


def test_exceptions_that_resist() -> None:
    class Resists(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no str")

        def __getattr__(self, name: str) -> NoReturn:
            raise RuntimeError(f"no {name}")

    name = f"{__name__}.{Resists.__qualname__}"
    assert (error_type(Resists()), error_message(Resists("x"))) == ("Resists", f"<{name[:100]}>")


def test_error_columns_are_bounded() -> None:
    long = type("E" * 300, (Exception,), {})("m\0" * MAX_MESSAGE)
    assert error_type(long) == "E" * 255
    message = error_message(long)
    assert message == "m\ufffd" * (MAX_MESSAGE // 2) + f"…[+{MAX_MESSAGE} characters]"


def test_reason_of_a_reject() -> None:
    assert reason_text("because") == "because"
    assert reason_text(ValueError("why")) == "why"
    assert reason_text(Retry("later")) == str(Retry("later"))
    assert reason_text(None) == "None"
    assert reason_text(Reject("x").reason) == "x"
    assert reason_text({"a": 1}) == '{"a": 1}'
    assert reason_text(hostile(object)).startswith("<")
    assert len(reason_text("x" * 10_000)) < MAX_MESSAGE + 50
    assert len(reason_text(["x"] * 10_000)) < MAX_REPR + 50


def test_the_soft_time_limit_is_the_task_s() -> None:
    """A signal handler raises it, so it can strike while we convert a value."""

    class Struck(Exception):
        def __str__(self) -> str:
            raise SoftTimeLimitExceeded

    with pytest.raises(SoftTimeLimitExceeded):
        error_message(Struck())
