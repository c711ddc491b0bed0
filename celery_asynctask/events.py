"""An event: one small immutable fact about a task, made in a hook, written to the journal as one JSON object.

Pure. The hooks build events, the journal carries them as bytes, `lifecycle` folds them into rows.
"""

from __future__ import annotations

import enum
import json
import os
import time
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
    """Token of the delivery, hence of the run: 14 hex digits of microseconds since the epoch, 6 at random."""
    delivered: bool
    """The token was made when the worker's main process received the message, so it tells that time."""
    created: int
    """When the task was first asked for, from the message header, microseconds since the epoch."""
    sent: int
    """When this message was published, from the message header, microseconds since the epoch."""
    eta: int
    """Not to be run before, microseconds since the epoch."""
    root: str | None
    """Root task id. The key's presence means that the event knows what was asked for."""
    parent: str | None
    """Parent task id as Celery gives it (a retry names itself)."""
    customer: int
    """For which customer."""
    created_by: int
    """Who asked for it."""
    created_by_name: str
    """The name of who asked for it."""
    content: Any
    """Free content as JSON: what was asked with, or what the run has made of it by now."""
    noted: bool
    """The content is the run's own word, which outranks what the task was asked with."""
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
    """How the attempt ended, where it says more than the kind: requeued, replaced, expired, terminated."""
    again: bool
    """The task is not over although this run is: its message went back to the queue, or it was replaced."""
    ran: bool
    """The event ends a run of the body (or what should have been one)."""
    inferred: bool
    """Said by the worker's main process about its child, not by the process that ran the body."""
    internal: bool
    """Celery's tracer failed around the body (`task_internal_error`)."""


_encode = json.JSONEncoder(ensure_ascii=True, check_circular=False, separators=(",", ":")).encode


def encode(event: Event) -> bytes:
    """One line of ASCII JSON without line breaks. Raises `ValueError` or `TypeError` for values that are no JSON."""
    return _encode(event).encode("ascii")


def decode(data: bytes) -> Event:
    """The event in ``data``. Raises `ValueError` when it is no event."""
    event = json.loads(data)
    if not isinstance(event, dict) or not {"kind", "id", "name", "at"} <= event.keys():
        raise ValueError("not an event: kind, id, name and at are required")
    Kind(event["kind"])
    return cast("Event", event)


def now() -> int:
    """The wall clock, microseconds since the epoch."""
    return time.time_ns() // 1000


def new_run(at: int) -> str:
    """A token for a delivery received at ``at``: unique, and sorting by time."""
    return f"{at:014x}{os.urandom(3).hex()}"
