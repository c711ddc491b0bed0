"""What is in a message: its parts, its task id as it is recorded, its queue, and whether its caller hides arguments."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final

from celery.app.task import Context

from celery_asynctask.capture.payload import label
from celery_asynctask.capture.payload.inspection import inherits, type_name
from celery_asynctask.capture.payload.walk import clean
from celery_asynctask.core.limits import MAX_TASK_ID

_KEPT: Final = 200
"""Characters kept of an id that cannot be stored as it is; a checksum follows, so that two such ids stay two."""
_DELAY: Final = re.compile(r"(?:[01]\.){28}").match
"""What kombu puts in front of the routing key of a message that RabbitMQ delays: the bits of the delay in seconds, so
that each delay has another (kombu/transport/native_delayed_delivery.py, MAX_NUMBER_OF_BITS_TO_USE)."""
_TRUNCATED: Final = 900
"""Characters from which on Celery may have cut a representation (``argsrepr_maxsize`` is 1,024)."""
_MAX_LEAVES: Final = 100
_MAX_LEVELS: Final = 2
"""Celery writes three levels of a value, and dots for what is below."""


OpenedMessage = tuple[Mapping[str, Any], Any, Any, Mapping[str, Any]]
"""The result of `open_message`."""


def open_message(headers: Any, body: Any) -> OpenedMessage:
    """The parts of a message of protocol 1 or 2: (header fields, args, kwargs, embed). ``embed`` has the steps: chain,
    chord, callbacks.

    Raises `ValueError` if it is no task message. args and kwargs are None, and embed is empty, if the body cannot be
    read.
    """
    if isinstance(headers, Mapping) and (type(headers.get("id")) is str or _is_id(headers.get("id"))):
        if isinstance(body, (list, tuple)) and len(body) == 3:
            args, kwargs, embed = body
            return headers, args, kwargs, embed if isinstance(embed, Mapping) else {}
        return headers, None, None, {}
    if isinstance(body, Mapping) and _is_id(body.get("id")):
        return body, body.get("args"), body.get("kwargs"), body
    raise ValueError("no task message")


def _is_id(value: Any) -> bool:
    return task_id_text(value) is not None


def request_of(message: Any) -> Context | None:
    """A request for a message of kombu that Celery has made no request from, as far as the message can be read and is
    valid; None: it has no id."""
    try:
        body = message.payload
    except Exception:  # noqa: BLE001 - whatever the decoder raises: the body cannot be read
        body = None
    try:
        about, args, kwargs, embed = open_message(message.headers, body)
    except ValueError:
        return None
    name = about.get("task")
    return Context(
        {key: embed.get(key) for key in ("chain", "chord", "callbacks")},
        id=about["id"],
        task=name if isinstance(name, str) else "unknown",
        args=args,
        kwargs=kwargs,
        root_id=about.get("root_id"),
        parent_id=about.get("parent_id"),
        retries=about.get("retries"),
        replaced_task_nesting=about.get("replaced_task_nesting"),
        headers=message.headers,
        delivery_info=message.delivery_info,
    )


def task_id_text(value: Any) -> str | None:
    """A task id as it is recorded: the text that a broker carries for it; None: it is no id.

    Of an id that is longer than the column, or has characters that databases refuse, it keeps the beginning, with a
    checksum of the whole.
    """
    kind = type(value)
    given: str
    if kind is str:
        given = value
    elif inherits(kind, str):
        given = str.__str__(value)
    elif inherits(kind, uuid.UUID):
        given = uuid.UUID.__str__(value)
    elif inherits(kind, int):
        given = int.__repr__(value)
    elif inherits(kind, float):
        given = float.__repr__(value)
    else:
        return None
    text = clean(given)
    if len(text) <= MAX_TASK_ID and text is given:
        return text
    checksum = hashlib.sha256(given.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[:_KEPT]}…{checksum[:32]}"


def recorded_id(value: Any) -> str:
    """`task_id_text` of the task that an event is about. Raises `TypeError` if it is no id."""
    text = task_id_text(value)
    if text is None:
        raise TypeError(f"its id is of type {type_name(type(value))}; use a text, a UUID or a number")
    return text


def name_text(value: str) -> str:
    """The name of a task, worker or queue as it is recorded."""
    return label(value)


def queue_of(routing_key: Any) -> str | None:
    """The queue of a message, by its routing key; None: it has none, or one that is no text."""
    if not routing_key or not isinstance(routing_key, str):
        return None
    return routing_key[delay.end() :] if (delay := _DELAY(routing_key)) else routing_key


def place_of(worker: Any, routing_key: Any) -> tuple[str | None, str | None]:
    """A worker's name and a routing key in a form that can be kept: bounded texts, or None for what is no text."""
    queue = queue_of(routing_key)
    return name_text(worker) if isinstance(worker, str) else None, None if queue is None else name_text(queue)


def hidden_by_caller(header: Mapping[str, Any], request: Any) -> str | None:
    """Which arguments the caller hides, by representations of its own: ``args``, ``kwargs``, or both with a space
    between. A recorded producer says so in our header; else the message's representations tell."""
    if "created" in header or "hidden" in header:
        hidden = header.get("hidden")
        return hidden if hidden is None or isinstance(hidden, str) else "args kwargs"
    hides = (
        name
        for name in ("args", "kwargs")
        if is_hidden(getattr(request, f"{name}repr", None), getattr(request, name, None))
    )
    return " ".join(hides) or None


def is_hidden(shown: Any, value: Any) -> bool:
    """Whether ``shown``, the representation that a message has of its arguments, was made to hide them: Celery's own
    has the texts and numbers of ``value`` in their order. A representation that may have been cut hides nothing."""
    if not isinstance(shown, str) or not shown or not value or len(shown) >= _TRUNCATED:
        return False
    at = 0
    for leaf in _leaves(value, 0):
        at = shown.find(leaf, at)
        if at < 0:
            return True
        at += len(leaf)
    return False


def _leaves(value: Any, level: int) -> Iterator[str]:
    """The representations of the texts and numbers in a value of JSON, without their quotes."""
    kind = type(value)
    if kind is str:
        yield _shown(value)
    elif kind is int or kind is float or value is None or kind is bool:
        yield repr(value)
    elif level <= _MAX_LEVELS and isinstance(value, Mapping):
        for name, item in list(value.items())[:_MAX_LEAVES]:
            if type(name) is str and not name.startswith("__"):
                yield _shown(name)
                yield from _leaves(item, level + 1)
    elif level <= _MAX_LEVELS and isinstance(value, (list, tuple)):
        for item in value[:_MAX_LEAVES]:
            yield from _leaves(item, level + 1)


def _shown(text: str) -> str:
    """A text as Celery shows it, without its quotes (celery/utils/saferepr.py)."""
    return text.replace("'", "\\'")
