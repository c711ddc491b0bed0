"""Converts Python values (args, kwargs, results, exceptions) to bounded, redacted JSON.

Pure. It runs no code of the user's except the redaction rule. Built-in types and their subclasses are read by the
built-in type's own methods; dataclasses, attrs and pydantic objects from where they keep their fields; numpy scalars
by numpy's own ``item``. Any other object is described by its type alone: its ``__repr__`` may query a database (a lazy
query set), block or return megabytes. Types are recognized by identity along their method resolution order, because
``isinstance`` would call ``__class__`` and ``__instancecheck__``.

A value that JSON can represent is stored as it is. What was changed is a mark, a mapping with the key ``$asynctask``:

* ``{"$asynctask": "redacted"}``, with ``text`` if only a part of a string was redacted;
* ``{"$asynctask": "cut", "type", "size"}``, with ``head`` for strings and bytes; ``size``, if it is known, in
  characters, bytes, bits of an integer, or items. Of a list that was cut it is the last element, of a mapping it is
  under the key ``$asynctask``;
* ``{"$asynctask": "as", "type", "value"}``: JSON's nearest form of a value that JSON cannot represent (NaN; in
  arguments also sets, enum members, dataclasses: whatever Celery's JSON serializer refuses);
* ``{"$asynctask": "object", "type"}``: an object that was not read, with ``repr`` for classes and functions;
* ``{"$asynctask": "cycle", "type", "up"}``: the container that is ``up`` levels above;
* ``{"$asynctask": "erased"}``: a value that was later erased from the store, on request (`operations.erase`);
* ``{"$asynctask": "replaced", "text"}``: a string with NUL or lone surrogates, which databases refuse, or with
  characters that this database refused (`core.plainer`);
* ``{"$asynctask": "refused"}``: a value that the database refused in every form, or of an event of which it
  refused several;
* ``{"$asynctask": "keys"}`` under the key ``$asynctask`` of a mapping: its keys are not those of the original.

`core.marks` has them in words. A user's own key ``$asynctask…`` gets one more ``$`` in front.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from billiard.exceptions import SoftTimeLimitExceeded

from celery_asynctask.capture.payload.hints import may_change
from celery_asynctask.capture.payload.inspection import class_name, inherits, instance_dict, type_name
from celery_asynctask.capture.payload.mappings import pairs
from celery_asynctask.capture.payload.readers import MARGIN, MAX_BITS, MAX_ITEMS
from celery_asynctask.capture.payload.redaction import Redaction
from celery_asynctask.capture.payload.secrets import Secret, Secrets, secrets_in
from celery_asynctask.capture.payload.traceback_text import beginning, shortened
from celery_asynctask.capture.payload.walk import Again, Full, Walk, clean
from celery_asynctask.core.limits import MAX_MESSAGE, MAX_NAME, MAX_TRACEBACK, MAX_VALUE
from celery_asynctask.core.marks import MARK

OVERRUN: Final = 4_096
"""Bytes by which the marks in a value that was cut may exceed its limit."""
MAX_REPR: Final = 500
"""Characters kept of the text for a value in an error message."""


@dataclass(frozen=True)
class Encoder:
    """Converts any value to JSON (dict, list, str, int, finite float, bool, None). Never raises, except the task's soft
    time limit. One for each instrumentation; safe for threads."""

    max_bytes: int = MAX_VALUE
    """Most bytes of one value, as ASCII JSON with ``", "`` and ``": "``; at least 256. A larger value is cut wherever
    it is long, so that its small parts stay; its marks may take `OVERRUN` bytes more."""
    redaction: Redaction | None = None
    """What is redacted; None: nothing."""

    def value(self, value: Any, name: str = "result") -> Any:
        """Convert a result or a content. Values without a form in JSON become their plainest form: datetimes become
        ISO 8601; Decimal, UUID, timedelta and paths become text, and so do bytes if they are UTF-8; tuples and sets
        become lists; enum members their values; dataclasses, attrs and pydantic objects mappings. ``name`` is the first
        part of the paths that a redaction rule gets."""
        if value is None or value is True or value is False:
            return value
        return self._read(value, lambda walk: walk.element(value, 0, name), wire=False)

    def again(self, value: dict[str, Any]) -> Any:
        """Redact a content that an encoder has converted, maybe another process's that knew less of what to redact. It
        keeps its marks, and is not cut."""
        try:
            return Again(self.redaction).element(value, 0, "content")
        except SoftTimeLimitExceeded:
            raise
        except Exception:  # noqa: BLE001 - it may be nested too deep
            return {MARK: "object", "type": "dict"}

    def arguments(
        self, args: Any, kwargs: Any, names: tuple[str, ...] = (), secrets: list[Secret] | None = None
    ) -> tuple[Any, Any]:
        """Convert the arguments of a task, each within ``max_bytes``, to the form in which Celery's JSON serializer
        sends them: if they are `is_whole`, a rerun can send them unchanged. Datetimes, Decimal, UUID and bytes have
        kombu's envelope, ``{"__type__": "datetime", "__value__": "..."}``. ``names`` are the names of the positional
        parameters, in order, as far as they are known; redaction uses them. ``secrets`` gets
        what redaction takes away, as far as it can be found in texts (`secrets.secrets_in`)."""
        taken: list[Any] | None = None if secrets is None else []

        def positional(walk: Walk) -> Any:
            walk.trail = ("args",)
            if type(args) is list or type(args) is tuple:
                hidden = walk.hidden(args, type(args), len(args), "", names)
                return walk.sequence(args, len(args), args, 0, names, hidden)
            return walk.convert(args, 0)

        def named(walk: Walk) -> Any:
            walk.trail = ("kwargs",)
            if type(kwargs) is not dict and (items := pairs(kwargs, MAX_ITEMS)) is not None:  # the task gets a dict
                return walk.mapping(*items, kwargs, 0)
            return walk.convert(kwargs, 0)

        converted = (
            [] if type(args) in (list, tuple) and not args else self._read(args, positional, wire=True, taken=taken),
            {} if type(kwargs) is dict and not kwargs else self._read(kwargs, named, wire=True, taken=taken),
        )
        if secrets is not None and taken and self.redaction is not None:
            keys = list(kwargs) if type(kwargs) is dict else ()
            secrets += secrets_in(taken, self.redaction, {*names, *(key for key in keys if type(key) is str)})
        return converted

    def knowing(self, secrets: list[Secret]) -> Encoder:
        """The same encoder, which also redacts these values of its `arguments`, wherever they stand."""
        return replace(self, redaction=self.redaction and self.redaction.knowing(Secrets(secrets)))

    def text(self, value: str, limit: int) -> str:
        """The beginning of an error message, or of a part of it: redacted, without characters that databases refuse, at
        most ``limit`` characters. If it was cut, it ends in ``…[+N characters]``."""
        size = str.__len__(value)
        if size <= limit:
            return clean(self._scrubbed(str.__getitem__(value, slice(None))))
        return clean(f"{beginning(value, limit, self._scrubbed)}…[+{size - limit} characters]")

    def traceback(self, value: Any) -> str | None:
        """The text of a traceback, redacted. Of one with more than `MAX_TRACEBACK` characters, the frames stay and the
        messages are cut; only if the frames alone are longer, or it is no traceback of Python's, it lacks more, and
        says so. None if the value is no text, or empty."""
        if not inherits(type(value), str) or not value:
            return None
        text = str.__getitem__(value, slice(None))
        shown = self._scrubbed(text) if len(text) <= MAX_TRACEBACK else shortened(text, MAX_TRACEBACK, self._scrubbed)
        return clean(shown)

    def _scrubbed(self, text: str, cut: bool = False) -> str:
        """A text of an error, redacted; ``cut``: it goes on."""
        return text if self.redaction is None else self.redaction.text(text, message=True, cut=cut)

    def _read(self, value: Any, read: Callable[[Walk], Any], *, wire: bool, taken: list[Any] | None = None) -> Any:
        try:
            walk = Walk(self.max_bytes, self.redaction, wire=wire, tight=False, taken=taken)
            try:
                converted = read(walk)
                if walk.room >= 0:
                    return converted
            except Full:
                pass
            return read(Walk(self.max_bytes, self.redaction, wire=wire, tight=True, taken=taken))
        except SoftTimeLimitExceeded:  # it is the task's: a signal handler raises it at any instruction
            raise
        except Exception:  # noqa: BLE001 - another thread may change the value while it is read
            return {MARK: "object", "type": type_name(type(value))}


PLAIN: Final = Encoder()
"""With the default limit; redacts nothing."""


def safe_repr(value: Any, encoder: Encoder = PLAIN) -> str:
    """A short text for any value, at most `MAX_REPR` characters, that runs no code of the user's: the ``repr`` of a
    scalar, else JSON, else the type in angle brackets."""
    kind = type(value)
    if value is None or kind is bool or kind is float or (kind is int and value.bit_length() <= MAX_BITS):
        return repr(value)
    converted = encoder.value(value, "content")
    if type(converted) is dict and converted.get(MARK) == "object":
        converted = f"<{converted['type']}>"
    return encoder.text(converted if type(converted) is str else json.dumps(converted, ensure_ascii=False), MAX_REPR)


def label(text: str) -> str:
    """A name that is recorded as it is, of a task, worker, queue or person or of the class of an exception: without the
    credentials that `Redaction.text` finds in any text, without characters that databases refuse, at most `MAX_NAME`
    characters. The app's own names and rule do not count here."""
    text = str.__getitem__(text, slice(0, MAX_NAME + MARGIN))
    if may_change(text):
        text = _LABELS.text(text, cut=len(text) == MAX_NAME + MARGIN)
    return clean(text)[:MAX_NAME]


_LABELS: Final = Redaction()


def error_type(exc: BaseException) -> str:
    """Class name of an exception, at most `MAX_NAME` characters; of the original where Celery has wrapped one that
    cannot be pickled."""
    return label(_wrapped(exc) or class_name(type(exc)))


def error_message(exc: BaseException, encoder: Encoder = PLAIN) -> str:
    """Text of an exception, redacted, at most `MAX_MESSAGE` characters. Never raises. Besides the redaction rule, this
    is the only code of the user's that runs, the exception's ``__str__``: Celery has run it before, for its own log and
    traceback."""
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
    """Text of the reason of a ``Reject``: of an exception or a string its own, else `safe_repr`."""
    kind = type(reason)
    if inherits(kind, BaseException):
        return error_message(reason, encoder)
    return encoder.text(reason, MAX_MESSAGE) if inherits(kind, str) else safe_repr(reason, encoder)
