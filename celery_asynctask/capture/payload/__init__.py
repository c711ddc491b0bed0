"""Values that Python hands over (args, kwargs, results, exceptions) to bounded, redacted JSON.

Pure, and it runs no code of the user's but his redaction rule: built-in types and their subclasses are read by the
built-in type's own methods, dataclasses, attrs and pydantic objects from where they keep their fields, numpy scalars
by numpy's own ``item``. No other object is asked for anything: its ``__repr__`` may query a database (a lazy query
set), block or return megabytes, so it is described by its type alone. What recognizes a type compares identities
along its method resolution order; ``isinstance`` would ask ``__class__`` and ``__instancecheck__``.

The stored form: JSON says itself. Anything that is not the whole value is a mapping with the key ``$asynctask``:

* ``{"$asynctask": "redacted"}``, with ``text`` where only a part of a string was;
* ``{"$asynctask": "cut", "type", "size"}``, with ``head`` for strings and bytes; ``size``, where it is known, in
  characters, bytes, bits of an integer, items. The last element of a list that was cut, and under the key
  ``$asynctask`` of such a mapping;
* ``{"$asynctask": "as", "type", "value"}``: JSON's nearest for what JSON cannot say (NaN; in arguments also sets, enum
  members, dataclasses: whatever Celery's JSON serializer refuses);
* ``{"$asynctask": "object", "type"}``: not looked into, with ``repr`` for classes and functions;
* ``{"$asynctask": "cycle", "type", "up"}``: the container that is ``up`` levels above;
* ``{"$asynctask": "erased"}``: taken out of the store later, on request (`operations.erase`);
* ``{"$asynctask": "replaced", "text"}``: a string with NUL or lone surrogates, which databases refuse;
* ``{"$asynctask": "keys"}`` under the key ``$asynctask`` of a mapping: its keys are not those of the original.

What they say in words is in `marks`. A user's own key ``$asynctask…`` gets one more ``$`` in front.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from billiard.exceptions import SoftTimeLimitExceeded

from celery_asynctask.capture.payload.inspection import class_name, inherits, instance_dict, type_name
from celery_asynctask.capture.payload.mappings import pairs
from celery_asynctask.capture.payload.readers import MARGIN, MAX_BITS, MAX_ITEMS
from celery_asynctask.capture.payload.redaction import Redaction
from celery_asynctask.capture.payload.walk import Full, Walk, clean
from celery_asynctask.core.limits import MAX_MESSAGE, MAX_TRACEBACK, MAX_VALUE
from celery_asynctask.core.marks import MARK

OVERRUN: Final = 4_096
"""Bytes by which the markers of a value that was cut may exceed its bound."""
MAX_REPR: Final = 500
"""Characters kept of what stands for a value in an error message."""


@dataclass(frozen=True)
class Encoder:
    """Makes JSON (dict, list, str, int, finite float, bool, None) of any value, never raising but the task's soft time
    limit. One per recording; safe to share between threads."""

    max_bytes: int = MAX_VALUE
    """Bytes of one value as ASCII JSON with ``", "`` and ``": "`` (at least 256); with `OVERRUN` for the markers of one
    that is larger. A value that is larger is cut everywhere it is long, so that its small parts stay."""
    redaction: Redaction | None = None
    """What is taken out; None: nothing."""

    def value(self, value: Any, name: str = "result") -> Any:
        """A result or a content. What JSON cannot say becomes its plainest form: datetimes ISO 8601; Decimal, UUID,
        timedelta and paths text; bytes text if they are UTF-8; tuples and sets lists; enum members their values;
        dataclasses, attrs and pydantic objects mappings. ``name`` starts the paths that a redaction rule gets."""
        if value is None or value is True or value is False:
            return value
        return self._read(value, lambda walk: walk.element(value, 0, name), wire=False)

    def arguments(self, args: Any, kwargs: Any, names: tuple[str, ...] = ()) -> tuple[Any, Any]:
        """The arguments of a task, each within ``max_bytes``, in the form in which Celery's JSON serializer sends
        them: what is `is_whole` can be sent again as it is. Datetimes, Decimal, UUID and bytes have kombu's envelope,
        ``{"__type__": "datetime", "__value__": "..."}``. ``names`` are the parameters that take the positional
        arguments, in order, as far as there are; redaction goes by them."""

        def positional(walk: Walk) -> Any:
            walk.trail = ("args",)
            if type(args) is list or type(args) is tuple:
                return walk.sequence(args, len(args), args, 0, names)
            return walk.convert(args, 0)

        def named(walk: Walk) -> Any:
            walk.trail = ("kwargs",)
            if type(kwargs) is not dict and (found := pairs(kwargs, MAX_ITEMS)) is not None:  # the task gets a dict
                return walk.mapping(*found, kwargs, 0)
            return walk.convert(kwargs, 0)

        return (
            [] if type(args) in (list, tuple) and not args else self._read(args, positional, wire=True),
            {} if type(kwargs) is dict and not kwargs else self._read(kwargs, named, wire=True),
        )

    def text(self, value: str, limit: int) -> str:
        """An error message or a part of one: redacted, without what databases refuse, at most ``limit`` characters of
        it; one that was cut ends in ``…[+N characters]``."""
        size = str.__len__(value)
        head = str.__getitem__(value, slice(0, limit + MARGIN))
        if self.redaction is not None:
            head = self.redaction.text(head, message=True, cut=len(head) < size)
        if size > limit:
            head = f"{head[:limit]}…[+{size - limit} characters]"
        return clean(head)

    def traceback(self, value: Any) -> str | None:
        """The end of a traceback given as text, redacted; one that was cut starts with ``[N characters cut]…``. None
        for anything else."""
        if not inherits(type(value), str) or not value:
            return None
        size = str.__len__(value)
        tail = str.__getitem__(value, slice(max(0, size - MAX_TRACEBACK - MARGIN), size))
        if self.redaction is not None:
            tail = self.redaction.text(tail, message=True)
        if size > MAX_TRACEBACK:
            tail = f"[{size - MAX_TRACEBACK} characters cut]…\n{tail[-MAX_TRACEBACK:]}"
        return clean(tail)

    def _read(self, value: Any, read: Callable[[Walk], Any], *, wire: bool) -> Any:
        try:
            walk = Walk(self.max_bytes, self.redaction, wire=wire, tight=False)
            try:
                converted = read(walk)
                if walk.room >= 0:
                    return converted
            except Full:
                pass
            return read(Walk(self.max_bytes, self.redaction, wire=wire, tight=True))
        except SoftTimeLimitExceeded:  # raised by a signal handler, at any instruction: it is the task's
            raise
        except Exception:  # noqa: BLE001 - another thread may change what is being read
            return {MARK: "object", "type": type_name(type(value))}


PLAIN: Final = Encoder()
"""The default bound, nothing redacted."""


def safe_repr(value: Any, encoder: Encoder = PLAIN) -> str:
    """A few words for any value, bounded, running no code of the user's: a scalar's ``repr``, else JSON, else the type
    in angle brackets."""
    kind = type(value)
    if value is None or kind is bool or kind is float or (kind is int and value.bit_length() <= MAX_BITS):
        return repr(value)
    converted = encoder.value(value, "content")
    if type(converted) is dict and converted.get(MARK) == "object":
        converted = f"<{converted['type']}>"
    return encoder.text(converted if type(converted) is str else json.dumps(converted, ensure_ascii=False), MAX_REPR)


def error_type(exc: BaseException) -> str:
    """Class name of ``exc``, also where Celery replaced an exception that cannot be pickled by a wrapper."""
    return clean((_wrapped(exc) or class_name(type(exc)))[:255])


def error_message(exc: BaseException, encoder: Encoder = PLAIN) -> str:
    """Text of ``exc``, bounded and redacted, never raising. The one place where code of the user's runs, the
    exception's ``__str__``: Celery has run it by then, for its own log and traceback."""
    try:
        arguments = instance_dict(exc).get("exc_args") if _wrapped(exc) else None
        if isinstance(arguments, (list, tuple)):
            exc = Exception(*arguments)
        return encoder.text(str(exc), MAX_MESSAGE)
    except SoftTimeLimitExceeded:
        raise
    except Exception:  # noqa: BLE001 - a user's __str__ may do anything
        return f"<{type_name(type(exc))}>"


def _wrapped(exc: BaseException) -> str | None:
    """Class name of the exception that Celery wrapped because it cannot be pickled; None for any other."""
    name = instance_dict(exc).get("exc_cls_name")
    return name if type(name) is str else None


def reason_text(reason: Any, encoder: Encoder = PLAIN) -> str:
    """Text of what a ``Reject`` was given: an exception's or a string's own, else `safe_repr`."""
    kind = type(reason)
    if inherits(kind, BaseException):
        return error_message(reason, encoder)
    return encoder.text(reason, MAX_MESSAGE) if inherits(kind, str) else safe_repr(reason, encoder)
