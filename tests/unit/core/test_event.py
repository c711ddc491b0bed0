"""Events: their encoding is one line of JSON and back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_asynctask.core.columns import ATTEMPT, TASK
from celery_asynctask.core.event import Event, Kind, decode, encode
from tests.histories import HISTORIES

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.sampled_from(Kind), st.text(), JSON)
def test_what_is_encoded_is_decoded(kind: Kind, text: str, value: Any) -> None:
    event: Event = {"kind": kind.value, "id": text, "name": text, "at": 1, "args": value, "error_message": text}
    data = encode(event)
    assert data.isascii()
    assert b"\n" not in data
    assert decode(data) == event


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", ["deep", object()]])
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        encode({"kind": "started", "id": "a", "name": "n", "at": 1, "args": value})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"started"',
        b"{}",
        b'{"kind": "started", "id": "a", "name": "n"}',
        b'{"kind": "exploded", "id": "a", "name": "n", "at": 1}',
        b'{"kind": null, "id": "a", "name": "n", "at": 1}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_event_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data)


def test_a_key_that_is_not_known_yet_is_kept() -> None:
    """An event of a newer version, drained by an older one."""
    assert decode(b'{"kind": "started", "id": "a", "name": "n", "at": 1, "new": 2}')["new"] == 2  # type: ignore[typeddict-item]


def test_histories_use_keys_that_events_have() -> None:
    known = get_type_hints(Event).keys()
    events: Iterable[Event] = (event for history in HISTORIES.values() for event in history())
    assert {key for event in events for key in event} <= known


def test_columns_are_copied_from_keys_that_events_have() -> None:
    unknown = {column.event for column in (*TASK, *ATTEMPT) if column.event} - get_type_hints(Event).keys()
    assert not unknown, f"not a key of Event in core/event.py: {unknown}"


def test_kinds_are_their_names_in_lower_case() -> None:
    assert [kind.value for kind in Kind] == [kind.name.lower() for kind in Kind]


def test_an_event_is_plain_json() -> None:
    event = cast("Event", {"kind": "started", "id": "é", "name": "n", "at": 1})
    assert json.loads(encode(event)) == event
