"""Values of every kind, some of which resist, and checks of their results."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import json
import os
import re
import types
from collections import ChainMap, UserDict, deque, namedtuple
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import strategies as st

from celery_asynctask.capture import payload
from celery_asynctask.capture.payload import Encoder
from celery_asynctask.capture.payload.readers import MAX_BITS
from celery_asynctask.capture.payload.redaction import Redaction
from celery_asynctask.core import marks
from celery_asynctask.core.event import encode

MARK = marks.MARK
to_json = payload.PLAIN.value
STORABLE = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**MAX_BITS) + 1, 2**MAX_BITS - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | STORABLE,
    lambda inner: st.lists(inner) | st.dictionaries(STORABLE.filter(lambda key: not key.startswith("$")), inner),
)
"""Values that JSON can express, and databases can keep, unchanged."""


touched: list[str] = []
"""Methods of `hostile` objects that were called while `armed`."""
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
    """The class of hostile classes: a question to a class is also a call of the user's code."""


for _name in (
    *("__instancecheck__", "__subclasscheck__", "__getattribute__"),
    *("__eq__", "__hash__", "__repr__", "__call__"),
):
    setattr(Meta, _name, touch(f"metaclass {_name}", getattr(type, _name)))


def hostile(base: type, *arguments: Any) -> Any:
    """An instance of a subclass of ``base`` that resists in every way."""
    space = {name: touch(name, getattr(base, name, None)) for name in SPECIAL}
    space.update(ATTRIBUTES, __class__=property(touch("__class__", type)), __slots__=())
    space["__hash__"] = touch("__hash__", getattr(base, "__hash__", None) or object.__hash__)
    meta = Meta if type(base) is type else type("AbstractMeta", (Meta, type(base)), {})
    return meta(f"Hostile{base.__name__}", (base,), space)(*arguments)


def hashable(value: Any) -> bool:
    kinds = type.__getattribute__(type(value), "__mro__")
    return kinds[0] is not types.MappingProxyType and kinds[1] not in (list, dict, set, deque, bytearray)


class Color(enum.Enum):
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
    | st.sampled_from([UserDict, ChainMap]).map(lambda base: hostile(base, {"a": 1}))
    | st.builds(lambda: types.MappingProxyType(hostile(Mapping)))
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
    | st.sampled_from([*Color, *Number, *Word])
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
GENERATED = int(os.environ.get("ASYNCTASK_GENERATED", "300"))
"""Number of values that are tried; `tests.soak` tries 10,000."""
ENCODERS = [Encoder(size, redaction) for size in (256, 2_000, 65_536) for redaction in (None, Redaction())]


def refused(value: Any) -> str | None:
    """The reason why a database would refuse the value as JSON; None: it would not."""
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
    """The payload of a value that is an argument."""
    args, kwargs = encoder.arguments((value,), {"k": value})
    assert args == [kwargs["k"]] or MARK in json.dumps(args)
    return args[0]
