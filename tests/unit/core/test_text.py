"""Sizes and errors as texts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from sqlalchemy.exc import OperationalError

from celery_asynctask.core.text import amount, reason


def test_amounts() -> None:
    assert [amount(size) for size in (0, 999, 1500, 250_000, 2_500_000_000)] == [
        "0 bytes",
        "999 bytes",
        "1.5 kB",
        "250 kB",
        "2.5 GB",
    ]


NO_CONNECTION = "no connection not on the other address"


class Diagnosed(Exception):
    """As psycopg raises it: libpq may translate the labels of lines, and without a connection there is only text."""

    def __init__(self, text: str, *, known: bool = True) -> None:
        super().__init__(text)
        self.diag = SimpleNamespace(message_primary=text.partition("\n")[0] if known else None)


@pytest.mark.parametrize(
    ("exc", "text"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OperationalError("SELECT 'secret'", {}, Exception("it is\n away.")), "it is away"),
        (
            OperationalError(
                "INSERT", {}, Exception("bad JSON\nDETAIL:  \\u0000 is 'secret'\nCONTEXT:  JSON data, line 1")
            ),
            "bad JSON",
        ),
        (
            OperationalError("INSERT", {}, Exception("bad value\nLINE 1: SELECT 'secret'\n               ^")),
            "bad value",
        ),
        (
            OperationalError(
                "",
                {},
                Exception(
                    "::1 failed: Connection refused\n\tIs the server running on that host and accepting TCP/IP "
                    "connections?\n127.0.0.1 failed: Connection refused\n\tIs the server running locally?"
                ),
            ),
            "::1 failed: Connection refused 127.0.0.1 failed: Connection refused",
        ),
        (
            OperationalError("INSERT", {}, Diagnosed("doppelter Wert\nDETALLE:  'secret'\nZEILE 1: 'secret'")),
            "doppelter Wert",
        ),
        (OperationalError("", {}, Diagnosed("no connection\nnot on the other address", known=False)), NO_CONNECTION),
        (ValueError(), "ValueError"),
        (ValueError("x" * 600), "x" * 500),
    ],
    ids=lambda value: type(value).__name__,
)
def test_reasons(exc: Exception, text: str) -> None:
    assert reason(exc) == text
