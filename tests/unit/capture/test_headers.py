"""Our header in a message: both of its forms, and headers that belong to others."""

from __future__ import annotations

import json
from collections import UserDict
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from celery.app.task import Context

from celery_asynctask.capture import context
from celery_asynctask.capture.headers import (
    HEADER,
    checksum,
    header_of,
    header_of_delivery,
    is_token,
    mark_delivery,
    read,
    stamp,
    write,
)
from tests.histories import ms

OURS = {**stamp("x", ms(0), ms(1)), "customer": "acme", "content": '{"order": 1}'}


@pytest.mark.parametrize("version", [1, 2])
def test_what_is_written_is_read(version: int) -> None:
    assert read(write(OURS, version), "x") == OURS


def test_version_2_is_one_text() -> None:
    written = write(OURS, 2)
    assert json.loads(written) == {"v": 2, **OURS}
    assert written.isascii()


@pytest.mark.parametrize("version", [1, 2])
def test_a_header_of_another_task_says_nothing(version: int) -> None:
    """As where a task sends its own headers along."""
    assert read(write(OURS, version), "y") == {}
    assert header_of(Context({"id": "y", HEADER: write(OURS, version)})) == {}
    assert header_of(Context({"id": "x", HEADER: write(OURS, version)})) == OURS


@pytest.mark.parametrize("given", [{"customer": 42}, UserDict(customer=42), MappingProxyType({"customer": 42})])
def test_a_mapping_that_a_caller_gives_is_read_for_any_task(given: Any) -> None:
    assert read(given, "x") == read(given, "y") == {"customer": 42}


def test_a_header_of_an_earlier_release_is_read() -> None:
    old = {"created": ms(0), "sent": ms(1), "customer": 42}
    assert read(old, "x") == old


@pytest.mark.parametrize("given", ["text", "", "[1]", "{}", '{"v": 3}', '{"v": 2', "[" * 100_000, 7, [1], None])
def test_what_is_no_header_stays_what_it_is(given: Any) -> None:
    assert read(given, "x") is given
    assert header_of(Context({"id": "x", HEADER: given})) == {}


def delivery(header: Any, *, protocol: int = 2) -> Any:
    carried = {HEADER: header} if protocol == 2 else {"headers": {HEADER: header}}
    return SimpleNamespace(id="x", request_dict={"id": "x", **carried})


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("protocol", [1, 2])
def test_a_delivery_gets_a_token_of_its_own(version: int, protocol: int) -> None:
    given = write({**OURS, "run": "0" * 20, "delivered": True, "here": []}, version)
    request = delivery(given, protocol=protocol)
    assert header_of_delivery(request) == OURS, "it was not delivered here"
    marked = mark_delivery(request, ms(2))
    assert request.request_dict[HEADER] is marked
    assert is_token(marked["run"])
    assert marked["run"].startswith(f"{ms(2):014x}")
    assert header_of_delivery(request) == marked == {**OURS, "run": marked["run"], "delivered": True, "here": ()}
    assert json.loads(given)["run"] == "0" * 20 if version == 2 else given["run"] == "0" * 20, (
        "a message is not changed"
    )


@pytest.mark.parametrize("header", [{**OURS, "for": checksum("y")}, "text", None, 7])
def test_a_delivery_takes_over_nothing_of_another_task(header: Any) -> None:
    assert mark_delivery(delivery(header), ms(2)).keys() == {"run", "delivered", "here"}


@pytest.mark.parametrize("created", [None, -1, 2**56, "1", True, 1.5])
def test_a_time_that_is_none_is_left_out(created: Any) -> None:
    assert stamp("x", created, ms(1)) == {"for": checksum("x"), "sent": ms(1)}


def test_ids_of_all_kinds_have_a_checksum() -> None:
    assert checksum("x") != checksum("y")
    assert all(isinstance(checksum(one), int) for one in ("", "\ud800", 7, None))


@pytest.mark.parametrize("text", ["[" * 3000, '{"a":' * 3000, "{" + " " * 300_000 + "}", "1", "not JSON"], ids=len)
def test_content_that_cannot_be_read_is_left_out_and_nothing_else(text: str) -> None:
    assert context.sound({**OURS, "content": text}) == {"customer": "acme"}


def test_a_long_text_is_not_parsed_for_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every event of its task would parse it again."""
    monkeypatch.setattr(json, "loads", lambda _: pytest.fail("it was parsed"))
    context.sound({"content": '{"a":1}' + " " * 5_000_000})
