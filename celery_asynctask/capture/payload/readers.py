"""Convert values of each type to JSON: the readers that `walk` calls for values of other types than JSON's own.

Pure. A reader calls methods of built-in types only, never those that a subclass may have overridden.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import enum
import types
import uuid
from collections import ChainMap, UserDict, UserList, UserString, deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from celery_asynctask.capture.payload.inspection import (
    Call,
    Calls,
    Hidden,
    bare,
    fields,
    function_name,
    inherits,
    instance_dict,
    known,
    slot,
    type_name,
)
from celery_asynctask.capture.payload.mappings import pairs

if TYPE_CHECKING:
    from celery_asynctask.capture.payload.walk import Walk

MAX_ITEMS: Final = 10_000
"""Elements kept of one list or mapping."""
MAX_BITS: Final = 1_024
"""Most bits of an integer that is kept as one: about the largest float. MySQL refuses larger ones."""
MARGIN: Final = 2_048
"""Characters after a cut that redaction sees, too, so that it recognizes a secret of which the cut leaves a part."""
_MAX_DECIMAL: Final = 4_096
"""Most bytes in memory of a Decimal that is written out."""


def read_object(walk: Walk, value: Any, kind: type, depth: int, name: str) -> Any:
    """Convert a value of no built-in type."""
    if kind is Hidden:
        return walk.redacted(value)
    if kind is Call or kind is Calls:
        return _calls(walk, value, kind, depth)
    if (members := fields(value, hide=walk.redaction is not None)) is not None:
        return walk.container(value, None, depth, name, (members, len(members)))
    if (generic := known("numpy", "generic")) is not None and inherits(kind, generic):
        return _scalar(walk, value, kind, generic, depth)
    if (array := known("numpy", "ndarray")) is not None and inherits(kind, array):
        return _array(walk, value, kind, array, depth)
    module, _, own_name = type_name(kind).rpartition(".")
    if own_name in _TEXTUAL.get(module, ()) and known(module, own_name) is kind:
        return walk.typed(kind, walk.string(str(value)))
    secret = dict.get(instance_dict(value), "_secret_value")  # pydantic's SecretStr and its like
    walk.take(slot(value, "_secret_value") if secret is None else secret)
    return walk.marker("object", type=type_name(kind))


def _calls(walk: Walk, value: Any, kind: type, depth: int) -> Any:
    """Convert items that are arguments of another task: each argument has the name and the path that it has in a direct
    call. What cannot be told apart is redacted as a whole if any of it might be."""
    item, names, starred = bare(value), value.names, value.starred
    base: Any
    if kind is Call and not starred:
        item, base = (item,), tuple
    elif inherits(type(item), tuple):
        base = tuple
    elif inherits(type(item), list) and not inherits(type(item), UserList):
        base = list
    else:
        redaction = walk.redaction
        guarded = redaction is not None and (redaction.rule is not None or any(map(redaction.sensitive, names)))
        return walk.redacted(value) if guarded and item is not None else walk.convert(item, depth)
    size = base.__len__(item)
    if kind is Calls:
        calls = (Call(one, names, starred=starred) for one in base.__iter__(item))
        return walk.sequence(calls, size, item, depth)
    hidden = walk.hidden(item, base, size, "", names)
    trail, walk.trail = walk.trail, ("args",)
    converted = walk.sequence(base.__iter__(item), size, item, depth, names, hidden)
    walk.trail = trail
    return converted if starred else converted[0]


def _scalar(walk: Walk, value: Any, kind: type, generic: Any, depth: int) -> Any:
    times = (known("numpy", name) for name in ("datetime64", "timedelta64"))
    base = next((time for time in times if inherits(kind, time)), None)
    plain = generic.item(value) if base is None else base.__str__(value)
    if inherits(type(plain), generic):  # wider than any type of Python
        return walk.marker("as", type=type_name(kind), value=generic.__str__(value))
    return walk.typed(kind, walk.convert(plain, depth))


def _array(walk: Walk, value: Any, kind: type, array: Any, depth: int) -> Any:
    size, written = (array.__dict__[attribute].__get__(value) for attribute in ("size", "nbytes"))
    if size > MAX_ITEMS or written > 100 * MAX_ITEMS:
        return walk.marker("cut", type=type_name(kind), size=size)
    return walk.typed(kind, walk.convert(array.tolist(value), depth))


def _bytes(base: Any, walk: Walk, value: Any, kind: type, *_: Any) -> Any:
    size = memoryview.nbytes.__get__(value) if base is memoryview else base.__len__(value)
    if size > walk.room:
        walk.check()
        start = base.__getitem__(value, slice(0, walk.room + MARGIN))
        return walk.cut(bytes(start).decode("utf-8", "replace"), size, type_name(kind))
    data = bytes(base.__getitem__(value, slice(0, size)))
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        if walk.redaction is not None and any(map(walk.redaction.changes, _readings(data))):
            return walk.redacted(value)
        text = base64.b64encode(data).decode()
        if walk.redaction is not None:
            text = walk.redaction.text(text)
        walk.room -= len(text)
        if walk.wire and base is bytes:
            return walk.envelope("base64", text, text)
        return walk.marker("as", type=type_name(kind), value=text)
    converted = walk.string(text)
    if base is bytes and walk.wire:
        return walk.envelope("bytes", converted, text)
    return walk.typed(kind, converted)


def _readings(data: bytes) -> tuple[str, str]:
    """The texts that may be in bytes: with NUL between them, or in UTF-16."""
    return data.replace(b"\0", b"\n").decode("latin-1"), data.replace(b"\0", b"").decode("latin-1")


def _moment(base: Any, walk: Walk, value: Any, kind: type, *_: Any) -> Any:
    if base is not dt.date:
        zone = type(base.tzinfo.__get__(value))
        known_zone = zone is dt.timezone or zone is type(None)
        if not known_zone and type_name(zone).partition(".")[0] not in _ZONE_LIBRARIES:
            parts = ("year", "month", "day", "hour", "minute", "second", "microsecond")
            plain = base(*(getattr(base, part).__get__(value) for part in parts[3 if base is dt.time else 0 :]))
            return walk.marker("as", type=type_name(kind), value=plain.isoformat())
    text = base.isoformat(value)
    return walk.envelope(base.__name__, text, text)


_ZONE_LIBRARIES = {"backports", "celery", "dateutil", "django", "pendulum", "psycopg2", "pytz", "tzlocal", "zoneinfo"}
"""Packages whose time zones may be called, because they only compute an offset. A user's own may do anything."""


def _decimal(walk: Walk, value: Any, kind: type, *_: Any) -> Any:
    if decimal.Decimal.__sizeof__(value) > _MAX_DECIMAL:  # which is known without writing it out
        return walk.marker("cut", type=type_name(kind))
    text = decimal.Decimal.__str__(value)
    if len(text) > walk.room:
        return walk.cut(text, len(text), type_name(kind))
    return walk.envelope("decimal", text, text)


def _uuid(walk: Walk, value: Any, *_: Any) -> Any:
    number = uuid.UUID.__dict__["int"].__get__(value)
    digits = f"{int.__int__(number):032x}"
    dashed = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    return walk.envelope("uuid", {"hex": digits}, dashed)


def _mapping(walk: Walk, value: Any, kind: type, depth: int, name: str) -> Any:
    items = pairs(value, MAX_ITEMS)
    if items is None:
        return walk.marker("object", type=type_name(kind))
    return walk.container(value, None, depth, name, items)


def _data(base: type, walk: Walk, value: Any, kind: type, depth: int, name: str) -> Any:
    """Convert the ``data`` of a `UserList` or a `UserString`, if it is of the built-in type ``base``."""
    data = dict.get(instance_dict(value), "data")
    if not inherits(type(data), base):
        return walk.marker("object", type=type_name(kind))
    return walk.typed(kind, READERS[id(base)](walk, data, type(data), depth, name))


def _text(walk: Walk, value: Any, *_: Any) -> Any:
    size = str.__len__(value)
    return walk.cut(value, size) if size > walk.room else walk.string(str.__str__(value))


def _integer(walk: Walk, value: Any, kind: type, *_: Any) -> Any:
    bits = int.bit_length(value)
    if bits > MAX_BITS:
        return walk.marker("cut", type=type_name(kind), size=bits)
    return walk.convert(int.__int__(value), 0)


_Reader = Callable[..., Any]
READERS: dict[int, _Reader] = {
    id(str): _text,
    id(int): _integer,
    id(float): lambda walk, value, *_: walk.convert(float.__float__(value), 0),
    id(complex): lambda walk, value, kind, *_: walk.typed(kind, walk.string(complex.__repr__(value))),
    id(dt.timedelta): lambda walk, value, kind, *_: walk.typed(kind, walk.string(dt.timedelta.__str__(value))),
    id(decimal.Decimal): _decimal,
    id(uuid.UUID): _uuid,
    id(enum.Enum): lambda walk, value, kind, depth, _: walk.typed(
        kind, walk.convert(instance_dict(value)["_value_"], depth + 1)
    ),
    id(types.MappingProxyType): _mapping,
    id(ChainMap): _mapping,
    id(UserDict): _mapping,
    id(UserList): partial(_data, list),
    id(UserString): partial(_data, str),
    id(type): lambda walk, value, *_: walk.marker("object", type="type", repr=f"<class '{type_name(value)}'>"),
    id(types.FunctionType): lambda walk, value, *_: walk.marker(
        "object", type="function", repr=f"<function {function_name(value)}>"
    ),
}
"""The reader of a type and its subclasses, by the type's identity: a lookup by class would call its metaclass."""


def _container(base: type, walk: Walk, value: Any, _: type, depth: int, name: str) -> Any:
    return walk.container(value, base, depth, name)


for _reader, _bases in (
    (_container, (dict, list, tuple, set, frozenset, deque)),
    (_bytes, (bytes, bytearray, memoryview)),
    (_moment, (dt.datetime, dt.date, dt.time)),
):
    READERS.update((id(base), partial(_reader, base)) for base in _bases)

_PATHS = ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
_TEXTUAL = {
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,
    "ipaddress": ("IPv4Address", "IPv6Address", "IPv4Network", "IPv6Network"),
    "fractions": ("Fraction",),
    "zoneinfo": ("ZoneInfo",),
}
"""Types of the standard library whose ``str`` is their value; not their subclasses."""
