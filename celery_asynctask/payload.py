"""Values that Python hands over (args, kwargs, results, exceptions) to bounded JSON.

Pure, and careful with what it calls: only methods of built-in types and a few standard-library ones, plus ``repr``
of what it does not know. What was cut says so in the value, so nobody mistakes it for the whole.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import math
import os
import uuid
from collections.abc import Collection, Mapping, Set
from typing import Any, Final

from billiard.exceptions import SoftTimeLimitExceeded

MAX_ITEMS: Final = 1_000
"""Elements of one list or mapping that are kept."""
MAX_NODES: Final = 10_000
"""Values of one payload that are kept, all levels together."""
MAX_DEPTH: Final = 20
"""Levels of nesting that are kept."""
MAX_TEXT: Final = 20_000
"""Characters of one string that are kept."""
MAX_CHARACTERS: Final = 200_000
"""Characters of one payload that are kept, all strings together but those of at most `SHORT` ASCII characters."""
SHORT: Final = 64
"""Characters of a string that is kept without counting."""
MAX_BITS: Final = 1_024
"""Bits of a number that is kept as a number, about as large as a float gets."""
MAX_REPR: Final = 500
"""Characters kept of the ``repr`` of a value that is no JSON."""
MAX_MESSAGE: Final = 4_000
"""Characters of an error message that are kept."""
MAX_TRACEBACK: Final = 20_000
"""Characters of a traceback that are kept: its end, where the error is."""


def to_json(value: Any) -> Any:
    """``value`` as JSON (dict, list, str, int, finite float, bool, None), never raising.

    Tuples and sets become lists; datetimes ISO 8601; Decimal and UUID strings; an enum member its value; a dataclass
    a mapping; NaN and infinities their names; huge numbers hexadecimal text; anything else its bounded ``repr``. A cut
    string ends in ``…[+N characters]``, a cut list in ``"…[+N items]"``, a cut mapping has the key ``"…"``; what is
    nested too deeply or cannot be read is ``"…[its type]"``. A mapping's keys become text; one that is taken already
    gets ``…`` and a number.
    """
    kind = type(value)
    if kind is bool or value is None:
        return value
    try:
        return _Walk().convert(value, 0)
    except SoftTimeLimitExceeded:  # raised by a signal handler, at any instruction: it is the task's
        raise
    except Exception:  # noqa: BLE001 - another thread may change what is being read
        return _unread(value)


class _Walk:
    """One payload being converted: counts the values kept so far, and the characters there is still room for."""

    __slots__ = ("nodes", "room")

    def __init__(self) -> None:
        self.nodes = 0
        self.room = MAX_CHARACTERS

    def convert(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is str:
            return value if len(value) <= SHORT and value.isascii() and "\0" not in value else self.text(value)
        if kind is int:
            return value if value.bit_length() <= MAX_BITS else self.text(hex(value))
        if kind is bool or value is None:
            return value
        if kind is float:
            return value if math.isfinite(value) else repr(value)
        self.nodes += 1
        if depth >= MAX_DEPTH or self.nodes > MAX_NODES:
            return _unread(value)
        if kind is dict:
            return self.mapping(value, depth)
        if kind is list or kind is tuple:
            return self.sequence(value, len(value), depth)
        return self.other(value, depth)

    def text(self, value: str) -> str:
        kept = text(value, min(MAX_TEXT, self.room))
        self.room = max(0, self.room - len(kept))
        return kept

    def sequence(self, values: Any, count: int, depth: int) -> list[Any]:
        items: list[Any] = []
        for value in values:
            if len(items) == MAX_ITEMS or self.nodes > MAX_NODES:
                items.append(f"…[+{count - len(items)} items]")
                break
            items.append(self.convert(value, depth + 1))
        self.nodes += len(items)
        return items

    def mapping(self, values: dict[Any, Any], depth: int) -> dict[str, Any]:
        items: dict[str, Any] = {}
        for key, value in dict.items(values):
            if len(items) == MAX_ITEMS or self.nodes > MAX_NODES:
                items[_free("…", items)] = f"[+{len(values) - len(items)} items]"
                break
            name = self.convert(key, 0) if type(key) is str else self.key(key)
            items[name if name not in items else _free(name, items)] = self.convert(value, depth + 1)
        self.nodes += len(items)
        return items

    def key(self, key: Any) -> str:
        converted = self.convert(key, MAX_DEPTH - 1)
        return converted if isinstance(converted, str) else self.text(safe_repr(key))

    def other(self, value: Any, depth: int) -> Any:  # noqa: PLR0912 - one branch a type
        try:
            if isinstance(value, enum.Enum):
                return self.convert(value.value, depth + 1)
            if isinstance(value, str):
                return self.text(str.__str__(value))
            if isinstance(value, int):
                return self.convert(int.__int__(value), depth)
            if isinstance(value, float):
                return self.convert(float.__float__(value), depth)
            if isinstance(value, (dt.datetime, dt.date, dt.time)):
                return self.text(value.isoformat())
            if isinstance(value, (dt.timedelta, decimal.Decimal, uuid.UUID)):
                return self.text(str(value))
            if isinstance(value, os.PathLike):
                return self.text(safe_repr(value))
            if isinstance(value, dict):
                return self.mapping(value, depth)
            if isinstance(value, (list, tuple)):
                return self.sequence(value, len(value), depth)
            if isinstance(value, (set, frozenset)):
                return self.sequence(_sorted(value), len(value), depth)
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
                return self.mapping(fields, depth)
        except SoftTimeLimitExceeded:
            raise
        except Exception:  # noqa: BLE001 - a user's type may do anything
            return _unread(value)
        return self.text(safe_repr(value))


def _sorted(values: Set[Any]) -> Collection[Any]:
    """A set in an order that does not change from run to run, where its elements have one."""
    if len(values) > MAX_ITEMS:  # cut anyway
        return values
    try:
        return sorted(values)
    except TypeError:
        return values


def _free(name: str, items: Mapping[str, Any]) -> str:
    """``name``, or one like it that is no key yet."""
    free, number = name, len(items)
    while free in items:
        free, number = f"{name}…{number}", number + 1
    return free


_class_name = type.__dict__["__name__"].__get__
"""The name of a class, also of one whose metaclass says otherwise."""


def _unread(value: Any) -> str:
    """Stands in for a value that is not looked into."""
    return f"…[{_class_name(type(value))}]"


def text(value: str, limit: int = MAX_TEXT) -> str:
    """``value`` without what databases refuse (NUL, lone surrogates); at most ``limit`` characters of it are kept."""
    if len(value) > limit:
        value = f"{value[:limit]}…[+{len(value) - limit} characters]"
    if "\0" in value:
        value = value.replace("\0", "\ufffd")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            value = value.encode("utf-8", "replace").decode()
    return value


def safe_repr(value: Any) -> str:
    """``repr(value)``, bounded, never raising."""
    try:
        return text(repr(value), MAX_REPR)
    except SoftTimeLimitExceeded:
        raise
    except Exception:  # noqa: BLE001 - a user's __repr__ may do anything
        return _unread(value)


def error_type(exc: BaseException | None) -> str | None:
    """Class name of ``exc``, also where Celery replaced an exception that cannot be pickled by a wrapper."""
    if exc is None:
        return None
    return text((_wrapped(exc) or _class_name(type(exc)))[:255])


def error_message(exc: BaseException | None) -> str | None:
    """Text of ``exc``, bounded, never raising."""
    if exc is None:
        return None
    try:
        arguments = getattr(exc, "exc_args", None) if _wrapped(exc) else None
        if isinstance(arguments, (list, tuple)):
            exc = Exception(*arguments)
        return text(str(exc), MAX_MESSAGE)
    except SoftTimeLimitExceeded:
        raise
    except Exception:  # noqa: BLE001 - a user's __str__ may do anything
        return safe_repr(exc)


def _wrapped(exc: BaseException) -> str | None:
    """Class name of the exception that Celery wrapped because it cannot be pickled; None for any other."""
    try:
        name = getattr(exc, "exc_cls_name", None)
    except SoftTimeLimitExceeded:
        raise
    except Exception:  # noqa: BLE001 - a user's __getattr__ may do anything
        return None
    return name if isinstance(name, str) else None


def reason_text(reason: Any) -> str:
    """Text of what a ``Reject`` was given: an exception's or a string's own, else the bounded ``repr``."""
    if isinstance(reason, BaseException):
        return error_message(reason) or ""
    return text(reason, MAX_MESSAGE) if isinstance(reason, str) else safe_repr(reason)


def traceback_text(traceback: Any) -> str | None:
    """A traceback given as text, cut at the front where it is too long; None for anything else."""
    if not isinstance(traceback, str) or not traceback:
        return None
    if len(traceback) > MAX_TRACEBACK:
        traceback = f"[{len(traceback) - MAX_TRACEBACK} characters cut]…\n{traceback[-MAX_TRACEBACK:]}"
    return text(traceback, MAX_TRACEBACK + 100)


def is_mapping(value: Any) -> bool:
    """Whether ``value`` is a mapping, by its type alone."""
    return isinstance(value, Mapping)
