"""An event: one small immutable fact about a task, made in a hook, written to the journal as one JSON object.

Pure. The hooks build events, the journal carries them as bytes, `fold` folds them into rows.
"""

from __future__ import annotations

import enum
import json
from functools import partial
from json.encoder import c_make_encoder, encode_basestring_ascii  # type: ignore[attr-defined]
from typing import Any, TypedDict, cast


class Kind(str, enum.Enum):
    """What happened."""

    PLANNED = "planned"
    """A message that was sent carries this task as a later step: the rest of a chain, the body of a chord."""
    UNSENT = "unsent"
    """The step before it ended without success, so Celery will never send it."""
    PUBLISHED = "published"
    """The broker took the message."""
    RECEIVED = "received"
    """A worker's main process took the message from the broker."""
    STARTED = "started"
    """A body is about to run."""
    NOTED = "noted"
    """The running body set its content."""
    RETRIED = "retried"
    """A run ended by asking for another."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REVOKED = "revoked"
    REJECTED = "rejected"
    IGNORED = "ignored"
    LOST = "lost"
    """Its process is gone, or was shut down, and nobody else will say how the run ended."""
    FOUND = "found"
    """Its process, taken for gone, lives."""


class _Required(TypedDict):
    kind: str
    """A `Kind` value."""
    id: str
    """Celery task id."""
    name: str
    """Task name; for a message that could not be read, what its headers say."""
    at: int
    """When it happened by the clock of the process that saw it, microseconds since the epoch."""


class Event(_Required, total=False):
    """One event. A key that is absent says nothing; every key but the required four is optional."""

    nesting: int
    """How often the task was replaced before (Celery's ``replaced_task_nesting``); absent is 0."""
    retries: int
    """Celery's 0-based retry count of the message; absent is 0."""
    redelivered: bool
    """The broker says it has delivered this message before."""
    run: str
    """Token of the delivery, hence of the run (`keys.new_run`)."""
    delivered: bool
    """The token was made when the worker's main process received the message, so it tells that time."""
    created: int
    """When the task was first asked for, from the message header, microseconds since the epoch."""
    sent: int
    """When this message was published, from the message header, microseconds since the epoch."""
    eta: int
    """Not to be run before, microseconds since the epoch."""
    started: int
    """An end that carries all that its start said: when that was, microseconds since the epoch."""
    asked: bool
    """The event knows what was asked for: name, root, parent, for whom, args and kwargs."""
    root: str | None
    """Root task id; None: not known."""
    parent: str | None
    """Parent task id as Celery gives it (a retry names itself)."""
    customer: int
    """For which customer."""
    created_by: int
    """Who asked for it."""
    created_by_name: str
    """The name of who asked for it."""
    content: Any
    """Free content that the task was asked with, a JSON object."""
    noted: Any
    """What the run has made of its content by now, a JSON object; outranks ``content``."""
    trace: str
    """Trace id, 32 hex digits: the producer's for a message, the run's for a run."""
    span: str
    """Span id of the run, 16 hex digits."""
    args: Any
    """Positional arguments as JSON; absent when left out."""
    kwargs: Any
    """Keyword arguments as JSON; absent when left out."""
    worker: str
    """Node name of the worker, or the host of a process that runs tasks eagerly."""
    pid: int
    """Process that ran the body."""
    source: str
    """The journal's name for that process."""
    queue: str
    """Routing key the message came with."""
    result: Any
    """What the body returned, as JSON."""
    error_type: str
    """Class name of the exception."""
    error_message: str
    """Its text, bounded."""
    traceback: str
    """Its traceback, bounded."""
    outcome: str
    """How the attempt ended, where it says more than the kind: requeued, replaced, terminated."""
    again: bool
    """The task is not over although this run is: its message went back to the queue, or it was replaced."""
    ran: bool
    """The event ends a run of the body (or what should have been one), as does every end with ``started``."""
    inferred: bool
    """Said by the worker's main process about its child, not by the process that ran the body."""
    internal: bool
    """Celery's tracer failed around the body (`task_internal_error`)."""


# json.JSONEncoder builds this anew for every call, which takes longer than the encoding itself.
_chunks: Any = (
    c_make_encoder(None, None, encode_basestring_ascii, None, ":", ",", False, False, True)
    if c_make_encoder is not None
    else partial(json.JSONEncoder(check_circular=False, separators=(",", ":")).iterencode)
)


def json_text(value: Any) -> str:
    """A value as one line of ASCII JSON. Raises `ValueError` or `TypeError` for what is none."""
    return "".join(_chunks(value, 0))


def encode(event: Event) -> bytes:
    """One line of ASCII JSON without line breaks. Raises `ValueError` or `TypeError` for values that are no JSON."""
    return json_text(event).encode("ascii")


quote: Any = encode_basestring_ascii
"""A string as JSON, in ASCII."""


_STARTED = b'"kind":"started","at":'


def encode_end(start: bytes, kind: Kind, at: int, more: Event) -> bytes:
    """The end of a run together with all that its start said.

    ``start`` is the encoded event, with the keys ``id``, ``run``, ``kind`` and ``at`` first; ``more`` is what the end
    adds. Costs less than encoding it all once more.
    """
    head, _, rest = start.partition(_STARTED)
    end = b",%b" % encode(more)[1:] if more else b"}"
    return b'%b"kind":"%b","at":%d,"started":%b%b' % (head, kind.encode(), at, rest[:-1], end)


_raw_decode = json.JSONDecoder().raw_decode
_KIND_VALUES = frozenset(kind.value for kind in Kind)


def decode(data: bytes) -> Event:
    """The event in ``data``. Raises `ValueError` when it is no event."""
    text = data.decode("utf-8")
    event, end = _raw_decode(text)
    if end != len(text) or not isinstance(event, dict) or not event.keys() >= {"kind", "id", "name", "at"}:
        raise ValueError("not an event: kind, id, name and at are required")
    kind = event["kind"]
    if not isinstance(event["id"], str) or not isinstance(kind, str) or kind not in _KIND_VALUES:
        raise ValueError("not an event: its id is no string, or its kind is not known")
    return cast("Event", event)
