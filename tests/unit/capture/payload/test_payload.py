"""Payloads: any value becomes JSON that every database takes, and values that JSON lacks are marked."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import pathlib
import types
import uuid
import zoneinfo
from collections import ChainMap, Counter, OrderedDict, UserDict, UserList, UserString, defaultdict, deque
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kombu.utils import json as wire

from celery_asynctask.capture.payload import OVERRUN
from celery_asynctask.capture.payload.readers import MAX_BITS
from celery_asynctask.capture.payload.walk import MAX_DEPTH
from celery_asynctask.core.marks import is_whole
from tests.unit.capture.payload.values import (
    ANYTHING,
    ENCODERS,
    GENERATED,
    MARK,
    PLAIN,
    STORABLE,
    TAME,
    Color,
    Number,
    Order,
    Point,
    Slotted,
    Word,
    argument,
    armed,
    depth_of,
    hostile,
    refused,
    to_json,
)


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(max_examples=GENERATED, suppress_health_check=list(HealthCheck))
@given(ANYTHING)
def test_any_value_becomes_bounded_json_that_databases_take(value: Any) -> None:
    """Each of them as a result, an argument and a keyword argument, with one of six encoders in turn."""
    encoder = ENCODERS[id(value) // 16 % len(ENCODERS)]
    with armed():
        made = [encoder.value(value), *encoder.arguments([value], {"k": value}, ("token",))]
    for one in made:
        assert refused(one) is None
        assert len(json.dumps(one)) <= encoder.max_bytes + OVERRUN
        assert depth_of(one) <= MAX_DEPTH + 3


@settings(max_examples=100)
@given(PLAIN)
def test_plain_json_comes_back_as_it_was(value: Any) -> None:
    delivered = json.loads(json.dumps(value))
    assert to_json(value) == delivered == argument(value)
    assert json.dumps(to_json(value)) == json.dumps(delivered)
    assert is_whole(argument(value))


WIRE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | STORABLE
    | st.datetimes(timezones=st.none() | st.just(dt.timezone.utc))
    | st.dates()
    | st.times()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.binary()
    | st.sampled_from([*Number, *Word]),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(STORABLE.filter(lambda key: not key.startswith("$")), inner)
    ),
)


@settings(max_examples=100)
@given(WIRE)
@example(b"\0")
@example({2: 2, None: 3, True: 4, 1.5: 5})
def test_whole_arguments_are_what_celery_delivers(value: Any) -> None:
    stored = argument(value)
    assert is_whole(stored)
    assert wire.loads(json.dumps(stored)) == wire.loads(wire.dumps(value))


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@given(TAME)
def test_arguments_that_celery_would_refuse_are_not_whole(value: Any) -> None:
    try:
        refused_by_celery = not wire.dumps(value, default_kwargs={"allow_nan": False})
    except (TypeError, ValueError):
        refused_by_celery = True
    if refused_by_celery:
        assert not is_whole(argument(value))


@pytest.mark.parametrize(
    ("value", "plain", "as_argument"),
    [
        ((1, "a"), [1, "a"], [1, "a"]),
        ({3, 1, 2}, [1, 2, 3], "as"),
        (frozenset({"b", "a"}), ["a", "b"], "as"),
        (deque([1]), [1], "as"),
        (dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.timezone.utc), "2026-01-02T03:04:05.000006+00:00", "datetime"),
        (dt.datetime(2026, 7, 2, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")), "2026-07-02T00:00:00+02:00", "datetime"),
        (dt.date(2026, 1, 2), "2026-01-02", "date"),
        (dt.time(3, 4), "03:04:00", "time"),
        (dt.timedelta(hours=1), "1:00:00", "as"),
        (decimal.Decimal("1.10"), "1.10", "decimal"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001", "uuid"),
        (Color.RED, "red", "as"),
        (Color.ODD, [1, 2], "as"),
        (Number.ONE, 1, 1),
        (Word.YES, "yes", "yes"),
        (Order(1, ["a"]), {"number": 1, "lines": ["a"]}, "as"),
        (Slotted(1, ["a"]), {"number": 1, "lines": ["a"]}, "as"),
        (Point(1, 2), [1, 2], [1, 2]),
        (OrderedDict(b=1), {"b": 1}, {"b": 1}),
        (defaultdict(int, b=1), {"b": 1}, {"b": 1}),
        (Counter("aab"), {"a": 2, "b": 1}, {"a": 2, "b": 1}),
        (types.MappingProxyType({"a": {"b": 1}}), {"a": {"b": 1}}, "as"),
        (types.MappingProxyType(UserDict({"a": 1})), {"a": 1}, "as"),
        (UserDict({"a": 1}), {"a": 1}, "as"),
        (ChainMap({"a": 1}, UserDict({"b": 2, "a": 3}), {"c": 4}), {"b": 2, "a": 1, "c": 4}, "as"),
        (UserList([1, "a"]), [1, "a"], "as"),
        (UserString("x"), "x", "as"),
        (type("Text", (str,), {})("x"), "x", "x"),
        (type("Float", (float,), {})(1.5), 1.5, 1.5),
        (1 + 2j, "(1+2j)", "as"),
        (b"abc", "abc", "bytes"),
        (pathlib.PurePosixPath("/x"), "/x", "as"),
    ],
)
def test_what_becomes_of_a_value(value: Any, plain: Any, as_argument: Any) -> None:
    assert (to_json(value), type(to_json(value))) == (plain, type(plain))
    argued = argument(value)
    if isinstance(argued, dict) and isinstance(as_argument, str):
        assert argued.get("__type__", argued.get(MARK)) == as_argument
        assert is_whole(argued) == (as_argument != "as")
        assert as_argument != "as" or argued["value"] == plain
    else:
        assert (argued, type(argued)) == (as_argument, type(as_argument))


@pytest.mark.parametrize(
    ("value", "marker"),
    [
        (math.nan, {MARK: "as", "type": "float", "value": "nan"}),
        (-math.inf, {MARK: "as", "type": "float", "value": "-inf"}),
        (b"\x00\xff", {MARK: "as", "type": "bytes", "value": "AP8="}),
        (Order, {MARK: "object", "type": "type", "repr": f"<class '{Order.__module__}.Order'>"}),
        (argument, {MARK: "object", "type": "function", "repr": f"<function {argument.__module__}.argument>"}),
        (object(), {MARK: "object", "type": "object"}),
        (iter([1]), {MARK: "object", "type": "list_iterator"}),
        (json, {MARK: "object", "type": "module"}),
        ("a\0", {MARK: "replaced", "text": "a\ufffd"}),
        ("é\ud800", {MARK: "replaced", "text": "é?"}),
        (2**MAX_BITS, {MARK: "cut", "type": "int", "size": MAX_BITS + 1}),
        (-(10**5000), {MARK: "cut", "type": "int", "size": 16610}),
        (decimal.Decimal("1" * 100_000), {MARK: "cut", "type": "decimal.Decimal"}),
    ],
    ids=range(13),
)
def test_what_json_cannot_say_is_marked(value: Any, marker: Any) -> None:
    assert to_json(value) == marker
    assert to_json([value]) == [marker]
    assert not is_whole(to_json([value]))


def test_keys_are_written_as_json_writes_them() -> None:
    value = {1: "a", None: "b", False: "c", 1.5: "d", Word.YES: 0, Number.ONE: 1, 2**70: 2}
    assert to_json(value) == json.loads(json.dumps(value)) == argument(value)
    assert to_json({uuid.UUID(int=1): 1, Color.RED: 2}) == {str(uuid.UUID(int=1)): 1, "red": 2}


def test_keys_that_are_not_those_of_the_original_are_noted() -> None:
    note = {MARK: {MARK: "keys"}}
    assert to_json({1: "a", "1": "b", "1…1": "c", None: 0}) == {"1": "a", "1…1": "b", "1…1…2": "c", "null": 0, **note}
    assert to_json({(1, 2): "a"}) == {"[1, 2]": "a", **note}
    assert to_json({"a\0": 1}) == {"a\ufffd": 1, **note}
    assert argument({uuid.UUID(int=1): 1}) == {str(uuid.UUID(int=1)): 1, **note}
    assert len(to_json({hostile(str, f"{number}"): number for number in range(100)})) == 100
    long = to_json({"k" * 1000: 1})
    assert (long.pop(MARK), long) == (note[MARK], {"k" * 512: 1})


def test_a_user_s_own_marker_is_none() -> None:
    for key in ("$asynctask", "$$asynctask", "$asynctask-x"):
        assert to_json({key: "redacted"}) == {f"${key}": "redacted"}
        assert not is_whole(to_json({key: 1}))
    assert to_json({"$ref": 1, "asynctask": 2}) == {"$ref": 1, "asynctask": 2}
    assert is_whole({"$ref": [{"asynctask": 2}]})
