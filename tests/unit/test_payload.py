"""Payloads: any value becomes JSON that every database takes, and what was cut says so."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import os
import pathlib
import re
import sys
import types
import uuid
import zoneinfo
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import Reject, Retry
from celery.utils.serialization import UnpickleableExceptionWrapper
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kombu.utils import json as wire

from celery_asynctask import payload
from celery_asynctask.events import encode
from celery_asynctask.payload import (
    MAX_BITS,
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_MESSAGE,
    MAX_REPR,
    MAX_TRACEBACK,
    OVERRUN,
    Encoder,
    error_message,
    error_type,
    is_whole,
    reason_text,
    safe_repr,
    text,
    to_json,
    traceback_text,
)
from celery_asynctask.payload.plain import plain_text
from celery_asynctask.payload.redaction import Redaction
from tests import quick

MARK = payload.MARK
STORABLE = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**MAX_BITS) + 1, 2**MAX_BITS - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | STORABLE,
    lambda inner: st.lists(inner) | st.dictionaries(STORABLE.filter(lambda key: not key.startswith("$")), inner),
)
"""What JSON can say, and databases can keep, as it is."""


touched: list[str] = []
"""Which methods of `hostile` objects were called while `armed`."""
is_armed = False


@contextlib.contextmanager
def armed() -> Iterator[None]:
    """Hostile objects resist in here; outside, Hypothesis and pytest may look at them. None may have been touched."""
    global is_armed
    touched.clear()
    is_armed = True
    try:
        yield
    finally:
        is_armed = False
    assert touched == []


def touch(name: str, otherwise: Any = None) -> Any:
    def method(*args: Any, **kwargs: Any) -> Any:
        if is_armed:
            touched.append(name)
            raise RuntimeError(name)
        if otherwise is None:
            raise AttributeError(name)
        return otherwise(*args, **kwargs)

    return method


SPECIAL = re.findall(
    r"\w+",
    """
    __repr__ __str__ __eq__ __lt__ __iter__ __len__ __getattr__ __getattribute__ __bool__ __format__ __getitem__
    __contains__ __index__ __int__ __float__ __fspath__ __bytes__ __json__ __html__ __next__ __call__ __sizeof__
    __dir__ items keys values isoformat item tolist utcoffset decode encode bit_length as_tuple __instancecheck__
    __get__
    """,
)
ATTRIBUTES = {name: property(touch(name)) for name in ("value", "name", "hex", "args")}


class Meta(type):
    """The class of hostile classes: asking them about themselves is calling the user, too."""


for _name in (
    *("__instancecheck__", "__subclasscheck__", "__getattribute__"),
    *("__eq__", "__hash__", "__repr__", "__call__"),
):
    setattr(Meta, _name, touch(f"metaclass {_name}", getattr(type, _name)))


def hostile(base: type, *arguments: Any) -> Any:
    """An instance of a subclass of ``base`` that resists in every way."""
    space = {name: touch(name, getattr(base, name, None)) for name in SPECIAL}
    space.update(ATTRIBUTES, __class__=property(touch("__class__", type)), __slots__=())
    space["__hash__"] = touch("__hash__", base.__hash__ or object.__hash__)
    return Meta(f"Hostile{base.__name__}", (base,), space)(*arguments)


def hashable(value: Any) -> bool:
    return type.__getattribute__(type(value), "__mro__")[1] not in (list, dict, set, deque, bytearray)


class Colour(enum.Enum):
    RED = "red"
    ODD = (1, 2)


class Number(enum.IntEnum):
    ONE = 1


class Word(str, enum.Enum):
    YES = "yes"


@dataclasses.dataclass
class Order:
    number: int
    lines: list[str]


@dataclasses.dataclass(frozen=True)
class Slotted:
    __slots__ = ("lines", "number")
    number: int
    lines: Any


Point = namedtuple("Point", "x y")

HOSTILE = (
    st.builds(lambda: hostile(object))
    | st.builds(lambda value: hostile(str, value), st.text())
    | st.builds(lambda value: hostile(int, value), st.integers())
    | st.builds(lambda value: hostile(float, value), st.floats())
    | st.builds(lambda value: hostile(bytes, value), st.binary())
    | st.builds(lambda value: hostile(decimal.Decimal, value), st.decimals(allow_nan=False))
    | st.sampled_from([list, set, frozenset, deque, bytearray, tuple]).map(lambda base: hostile(base, [1, 2]))
    | st.builds(lambda: hostile(dict, {"a": 1}))
    | st.builds(lambda: hostile(dt.datetime, 2026, 1, 2))
    | st.builds(lambda: hostile(dt.date, 2026, 1, 2))
    | st.builds(lambda: hostile(dt.timedelta, 3))
)
TAME = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**400, 10**5000)
    | st.floats()
    | st.text()
    | st.text(st.characters(categories=["Cs", "Cc"]))
    | st.text(min_size=1).map(lambda value: value * 500)
    | st.binary()
    | st.binary(min_size=1).map(lambda value: value * 500)
    | st.decimals()
    | st.datetimes(timezones=st.none() | st.just(dt.timezone.utc))
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.complex_numbers()
    | st.sampled_from([*Colour, *Number, *Word])
    | st.builds(object)
    | st.sampled_from(["password=x", {"password": "x"}, "postgres://a:b@c/d", {MARK: "cut"}, {f"${MARK}": 1}]),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.lists(inner).map(deque)
        | st.dictionaries(
            st.one_of(st.text(), st.integers(), st.none(), st.floats(), st.tuples(st.integers()), st.uuids()), inner
        )
        | st.builds(Order, inner, inner)
        | st.builds(Slotted, inner, inner)
        | st.tuples(inner, inner).map(Point._make)
        | st.lists(inner, min_size=1, max_size=3).map(lambda values: [*values, values[0]] * 40)
    ),
)
ANYTHING = TAME | st.lists(HOSTILE | TAME) | st.dictionaries(HOSTILE.filter(hashable), HOSTILE)
GENERATED = int(os.environ.get("ASYNCTASK_GENERATED", "1000"))
"""How many values are tried; 10,000 take a minute."""
ENCODERS = [Encoder(size, redaction) for size in (256, 2_000, 65_536) for redaction in (None, Redaction())]


def refused(value: Any) -> str | None:
    """Why a database would refuse the value as JSON; None if it would not."""
    try:
        written = json.dumps(value, allow_nan=False)
        encode({"kind": "started", "id": "", "name": "", "at": 0, "args": value})
    except (TypeError, ValueError, RecursionError) as exc:
        return str(exc)
    if re.search(r"(?<!\\)(\\\\)*\\u0000", written):
        return "NUL"
    return next((one for one in strings(value) if not encodable(one)), None)


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from strings(one)


def encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def depth_of(value: Any) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 0


def argument(value: Any, encoder: Encoder = payload.PLAIN) -> Any:
    """What becomes of a value that is an argument."""
    args, kwargs = encoder.arguments((value,), {"k": value})
    assert args == [kwargs["k"]] or MARK in json.dumps(args)
    return args[0]


# -- any value -----------------------------------------------------------------------------


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
        (Colour.RED, "red", "as"),
        (Colour.ODD, [1, 2], "as"),
        (Number.ONE, 1, 1),
        (Word.YES, "yes", "yes"),
        (Order(1, ["a"]), {"number": 1, "lines": ["a"]}, "as"),
        (Slotted(1, ["a"]), {"number": 1, "lines": ["a"]}, "as"),
        (Point(1, 2), [1, 2], [1, 2]),
        (OrderedDict(b=1), {"b": 1}, {"b": 1}),
        (defaultdict(int, b=1), {"b": 1}, {"b": 1}),
        (type("Text", (str,), {})("x"), "x", "x"),
        (type("Float", (float,), {})(1.5), 1.5, 1.5),
        (1 + 2j, "(1+2j)", "as"),
        (b"abc", "abc", "bytes"),
        (pathlib.PurePosixPath("/x"), "/x", "as"),
    ],
)
def test_what_becomes_of_a_value(value: Any, plain: Any, as_argument: Any) -> None:
    assert (to_json(value), type(to_json(value))) == (plain, type(plain))
    told = argument(value)
    if isinstance(told, dict) and isinstance(as_argument, str):
        assert told.get("__type__", told.get(MARK)) == as_argument
        assert is_whole(told) == (as_argument != "as")
        assert as_argument != "as" or told["value"] == plain
    else:
        assert (told, type(told)) == (as_argument, type(as_argument))


@pytest.mark.parametrize(
    ("value", "marker"),
    [
        (math.nan, {MARK: "as", "type": "float", "value": "nan"}),
        (-math.inf, {MARK: "as", "type": "float", "value": "-inf"}),
        (b"\x00\xff", {MARK: "as", "type": "bytes", "value": "AP8="}),
        (Order, {MARK: "object", "type": "type", "repr": f"<class '{__name__}.Order'>"}),
        (argument, {MARK: "object", "type": "function", "repr": f"<function {__name__}.argument>"}),
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
    assert to_json({uuid.UUID(int=1): 1, Colour.RED: 2}) == {str(uuid.UUID(int=1)): 1, "red": 2}


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


# -- objects of other libraries ------------------------------------------------------------


def test_numpy_scalars_and_arrays() -> None:
    numpy = pytest.importorskip("numpy")
    values = [numpy.int64(3), numpy.float32(0.5), numpy.float64(1.5), numpy.bool_(True), numpy.str_("x")]
    assert to_json(values) == [3, 0.5, 1.5, True, "x"]
    assert to_json(numpy.datetime64("2026-01-02T03:04:05.123456789")) == "2026-01-02T03:04:05.123456789"
    assert to_json(numpy.longdouble(1))["type"] == "numpy.longdouble"
    assert to_json(numpy.array([[1, 2], [3, 4]])) == [[1, 2], [3, 4]]
    assert to_json(numpy.zeros(10**7)) == {MARK: "cut", "type": "numpy.ndarray", "size": 10**7}
    assert [is_whole(argument(one)) for one in values] == [False, False, True, False, True]


def test_attrs_and_pydantic_objects_without_what_they_hide() -> None:
    attrs, pydantic = pytest.importorskip("attrs"), pytest.importorskip("pydantic")

    @attrs.define
    class Attrs:
        a: int
        hidden: str = attrs.field(repr=False)

    class Model(pydantic.BaseModel, extra="allow"):  # type: ignore[misc,name-defined,call-arg]
        a: int
        hidden: str = pydantic.Field("h", repr=False)

        @pydantic.computed_field  # type: ignore[untyped-decorator]
        @property
        def computed(self) -> int:
            raise RuntimeError("asked")

    @dataclasses.dataclass
    class Data:
        a: int
        hidden: str = dataclasses.field(repr=False)

        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

    gone = {MARK: "redacted"}
    redacting = Encoder(redaction=Redaction())
    for value in (Attrs(1, "h"), Data(1, "h"), Model(a=1)):
        assert to_json(value) == {"a": 1, "hidden": "h"}
        assert redacting.value(value) == {"a": 1, "hidden": gone}
    assert redacting.value(Model(a=1, token="x", b=2)) == {"a": 1, "hidden": gone, "token": gone, "b": 2}
    assert to_json(pydantic.SecretStr("x")) == {MARK: "object", "type": "pydantic.types.SecretStr"}


def test_nothing_is_imported() -> None:
    before = set(sys.modules)
    to_json([object(), Order(1, []), Colour.RED, uuid.UUID(int=1), types.SimpleNamespace(a=1)])
    assert set(sys.modules) == before


def test_generators_are_not_consumed() -> None:
    generator = (number for number in range(3))
    assert to_json([generator, map(str, generator)]) == [{MARK: "object", "type": one} for one in ("generator", "map")]
    assert list(generator) == [0, 1, 2]


# -- values that resist ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: hostile(object),
        lambda: hostile(Exception, "x"),
        lambda: [Meta("OnlyMeta", (), {})()][0],
        lambda: hostile(pathlib.PurePosixPath, "/x"),
        lambda: hostile(dt.tzinfo),
        lambda: Meta("AClass", (), {}),
    ],
)
def test_unknown_objects_are_described_and_not_touched(make: Any) -> None:
    value = make()
    with armed():
        for converted in (to_json(value), to_json({"k": [value]})["k"][0], argument(value)):
            assert converted[MARK] == "object"
        assert "<" in safe_repr(value)


def test_a_user_s_time_zone_is_not_asked() -> None:
    value = dt.datetime(2026, 1, 2, 3, tzinfo=hostile(dt.tzinfo))
    with armed():
        assert to_json(value) == {MARK: "as", "type": "datetime.datetime", "value": "2026-01-02T03:00:00"}


def test_a_class_may_lie_about_its_name_and_dict() -> None:
    class Liar:
        __dict__ = property(touch("__dict__"))  # type: ignore[assignment]
        __module__ = 3  # type: ignore[assignment]
        __dataclass_fields__ = property(touch("fields"))

    with armed():
        assert to_json(Liar())["type"].endswith("Liar")
        assert to_json(type("N" * 10_000, (), {})())["type"] == f"{__name__}.{'N' * 100}"[:100]


def test_cycles_end() -> None:
    endless: list[Any] = []
    endless.append(endless)
    mapping: dict[str, Any] = {"a": {}}
    mapping["a"]["b"] = mapping
    order = Order(1, [])
    order.lines.append(order)  # type: ignore[arg-type]
    assert to_json(endless) == [{MARK: "cycle", "type": "list", "up": 1}]
    assert to_json(mapping) == {"a": {"b": {MARK: "cycle", "type": "dict", "up": 2}}}
    assert to_json(order)["lines"] == [{MARK: "cycle", "type": f"{__name__}.Order", "up": 2}]
    twice = [1]
    assert to_json([twice, twice]) == [[1], [1]]


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


def test_the_soft_time_limit_is_the_task_s() -> None:
    """It is raised by a signal handler, so it may strike while we convert a value."""

    class Struck(Exception):
        def __str__(self) -> str:
            raise SoftTimeLimitExceeded

    with pytest.raises(SoftTimeLimitExceeded):
        error_message(Struck())


# -- cut, and saying so ----------------------------------------------------------------------


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


# -- errors ----------------------------------------------------------------------------------


def test_error_type_and_message() -> None:
    assert (error_type(KeyError("a")), error_message(KeyError("a"))) == ("KeyError", "'a'")
    assert (error_type(None), error_message(None)) == (None, None)


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


def test_a_traceback_keeps_its_end() -> None:
    assert traceback_text("Traceback") == "Traceback"
    assert traceback_text(None) is traceback_text("") is traceback_text(object()) is None
    cut = traceback_text("x" * MAX_TRACEBACK + "\nValueError: the end")
    assert cut is not None
    assert cut.startswith("[20 characters cut]…\n")
    assert cut.endswith("ValueError: the end")
    assert len(cut) <= MAX_TRACEBACK + 100


def test_a_secret_at_the_cut_of_a_traceback_is_not_seen() -> None:
    encoder = Encoder(redaction=Redaction())
    for length in range(MAX_TRACEBACK - 40, MAX_TRACEBACK):
        shown = traceback_text("a" * 99 + " connect(password='SEKRIT')" + "x" * length, encoder)
        assert shown is not None
        assert "RIT" not in shown


@given(st.text(), st.integers(0, 10))
def test_text_is_kept_or_cut(value: str, limit: int) -> None:
    kept = text(value, limit)
    assert encodable(kept)
    if len(value) <= limit and encodable(value):
        assert kept == value
    if len(value) > limit:
        assert kept.endswith(f"…[+{len(value) - limit} characters]")


def test_a_cut_ends_whatever_room_is_left() -> None:
    """A head of no characters is two bytes of JSON; looking for a shorter one would never end."""
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


# -- arguments that need no walk -----------------------------------------------------------


@settings(max_examples=500)
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
