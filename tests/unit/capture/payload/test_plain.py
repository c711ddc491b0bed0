"""Arguments that need no walk: plain values are written unchanged, exactly as a walk would write them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_asynctask.capture.payload import Encoder
from celery_asynctask.capture.payload.plain import plain_text
from celery_asynctask.capture.payload.readers import MAX_BITS
from celery_asynctask.capture.payload.redaction import Redaction


@settings(max_examples=200)
@given(
    st.lists(st.none() | st.booleans() | st.integers() | st.text(max_size=60) | st.floats(), max_size=18),
    st.dictionaries(
        st.sampled_from(["a", "value", "token", "name", "api_key", "$asynctask", "x y", "é"]) | st.text(max_size=5),
        st.none()
        | st.integers()
        | st.sampled_from(["", "x", "a=b", "password: hunter2", "Bearer abc123def"])
        | st.text(),
        max_size=18,
    ),
    st.sampled_from([(), ("token",), ("a", "password")]),
    st.sampled_from([256, 2_000, 65_536]),
    st.booleans(),
)
def test_what_is_plain_is_what_a_walk_would_make_of_it(
    args: list[Any], kwargs: dict[str, Any], names: tuple[str, ...], size: int, redacted: bool
) -> None:
    redaction = Redaction() if redacted else None
    encoder = Encoder(size, redaction)
    walked = encoder.arguments(args, kwargs, names)
    text = plain_text(args, kwargs, names, redaction, size)
    if text is not None:
        assert json.loads(f"{{{text}}}") == {"args": args, "kwargs": kwargs}
        assert walked == (args, kwargs)


CHANGED: dict[str, tuple[dict[str, Any], int]] = {
    "a pair with a colon": ({"a": "password: hunter2"}, 65_536),
    "a pair with an equals sign": ({"a": "with password=hunter2 in it"}, 65_536),
    "a bearer token": ({"a": "Bearer abc123def456"}, 65_536),
    "a JSON web token": ({"a": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln"}, 65_536),
    "a private key": ({"a": "-----BEGIN RSA PRIVATE KEY-----\nMIIE"}, 65_536),
    "NUL": ({"a": "a\0b"}, 65_536),
    "a lone surrogate": ({"a": "\ud800"}, 65_536),
    "a large integer": ({"a": 2**MAX_BITS}, 65_536),
    "a long string": ({"a": "x" * 70_000}, 65_536),
    "little room": ({f"{number:x>30}": number for number in range(16)}, 256),
    "a sensitive name": ({"api_key": "x"}, 65_536),
    "a named value": ({"name": "Authorization", "value": "x"}, 65_536),
    "a reserved name": ({"$asynctask": 1}, 65_536),
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_a_walk_changes_is_not_plain(name: str) -> None:
    kwargs, size = CHANGED[name]
    assert Encoder(size, Redaction()).arguments([], kwargs) != ([], kwargs)
    assert plain_text([], kwargs, (), Redaction(), size) is None


@pytest.mark.parametrize("kwargs", [{}, {"note": "x" * 100, "n": 5, "ok": True, "none": None}])
def test_most_arguments_are_plain(kwargs: dict[str, Any]) -> None:
    assert plain_text((1, "two"), kwargs, ("a", "b"), Redaction(), 65_536) is not None
