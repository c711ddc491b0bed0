"""The context of a task: ``customer``, ``created_by``, ``created_by_name`` and ``content``, and how they travel.

What is set around a publish goes into the message's header, and from there into every message that the task sends. For
each field, the nearest counts: a `context` block in this thread, then the header of the running task, then the
function named in ``asynctask_context``.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from celery_asynctask.capture import payload
from celery_asynctask.capture.payload.inspection import inherits
from celery_asynctask.capture.payload.mappings import mapping_of
from celery_asynctask.capture.payload.merged import fit
from celery_asynctask.core.ids import ALLOWED, is_id, key_of, shown
from celery_asynctask.core.limits import MAX_NAME
from celery_asynctask.errors import ContextError

FIELDS: Final = ("customer", "created_by", "created_by_name", "content")
IDS: Final = ("customer", "created_by")
MAX_CONTENT: Final = 16_384
"""Most bytes of content, as JSON: brokers limit the headers of a message."""
_MAX_CARRIED: Final = MAX_CONTENT + payload.OVERRUN
"""Most bytes of content in a message, with the marks of what was redacted."""
_MAX_PARSED: Final = 4 * _MAX_CARRIED
"""Most characters of a text that is parsed for content: it may have blanks and escapes."""

_given: ContextVar[Mapping[str, Any]] = ContextVar("celery_asynctask_context", default={})  # noqa: B039 - never changed
_alone: ContextVar[bool] = ContextVar("celery_asynctask_context_alone", default=False)


@contextmanager
def context(
    *,
    customer: int | str | uuid.UUID | None = None,
    created_by: int | str | uuid.UUID | None = None,
    created_by_name: str | None = None,
    content: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Set the context of all tasks that are sent (or run eagerly) inside the block.

    ``customer`` and ``created_by`` are ids: whole numbers of at most 64 bits, UUIDs, or texts of at most 64 characters;
    ``created_by_name`` has at most 255 characters; ``content`` is a mapping with string keys, at most 16,384 bytes as
    JSON. A field that is not given, or None, keeps its value from around the block. Raises `ContextError` for a value
    that is not allowed, before anything is sent.
    """
    fields = check(
        {"customer": customer, "created_by": created_by, "created_by_name": created_by_name, "content": content}
    )
    token = _given.set({**_given.get(), **fields})
    try:
        yield
    finally:
        _given.reset(token)


@contextmanager
def exactly(fields: Mapping[str, Any]) -> Iterator[None]:
    """Set the context of all tasks that are sent inside the block, regardless of the context around it: a field that is
    not given, or None, is empty, and neither the running task nor ``asynctask_context`` fills it. Raises
    `ContextError`.
    """
    token, token_alone = _given.set(check(fields)), _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token_alone)
        _given.reset(token)


def given() -> Mapping[str, Any]:
    """The fields of the `context` blocks around this call, up to the innermost `exactly`."""
    return _given.get()


def stands_alone() -> bool:
    """Whether this call is inside an `exactly` block, so that only `given` counts."""
    return _alone.get()


def check(fields: Mapping[str, Any], *, told: bool = True) -> dict[str, Any]:
    """Check the fields, and return those that are not None. Raises `ContextError`, which names the field and what is
    allowed, and, if it may be ``told``, a wrong id."""
    checked: dict[str, Any] = {}
    for name, value in fields.items():
        rule = _RULES.get(name)
        if rule is None:
            raise ContextError(f"Unknown field {name!r} in the context of a task; the fields are {', '.join(FIELDS)}.")
        if value is None:
            continue
        allowed, is_allowed = rule
        if not is_allowed(value):
            raise ContextError(f"Field {name!r} is {_shown(value, told=told and name in IDS)}; it must be {allowed}.")
        checked[name] = shown(key_of(value)) if name in IDS else value
    if "created_by_name" in checked:
        checked["created_by_name"] = payload.label(checked["created_by_name"])
    if "content" in checked:
        checked["content"] = mapping_of(checked["content"])
        _check_size(len(json.dumps(payload.PLAIN.value(checked["content"]))), MAX_CONTENT)
    return checked


def valid_of(fields: Any, on_error: Callable[[Exception], None]) -> dict[str, Any]:
    """The fields that pass `check`, of any value; calls ``on_error`` with a `ContextError` for each of the others."""
    valid: dict[str, Any] = {}
    if not isinstance(fields, Mapping):
        on_error(ContextError(f"The context of a task is {_shown(fields)}; it must be a mapping of fields, or None."))
        return valid
    for name, value in fields.items():
        try:
            valid.update(check({name: value}))
        except ContextError as exc:
            on_error(exc)
    return valid


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise ContextError(
            f"Field 'content' is {size} bytes of JSON; it travels in the headers of messages and must be at most "
            f"{limit}. Pass longer values to the task as arguments."
        )


def check_content(content: object) -> None:
    """Raise `ContextError` unless the value is a mapping with string keys. Its size is not checked: content that a task
    updates does not travel with messages."""
    allowed, is_allowed = _RULES["content"]
    if not is_allowed(content):
        raise ContextError(f"Field 'content' is {_shown(content)}; it must be {allowed.removesuffix(', or None')}.")


def to_header(fields: Mapping[str, Any], encoder: payload.Encoder) -> dict[str, Any]:
    """Fields in a form that every broker can carry: the content as JSON text, because AMQP's tables have fewer types
    than JSON. It is redacted, and fitted to `MAX_CONTENT` again: the marks, and additions since `check`, may have made
    it longer. So is a text, which anybody may have made."""
    header = dict(fields)
    content = header.get("content")
    if isinstance(content, Mapping):
        header["content"] = json.dumps(fit(encoder.value(content, "content"), MAX_CONTENT))
    elif content is not None:
        again = encoder.again(content_of(header))
        text = json.dumps(again)
        header["content"] = text if len(text) <= _MAX_CARRIED else json.dumps(fit(again, MAX_CONTENT))
    return header


def carries(header: Mapping[str, Any]) -> bool:
    """Whether a message's header has any of the fields, valid or not."""
    return not header.keys().isdisjoint(FIELDS)


def _ignore(_: Exception) -> None:
    """Wrong fields of a message that was received are not logged: a recorded sender has logged them."""


def sound(header: Any, on_error: Callable[[Exception], None] = _ignore) -> dict[str, Any]:
    """The fields in a message's header that pass `check`. The header may come from anywhere, so this never raises, but
    calls ``on_error`` for each wrong field, without its value. Content that is a text stays one; see `content_of`."""
    header = mapping_of(given := header)
    if header is None:
        on_error(ContextError(f"The header 'asynctask' is {_shown(given)}; it must be a mapping."))
    if not header or not carries(header):
        return {}
    valid: dict[str, Any] = {}
    for name in FIELDS:
        value = header.get(name)
        if value is None:
            continue
        try:
            if name == "content" and isinstance(value, str):
                _check_size(len(value), _MAX_PARSED)
                check_content(content := json.loads(value))
                _check_size(len(json.dumps(content)), _MAX_CARRIED)
                valid[name] = value
            else:
                valid.update(check({name: value}, told=False))
        except (ContextError, ValueError, RecursionError) as exc:
            on_error(exc)
    return valid


def identity(header: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of an event that say which customer its task is for, from a message's header. Every event has them, as
    they identify the row."""
    customer = header.get("customer")
    if customer is None or not is_id(customer):
        return {}
    return ids({"customer": shown(key_of(customer))})


def ids(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`sound` fields as keys of an event: an id that is a text has a key of its own."""
    return {f"{name}_key" if name in IDS and type(value) is str else name: value for name, value in fields.items()}


def content_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The content among `sound` fields, as a mapping; empty if there is none."""
    content = fields.get("content", {})
    mapping: dict[str, Any] = json.loads(content) if isinstance(content, str) else dict(content)
    return mapping


def _is_content(value: object) -> bool:
    mapping = mapping_of(value)
    return mapping is not None and all(inherits(type(key), str) for key in mapping)


def _shown(value: object, *, told: bool = False) -> str:
    if told and type(value) in (str, int, float, bool):
        return f"{value!r:.80} of type {type(value).__name__}"
    return f"of type {type(value).__name__}"


_READABLE: Final = "of Python's own types; convert others with dict(...)"
_ID: Final = f"{ALLOWED}, or None"
_RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "customer": (_ID, is_id),
    "created_by": (_ID, is_id),
    "created_by_name": (
        f"a string of at most {MAX_NAME} characters, or None",
        lambda value: isinstance(value, str) and len(value) <= MAX_NAME,
    ),
    "content": (f"a mapping with string keys ({_READABLE}), or None", _is_content),
}
