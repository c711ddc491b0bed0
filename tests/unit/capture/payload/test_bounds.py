"""The bounds of payloads: values that are too long or too deep are cut and marked."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_asynctask.capture import payload
from celery_asynctask.capture.payload import OVERRUN, Encoder
from celery_asynctask.capture.payload.merged import Merged, fit
from celery_asynctask.capture.payload.readers import MAX_BITS, MAX_ITEMS
from celery_asynctask.capture.payload.redaction import Redaction
from celery_asynctask.capture.payload.walk import MAX_DEPTH
from celery_asynctask.core.marks import is_whole
from tests import quick
from tests.unit.capture.payload.values import ENCODERS, MARK, PLAIN, armed, depth_of, encodable, hostile, to_json


def test_what_is_nested_deeply_is_cut_and_named() -> None:
    nested: Any = "bottom"
    for _ in range(MAX_DEPTH):
        nested = [nested]
    assert to_json(nested) == nested
    assert "bottom" not in json.dumps(to_json([nested]))
    assert json.dumps({MARK: "cut", "type": "list", "size": 1}) in json.dumps(to_json([nested]))
    for _ in range(100_000):
        nested = [nested]
    assert depth_of(to_json(nested)) == MAX_DEPTH + 1


@given(st.integers(0, 1_000), st.sampled_from('xé😀"\n'))
def test_a_cut_string_says_by_how_much(length: int, letter: str) -> None:
    encoder = Encoder(max_bytes=1_000)
    value = letter * length
    converted = encoder.value(value)
    if len(json.dumps(value)) <= 1_000:
        assert converted == value
    else:
        head = converted.pop("head")
        assert converted == {MARK: "cut", "type": "str", "size": length}
        assert 0 < len(head) < length
        assert value.startswith(head)


def test_cut_lists_and_mappings_say_their_size() -> None:
    encoder = Encoder(max_bytes=1_000)
    listed = encoder.value(list(range(500)))
    assert listed[-1] == {MARK: "cut", "type": "list", "size": 500}
    assert listed[:-1] == list(range(len(listed) - 1))
    assert len(listed) > 100
    mapped = encoder.value({f"k{number}": number for number in range(500)})
    assert mapped.pop(MARK) == {MARK: "cut", "type": "dict", "size": 500}
    assert mapped == {f"k{number}": number for number in range(len(mapped))}
    assert to_json([None] * (MAX_ITEMS + 1))[-1] == {MARK: "cut", "type": "list", "size": MAX_ITEMS + 1}


def test_what_is_short_stays_beside_what_is_long() -> None:
    converted = to_json({"first": "x" * 10**6, "rows": [{"id": n, "text": "y" * 99} for n in range(10**4)], "id": 7})
    assert converted["id"] == 7
    assert converted["first"]["size"] == 10**6
    assert converted["rows"][0] == {"id": 0, "text": "y" * 99}
    assert converted["rows"][-1] == {MARK: "cut", "type": "list", "size": 10**4}


@pytest.mark.parametrize(
    "make",
    [
        lambda: "x" * 10**8,
        lambda: "é" * 10**8,
        lambda: ["😀" * 10**7],
        lambda: b"x" * 10**8,
        lambda: bytearray(10**8),
        lambda: memoryview(b"x" * 10**8),
        lambda: [1] * 10**7,
        lambda: [["x" * 50] * 1000] * 1000,
        lambda: dict.fromkeys(range(10**6)),
        lambda: set(range(10**6)),
        lambda: 1 << (8 * 10**8),
        lambda: hostile(str, "x" * 10**7),
        lambda: [hostile(object)] * 10**6,
        lambda: [decimal.Decimal(10) ** 9000] * 10**5,
        lambda: {"k" * 10**7: 1},
        lambda: "http://a:" * 10**6,
        lambda: "password=x&" * 10**6,
    ],
    ids=range(17),
)
def test_the_work_is_bounded_whatever_the_size(make: Any) -> None:
    value = make()
    encoder = Encoder(redaction=Redaction())
    with armed():
        converted = encoder.value(value)
        assert quick.seconds(lambda: encoder.value(value), 0.5) < 0.5, "it takes milliseconds"
    assert len(json.dumps(converted)) <= encoder.max_bytes + OVERRUN
    assert not is_whole(converted)


@given(st.text(), st.integers(0, 10))
def test_text_is_kept_or_cut(value: str, limit: int) -> None:
    kept = payload.PLAIN.text(value, limit)
    assert encodable(kept)
    if len(value) <= limit and encodable(value):
        assert kept == value
    if len(value) > limit:
        assert kept.endswith(f"…[+{len(value) - limit} characters]")


def test_a_cut_ends_whatever_room_is_left() -> None:
    """A head without characters is two bytes of JSON; searching for a shorter one would never end."""
    for size in range(256, 512):
        for value in (["é" * 50] * 4000, ["x" * 99] * 4000, [["😀" * 9] * 50] * 50):
            assert len(json.dumps(Encoder(size).value(value))) <= size + OVERRUN


@pytest.mark.parametrize("number", range(12))
def test_no_kind_of_value_exceeds_the_bound(number: int) -> None:
    value: Any = [
        *(1j, uuid.UUID(int=1), decimal.Decimal("1" * 3000), dt.datetime(2026, 1, 2), b"\xff" * 900, math.nan),
        *(2**MAX_BITS - 1, {1}, {"😀" * 400: 1}, {1: 1, "1": 2}, type("N" * 200, (), {}), "pwd=1&" * 30),
    ][number]
    deep = value
    for _ in range(MAX_DEPTH):
        deep = [value, {"😀" * 9: deep}]
    for one in ([value] * 1000, {f"k{number}": value for number in range(1000)}, [[value] * 50] * 50, deep):
        for encoder in (*ENCODERS[:4], Encoder(2_000, Redaction(rule=lambda path, _: path[-1] == 7))):
            for made in (encoder.value(one), encoder.arguments([one], {})[0]):
                assert len(json.dumps(made)) <= encoder.max_bytes + OVERRUN


STORED = (st.lists(PLAIN) | st.dictionaries(st.text(max_size=9), PLAIN)).map(Encoder(1_000, Redaction()).value)


@given(STORED, st.integers(256, 2_000))
def test_a_stored_value_is_made_shorter_and_says_so(value: Any, room: int) -> None:
    made = fit(value, room)
    assert len(json.dumps(made)) <= room + OVERRUN
    if made != value:
        assert len(json.dumps(value)) > room
        assert not is_whole(made)


@pytest.mark.parametrize(
    ("value", "shorter"),
    [
        ({MARK: "redacted", "text": "***" * 400}, {MARK: "cut", "type": "str", "size": 1_200, "head": "***"}),
        ({MARK: "cut", "type": "str", "size": 10**6, "head": "x" * 900}, {"type": "str", "size": 10**6, "head": "x"}),
        ({MARK: "cut", "type": "bytes", "size": 10**6, "head": "x" * 900}, {"type": "bytes", "size": 10**6}),
        ({MARK: "as", "type": "set", "value": ["x" * 900]}, {MARK: "as", "type": "set"}),
    ],
    ids=["redacted in part", "cut", "cut bytes", "in place"],
)
def test_a_mark_stays_one_when_it_is_shortened(value: Any, shorter: Any) -> None:
    made = fit({"k": value}, 300)["k"]
    for key, one in shorter.items():
        assert made[key].startswith(one) if key == "head" else made[key] == one
    assert len(json.dumps(made)) < 400


def test_a_list_that_is_cut_once_more_says_what_it_was() -> None:
    note = {MARK: "cut", "type": "tuple", "size": 10**6}
    made = fit([*range(300), note], 300)
    assert made == [*range(len(made) - 1), note]


def test_what_is_laid_over_a_mapping_is_bounded_with_it() -> None:
    encoder = Encoder(4_000)
    merged = Merged({"from": 1}, 4_000, frozenset({"progress"}))
    for number in range(3_000):
        merged.update(encoder.value({f"k{number}": "x" * (number % 90), "log": "y" * number}))
        merged.update({"progress": number})
        assert merged.content["progress"] == number
        assert len(json.dumps(merged.content)) <= 4_000 + OVERRUN
    assert merged.content["from"] == 1
    assert merged.content[MARK] == {MARK: "cut", "type": "dict"}
    assert merged.content["log"]["size"] > 2_900
    assert quick.seconds(lambda: merged.update({"progress": 1}), 0.01) < 0.01


def test_a_mapping_that_is_all_described_leaves_the_others_as_they_are() -> None:
    """Like one that a rule redacts completely."""
    merged = Merged({"a": 1}, 4_000)
    merged.update({MARK: "redacted"})
    assert merged.content == {"a": 1, MARK: {MARK: "redacted"}}
    merged.update({"b": 2})
    assert merged.content == {"a": 1, "b": 2, MARK: {MARK: "redacted"}}
    merged.update({"c": 3, MARK: {MARK: "cut", "type": "dict", "size": 9}})
    merged.update({MARK: {MARK: "keys"}})
    assert merged.content == {"a": 1, "b": 2, "c": 3, MARK: {MARK: "cut", "type": "dict"}}
