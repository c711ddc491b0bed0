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
from collections.abc import Mapping, Set
from typing import Any, Final

MAX_ITEMS: Final = 1_000
"""Elements of one list or mapping that are kept."""
MAX_NODES: Final = 10_000
"""Values of one payload that are kept, all levels together."""
MAX_DEPTH: Final = 20
"""Levels of nesting that are kept."""
MAX_TEXT: Final = 20_000
"""Characters of one string that are kept."""
MAX_REPR: Final = 500
"""Characters kept of the ``repr`` of a value that is no JSON."""
MAX_MESSAGE: Final = 4_000
"""Characters of an error message that are kept."""
MAX_TRACEBACK: Final = 20_000
"""Characters of a traceback that are kept: its end, where the error is."""


def to_json(value: Any) -> Any:
    """``value`` as JSON (dict, list, str, int, finite float, bool, None), never raising.

    Tuples and sets become lists; datetimes ISO 8601; Decimal and UUID strings; an enum member its value; a dataclass
    a mapping; NaN and infinities their names; anything else its bounded ``repr``. A cut string ends in ``…[+N
    characters]``, a cut list in ``"…[+N items]"``, a cut mapping has the key ``"…"``.
    """
    kind = type(value)
    if kind is int or kind is bool or value is None:
        return value
    return _Walk().convert(value, 0)


class _Walk:
    """One payload being converted: counts the values kept so far."""

    __slots__ = ("nodes",)

    def __init__(self) -> None:
        self.nodes = 0

    def convert(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is str:
            return text(value)
        if kind is int or kind is bool or value is None:
            return value
        if kind is float:
            return value if math.isfinite(value) else repr(value)
        self.nodes += 1
        if depth >= MAX_DEPTH or self.nodes > MAX_NODES:
            return f"…[{kind.__name__}]"
        if kind is dict:
            return self.mapping(value, depth)
        if kind is list or kind is tuple:
            return self.sequence(value, len(value), depth)
        return self.other(value, depth)

    def sequence(self, values: Any, count: int, depth: int) -> list[Any]:
        items = []
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
                items["…"] = f"[+{len(values) - len(items)} items]"
                break
            name = text(key) if type(key) is str else self.key(key)
            items[name] = self.convert(value, depth + 1)
        self.nodes += len(items)
        return items

    def key(self, key: Any) -> str:
        converted = self.convert(key, MAX_DEPTH)
        return converted if isinstance(converted, str) else str(converted)

    def other(self, value: Any, depth: int) -> Any:  # noqa: PLR0911 - one line a type
        try:
            if isinstance(value, enum.Enum):
                return self.convert(value.value, depth + 1)
            if isinstance(value, str):
                return text(str.__str__(value))
            if isinstance(value, int):
                return int.__int__(value)
            if isinstance(value, float):
                return self.convert(float.__float__(value), depth)
            if isinstance(value, (dt.datetime, dt.date, dt.time)):
                return value.isoformat()
            if isinstance(value, (dt.timedelta, decimal.Decimal, uuid.UUID)):
                return str(value)
            if isinstance(value, os.PathLike):
                return safe_repr(value)
            if isinstance(value, dict):
                return self.mapping(value, depth)
            if isinstance(value, (list, tuple)):
                return self.sequence(value, len(value), depth)
            if isinstance(value, (set, frozenset)):
                return self.sequence(_sorted(value), len(value), depth)
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
                return self.mapping(fields, depth)
        except Exception:  # noqa: BLE001 - a user's type may do anything
            return f"…[{type(value).__name__}]"
        return safe_repr(value)


def _sorted(values: Set[Any]) -> list[Any]:
    """A set in an order that does not change from run to run, where its elements have one."""
    try:
        return sorted(values)
    except TypeError:
        return list(values)


def text(value: str, limit: int = MAX_TEXT) -> str:
    """``value`` without what JSON columns refuse (NUL, lone surrogates), at most ``limit`` characters long."""
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
    except Exception:  # noqa: BLE001 - a user's __repr__ may do anything
        return f"…[{type(value).__name__}]"


def error_type(exc: BaseException | None) -> str | None:
    """Class name of ``exc``, also where Celery replaced an exception that cannot be pickled by a wrapper."""
    if exc is None:
        return None
    wrapped = getattr(exc, "exc_cls_name", None)
    return text(wrapped if isinstance(wrapped, str) else type(exc).__name__, 255)


def error_message(exc: BaseException | None) -> str | None:
    """Text of ``exc``, bounded, never raising."""
    if exc is None:
        return None
    wrapped = getattr(exc, "exc_cls_name", None)
    try:
        arguments = getattr(exc, "exc_args", None)
        if isinstance(wrapped, str) and isinstance(arguments, (list, tuple)):
            exc = Exception(*arguments)
        return text(str(exc), MAX_MESSAGE)
    except Exception:  # noqa: BLE001 - a user's __str__ may do anything
        return safe_repr(exc)


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
