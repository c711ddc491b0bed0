"""The truth about one execution: statuses, the order of events, and the fold that turns events into rows.

Pure: no I/O, no clock, nothing of ours but the vocabulary in `events`. This module is the specification that the
upsert statements in `store` are tested against.

The fold is a join of a semilattice: commutative, associative and idempotent. Every field of a row belongs to one
of the groups below, and each group is decided by comparing one key, so any order, any duplicates and any split
into batches give the same row.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any, NamedTuple

from celery_asynctask.events import Event, Kind

NO_RUN = "0" * 20
"""Stands in an order key where an event belongs to no delivery (published, planned, unsent)."""


class AsyncTaskStatus(str, enum.Enum):
    """What a row's ``status`` can be: the names of `celery.states` and three that Celery has no state for."""

    PENDING = "PENDING"
    """Asked for: published, planned by a workflow, put back on the queue, or replaced and not yet run again."""
    RECEIVED = "RECEIVED"
    """A worker has the message, and has not started the body (waiting for a free child, or for its ETA)."""
    STARTED = "STARTED"
    """The body runs."""
    RETRY = "RETRY"
    """The last run asked to be tried again; the next one has not started."""
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REVOKED = "REVOKED"
    """Revoked, terminated or expired."""
    REJECTED = "REJECTED"
    """The message was refused for good, by ``raise Reject`` or because it could not be understood."""
    IGNORED = "IGNORED"
    """The body ended with ``raise Ignore``."""
    LOST = "LOST"
    """Its worker went away and nobody will run it again; how far it came is unknown."""

    def __str__(self) -> str:
        return self.value


TERMINAL = frozenset(
    {
        AsyncTaskStatus.SUCCESS,
        AsyncTaskStatus.FAILURE,
        AsyncTaskStatus.REVOKED,
        AsyncTaskStatus.REJECTED,
        AsyncTaskStatus.IGNORED,
        AsyncTaskStatus.LOST,
    }
)
"""A row has ``completed_at`` if and only if its status is one of these."""

_STATUS = {
    Kind.PLANNED: AsyncTaskStatus.PENDING,
    Kind.UNSENT: AsyncTaskStatus.FAILURE,
    Kind.PUBLISHED: AsyncTaskStatus.PENDING,
    Kind.RECEIVED: AsyncTaskStatus.RECEIVED,
    Kind.STARTED: AsyncTaskStatus.STARTED,
    Kind.NOTED: AsyncTaskStatus.STARTED,
    Kind.LOST: AsyncTaskStatus.LOST,
    Kind.RETRIED: AsyncTaskStatus.RETRY,
    Kind.REVOKED: AsyncTaskStatus.REVOKED,
    Kind.REJECTED: AsyncTaskStatus.REJECTED,
    Kind.IGNORED: AsyncTaskStatus.IGNORED,
    Kind.FAILED: AsyncTaskStatus.FAILURE,
    Kind.SUCCEEDED: AsyncTaskStatus.SUCCESS,
}

# Which of two events of the same retry count says more about where the task is. A message that was planned, then
# not sent, then sent after all; a message received says more than one published; what a run says outranks both,
# so a redelivery takes a finished row back only when its body really starts again.
_STAGE = {Kind.PLANNED: 0, Kind.UNSENT: 1, Kind.PUBLISHED: 2, Kind.RECEIVED: 3}
_STAGE_RUN = 4

# Inside one run. The process that ran the body knows better than the worker's main process, which only infers:
# a child that stored its result and was then killed has succeeded. An internal error of Celery's tracer comes
# after whatever the body did (a result backend that is down: celery/app/trace.py, 5.7).
_PHASE_STARTED, _PHASE_LOST, _PHASE_INFERRED, _PHASE_SEEN, _PHASE_INTERNAL = range(5)

# Which event the asked-for facts are taken from, first choice first.
_SOURCE_MESSAGE, _SOURCE_UNSENT, _SOURCE_PLANNED, _SOURCE_NAME_ONLY = range(4)


class TaskGroup(NamedTuple):
    """Columns that change together: the side whose ``key`` is smaller (or larger) gives all of them."""

    key: str
    smallest_wins: bool
    columns: tuple[str, ...]


TASK_GROUPS = (
    TaskGroup(
        "origin_key",
        True,
        (
            "name",
            "root_task_id",
            "parent_task_id",
            "task_args",
            "task_kwargs",
            "customer",
            "created_by",
            "created_by_name",
        ),
    ),
    TaskGroup("trace_key", False, ("trace_id", "span_id")),
    TaskGroup("content_key", False, ("content",)),
    TaskGroup(
        "order_key",
        False,
        ("status", "error_type", "error_message", "retries", "completed_at", "result"),
    ),
)
TASK_EARLIEST = ("created_at", "started_at")
"""Columns of a task that keep the smaller value; null counts as not known."""

ATTEMPT_GROUPS = (TaskGroup("end_key", False, ("ended_at", "outcome", "error_type", "error_message", "traceback")),)
ATTEMPT_FIRST = (
    "started_at",
    "published_at",
    "received_at",
    "eta",
    "worker",
    "pid",
    "queue",
    "trace_id",
    "span_id",
)
"""Columns of an attempt that only its start knows: whichever side has a value gives it."""

ATTEMPT_CONSTANT = ("celery_task_id", "run_key", "name", "retries", "redelivered")
"""Columns of an attempt that every event of the run carries alike."""


class Partial(NamedTuple):
    """What some events say: a task row and the rows of its attempts by run key. Values are plain: str, int
    (times are microseconds since the epoch), bool, JSON, None."""

    task: dict[str, Any]
    attempts: dict[str, dict[str, Any]]


def status_of(event: Event) -> AsyncTaskStatus:
    """The status that the event gives a row in which it is the highest."""
    kind = event["kind"]
    if event.get("again"):
        return AsyncTaskStatus.PENDING
    if kind in (Kind.PUBLISHED, Kind.RECEIVED) and event.get("retries"):
        return AsyncTaskStatus.RETRY
    return _STATUS[Kind(kind)]


def run_key(event: Event) -> str:
    """Names a run inside its task and sorts runs in the order they were meant to happen.

    Replacements before retries, then redeliveries, then the time the delivery was received, which starts the token
    in ``run``.
    """
    return (
        f"{min(event.get('nesting', 0), 0xFF):02x}{min(event.get('retries', 0), 0xFFFF):04x}"
        f"{1 if event.get('redelivered') else 0}{event.get('run') or NO_RUN}"
    )


def _phase(event: Event) -> int:
    kind = event["kind"]
    if kind in (Kind.STARTED, Kind.NOTED):
        return _PHASE_STARTED
    if kind == Kind.LOST:
        return _PHASE_LOST
    if event.get("internal"):
        return _PHASE_INTERNAL
    return _PHASE_INFERRED if event.get("inferred") else _PHASE_SEEN


def order_key(event: Event) -> str:
    """Orders all events of a task by what they say about where it is; fixed width, so strings compare."""
    stage = _STAGE.get(Kind(event["kind"]), _STAGE_RUN)
    key = run_key(event)
    run, phase = (key[6:], _phase(event)) if stage == _STAGE_RUN else ("0" + NO_RUN, 0)
    return f"{key[:6]}{stage}{run}{phase}{event['at']:014x}"


def origin_key(event: Event) -> str:
    """Orders events by how well they know what was asked for: smaller is better."""
    kind = event["kind"]
    if "root" not in event:
        source = _SOURCE_NAME_ONLY
    elif kind == Kind.PLANNED:
        source = _SOURCE_PLANNED
    elif kind == Kind.UNSENT:
        source = _SOURCE_UNSENT
    else:
        source = _SOURCE_MESSAGE
    return f"{source}{run_key(event)[:6]}{event['at']:014x}"


def project(event: Event) -> Partial:
    """The row that one event alone amounts to."""
    kind, at, task_id = event["kind"], event["at"], event["id"]
    status = status_of(event)
    parent = event.get("parent")
    order = order_key(event)
    task = {
        "celery_task_id": task_id,
        "origin_key": origin_key(event),
        "name": event["name"],
        "root_task_id": event.get("root"),
        "parent_task_id": parent if parent != task_id else None,
        "task_args": event.get("args"),
        "task_kwargs": event.get("kwargs"),
        "customer": event.get("customer"),
        "created_by": event.get("created_by"),
        "created_by_name": event.get("created_by_name"),
        "trace_key": order if "trace" in event else "",
        "trace_id": event.get("trace"),
        "span_id": event.get("span") if "trace" in event else None,
        "content_key": f"{1 if event.get('noted') else 0}{order}" if "content" in event else "",
        "content": event.get("content"),
        "created_at": event.get("created", at),
        "started_at": at if kind == Kind.STARTED else None,
        "order_key": order,
        "status": status.value,
        "error_type": event.get("error_type"),
        "error_message": event.get("error_message"),
        "retries": event.get("retries", 0),
        "completed_at": at if status in TERMINAL else None,
        "result": event.get("result"),
    }
    attempts = {}
    if kind == Kind.STARTED or event.get("ran"):
        attempt = _project_attempt(event)
        attempts[attempt["run_key"]] = attempt
    return Partial(task, attempts)


def _project_attempt(event: Event) -> dict[str, Any]:
    started = event["kind"] == Kind.STARTED
    run = event.get("run") or NO_RUN
    return {
        "celery_task_id": event["id"],
        "run_key": run_key(event),
        "name": event["name"],
        "retries": event.get("retries", 0),
        "redelivered": bool(event.get("redelivered")),
        "started_at": event["at"] if started else None,
        "published_at": event.get("sent") if started else None,
        "received_at": int(run[:14], 16) if started and event.get("delivered") else None,
        "eta": event.get("eta") if started else None,
        "worker": event.get("worker") if started else None,
        "pid": event.get("pid") if started else None,
        "queue": event.get("queue") if started else None,
        "trace_id": event.get("trace") if started else None,
        "span_id": event.get("span") if started else None,
        "end_key": "" if started else f"{_phase(event)}{event['at']:014x}",
        "ended_at": None if started else event["at"],
        "outcome": None if started else event.get("outcome", event["kind"]),
        "error_type": event.get("error_type"),
        "error_message": event.get("error_message"),
        "traceback": event.get("traceback"),
    }


def _merge_groups(a: dict[str, Any], b: dict[str, Any], groups: Iterable[TaskGroup]) -> dict[str, Any]:
    merged = dict(a)
    for group in groups:
        winner = (min if group.smallest_wins else max)(a, b, key=lambda side: side[group.key])
        merged[group.key] = winner[group.key]
        merged.update((column, winner[column]) for column in group.columns)
    return merged


def merge_task(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Join two partial task rows of the same task."""
    merged = _merge_groups(a, b, TASK_GROUPS)
    for column in TASK_EARLIEST:
        known = [side[column] for side in (a, b) if side[column] is not None]
        merged[column] = min(known, default=None)
    return merged


def merge_attempt(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Join two partial attempt rows of the same run."""
    merged = _merge_groups(a, b, ATTEMPT_GROUPS)
    for column in ATTEMPT_FIRST:
        merged[column] = a[column] if a[column] is not None else b[column]
    return merged


def merge(a: Partial, b: Partial) -> Partial:
    """Join two partials of the same task."""
    attempts = dict(a.attempts)
    for key, attempt in b.attempts.items():
        attempts[key] = merge_attempt(attempts[key], attempt) if key in attempts else attempt
    return Partial(merge_task(a.task, b.task), attempts)


def fold(events: Iterable[Event]) -> Partial:
    """Events of one task, in any order and number, to its row and attempts. Raises `TypeError` without events."""
    return reduce(merge, map(project, events))


def fold_all(events: Iterable[Event]) -> Mapping[str, Partial]:
    """Events of any tasks to their rows, by Celery task id."""
    partials: dict[str, Partial] = {}
    for event in events:
        task_id = event["id"]
        partial = project(event)
        known = partials.get(task_id)
        partials[task_id] = partial if known is None else merge(known, partial)
    return partials
