"""An event: one small immutable fact about a task, written to the journal as one JSON object.

Pure. The hooks of `capture` build events, the journal carries them as bytes, `fold` turns them into rows.
"""

from __future__ import annotations

import enum
import json
from functools import partial
from json.encoder import c_make_encoder, encode_basestring_ascii  # type: ignore[attr-defined]
from typing import Any, TypedDict, cast

from celery_asynctask.core.limits import MAX_COUNT


class Kind(str, enum.Enum):
    """What an event says has happened. The values are on disk and never change."""

    PLANNED = "planned"
    """A message was sent that carries this task as a later step: the rest of a chain, the body of a chord."""
    UNSENT = "unsent"
    """The task before this step ended without success, so Celery will never send the step."""
    PUBLISHED = "published"
    """The broker took the message."""
    RECEIVED = "received"
    """A worker's main process took the message from the broker."""
    RELEASED = "released"
    """The process that had received the message is gone without having started the task. Its ``at`` is right after that
    receive, so that a receive by another process outranks it however late this one is noticed."""
    UNRECORDED = "unrecorded"
    """A worker that knows the task, as its producer did not, says that it is not to be recorded."""
    STARTED = "started"
    """An attempt is about to run the body."""
    NOTED = "noted"
    """The running body updated the task's content."""
    RETRIED = "retried"
    """An attempt ended by requesting another."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REVOKED = "revoked"
    REJECTED = "rejected"
    IGNORED = "ignored"
    LOST = "lost"
    """The attempt's process is gone, or was shut down, and no other will say how the attempt ended."""
    FOUND = "found"
    """The attempt's process was taken for gone, but lives."""


class _Required(TypedDict):
    kind: str
    """A `Kind` value."""
    id: str
    """Celery task id."""
    name: str
    """Task name; of a message that could not be read, the name in its headers."""
    at: int
    """When it happened, by the clock of the process that saw it, in microseconds since the epoch."""


class Event(_Required, total=False):
    """One event. Every key is optional except the four required ones; an absent key says nothing. All times are in
    microseconds since the epoch."""

    nesting: int
    """How often the task was replaced before (Celery's ``replaced_task_nesting``); absent: 0."""
    retries: int
    """Celery's retry count of the message, from 0; absent: 0."""
    redelivered: bool
    """Whether the broker says that it has delivered this message before."""
    run: str
    """Token of the delivery, and so of the attempt (`keys.new_token`)."""
    delivered: bool
    """Whether the token was made when the worker's main process received the message, so that it holds that time."""
    created: int
    """When the task was created, from the message header."""
    chord: bool
    """Whether the task is, or follows, the body of a chord whose header tasks are not finished: ``created`` is then
    that of one of them, and the body's own execution is not known beforehand."""
    sent: int
    """When this message was published, from the message header."""
    eta: int
    """Earliest time to run."""
    started: int
    """When the attempt started: in an end that carries all that its start said."""
    asked: bool
    """Whether the event knows what was requested: name, root, parent, creator, args and kwargs."""
    blind: bool
    """Whether the process does not know the task, so that it tells no args and kwargs: it cannot know what to leave out
    or to redact."""
    root: str | None
    """Root task id; None: not known."""
    parent: str | None
    """Parent task id as Celery gives it (a retry has its own id there)."""
    customer: int
    """Id of the customer that the task is for, if it is a number. Every event of a task says for whom it is."""
    customer_key: str
    """That id, if it is a text."""
    created_by: int
    """Id of the creator, if it is a number."""
    created_by_key: str
    """That id, if it is a text."""
    created_by_name: str
    """Name of the creator."""
    content: Any
    """Free content that the task was created with, a JSON object."""
    noted: Any
    """The content as the attempt has updated it so far, a JSON object; outranks ``content``."""
    trace: str
    """Trace id, 32 hex digits: the producer's in an event of a message, the attempt's in one of an attempt."""
    span: str
    """Span id of the attempt, 16 hex digits."""
    args: Any
    """Positional arguments as JSON; absent: left out."""
    kwargs: Any
    """Keyword arguments as JSON; absent: left out."""
    worker: str
    """Node name of the worker, or the host of a process that runs tasks eagerly."""
    pid: int
    """Id of the process that ran the body."""
    source: str
    """The journal's name for that process."""
    queue: str
    """Queue of the message, or the routing key that leads to it."""
    holder: str
    """The journal's name for the process that has received the message."""
    result: Any
    """What the body returned, as JSON."""
    error_type: str
    """Class name of the exception."""
    error_message: str
    """Text of the exception, at most `limits.MAX_MESSAGE` characters."""
    traceback: str
    """Traceback of the exception, at most about `limits.MAX_TRACEBACK` characters."""
    outcome: str
    """How the attempt ended, where that says more than the kind: requeued, replaced, terminated."""
    again: bool
    """Whether the task continues after this attempt: its message went back to the queue, or it was replaced."""
    ran: bool
    """Whether the event ends an attempt (also one that should have been), as every end with ``started`` does."""
    inferred: bool
    """Whether the worker's main process says it about its child, and not the process that ran the body."""
    unsigned: bool
    """Whether the message named a customer or creator and was not signed, so that the event names none."""
    internal: bool
    """Whether Celery's tracer failed around the body (`task_internal_error`)."""


def count(value: Any) -> int:
    """A count that a message carries (of retries, or of replacements) as events have it; 0 for what is none."""
    return min(value, MAX_COUNT) if type(value) is int and value > 0 else 0


# json.JSONEncoder builds this anew for every call, which takes longer than the encoding itself.
_chunks: Any = (
    c_make_encoder(None, None, encode_basestring_ascii, None, ":", ",", False, False, True)
    if c_make_encoder is not None
    else partial(json.JSONEncoder(check_circular=False, separators=(",", ":")).iterencode)
)


def json_text(value: Any) -> str:
    """A value as one line of ASCII JSON. Raises `ValueError` or `TypeError` if JSON has no form for it."""
    return "".join(_chunks(value, 0))


def encode(event: Event) -> bytes:
    """The event as `json_text`, in bytes. Raises the same."""
    return json_text(event).encode("ascii")


_UNSIGNED = b'{"unsigned":true,'


def unsigned(event: Event) -> Event:
    """The event with the key ``unsigned``, which stands first, so that the recorder counts it without decoding."""
    return {"unsigned": True, **event}


def is_unsigned(data: bytes) -> bool:
    """Whether an encoded event was made by `unsigned`."""
    return data.startswith(_UNSIGNED)


quote: Any = encode_basestring_ascii
"""A string as JSON, in ASCII."""


_STARTED = b'"kind":"started","at":'


def encode_end(start: bytes, kind: Kind, at: int, added: Event) -> bytes:
    """The end of an attempt together with all that its start said, encoded.

    ``start`` is the encoded start, with the keys ``id``, ``run``, ``kind`` and ``at`` first; ``added`` has the keys
    that the end adds. Costs less than encoding all of it again.
    """
    head, _, rest = start.partition(_STARTED)
    end = b",%b" % encode(added)[1:] if added else b"}"
    return b'%b"kind":"%b","at":%d,"started":%b%b' % (head, kind.encode(), at, rest[:-1], end)


_raw_decode = json.JSONDecoder().raw_decode
_KIND_VALUES = frozenset(kind.value for kind in Kind)


def decode(data: bytes) -> Event:
    """The event in ``data``. Raises `ValueError` if there is none."""
    text = data.decode("utf-8")
    event, end = _raw_decode(text)
    if end != len(text) or not isinstance(event, dict) or not event.keys() >= {"kind", "id", "name", "at"}:
        raise ValueError("not an event: kind, id, name and at are required")
    kind = event["kind"]
    if not isinstance(event["id"], str) or not isinstance(kind, str) or kind not in _KIND_VALUES:
        raise ValueError("not an event: its id is no string, or its kind is not known")
    return cast("Event", event)
