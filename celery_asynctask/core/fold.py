"""The truth about one task: the fold that turns events into rows.

Pure: no I/O, no clock, and of this package only the vocabulary in `columns`, `event`, `status` and `keys`. This module
is the specification that the upsert statements in `store` are tested against.

The fold is a join of a semilattice: commutative, associative and idempotent. Every field of a row belongs to one
of the groups below, and each group is decided by comparing one key, so any order, any duplicates and any split
into batches give the same row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from celery_asynctask.core.columns import ATTEMPT, TASK, Group, Type, names
from celery_asynctask.core.event import Event, Kind
from celery_asynctask.core.keys import (
    CHANGED,
    GIVEN,
    MAX_TIME,
    attempt_key,
    content_key,
    end_key,
    execution_of,
    keys_of,
    received_at,
    trace_key,
)
from celery_asynctask.core.status import TERMINAL, AsyncTaskStatus
from celery_asynctask.core.time import AGO, AHEAD

STATUS = {
    Kind.PLANNED: AsyncTaskStatus.PENDING,
    Kind.UNSENT: AsyncTaskStatus.FAILURE,
    Kind.PUBLISHED: AsyncTaskStatus.PENDING,
    Kind.RECEIVED: AsyncTaskStatus.RECEIVED,
    Kind.RELEASED: AsyncTaskStatus.PENDING,
    Kind.UNRECORDED: AsyncTaskStatus.UNRECORDED,
    Kind.STARTED: AsyncTaskStatus.STARTED,
    Kind.NOTED: AsyncTaskStatus.STARTED,
    Kind.LOST: AsyncTaskStatus.LOST,
    Kind.FOUND: AsyncTaskStatus.STARTED,
    Kind.RETRIED: AsyncTaskStatus.RETRY,
    Kind.REVOKED: AsyncTaskStatus.REVOKED,
    Kind.REJECTED: AsyncTaskStatus.REJECTED,
    Kind.IGNORED: AsyncTaskStatus.IGNORED,
    Kind.FAILED: AsyncTaskStatus.FAILURE,
    Kind.SUCCEEDED: AsyncTaskStatus.SUCCESS,
}

# Looking up a member of an enum runs Python code, so what every event needs is kept by plain strings.
_STATUS = {kind.value: status.value for kind, status in STATUS.items()}
_SENT = frozenset({Kind.PUBLISHED.value, Kind.RECEIVED.value, Kind.RELEASED.value})
_STARTED = Kind.STARTED.value
_NO_END = frozenset({Kind.STARTED.value, Kind.FOUND.value})
_PENDING = AsyncTaskStatus.PENDING.value
_RETRY = AsyncTaskStatus.RETRY.value
_UNRECORDED = Kind.UNRECORDED.value


class TaskGroup(NamedTuple):
    """Columns that change together: the row whose ``key`` is smaller (or larger) gives all of them."""

    key: str
    smallest_wins: bool
    columns: tuple[str, ...]


TASK_GROUPS = tuple(
    TaskGroup(group.value, group is Group.ORIGIN, names(TASK, group))
    for group in (Group.ORIGIN, Group.TRACE, Group.CONTENT, Group.ORDER)
)
TASK_EARLIEST = names(TASK, Group.EARLIEST)
ATTEMPT_GROUPS = (TaskGroup(Group.END.value, False, names(ATTEMPT, Group.END)),)
ATTEMPT_FIRST = names(ATTEMPT, Group.START)
ATTEMPT_CONSTANT = names(ATTEMPT, Group.ATTEMPT)


_NO_TASK: dict[str, Any] = dict.fromkeys(column.name for column in TASK if column.type is not Type.NUMBER)
_NO_ATTEMPT: dict[str, Any] = dict.fromkeys(column.name for column in ATTEMPT if column.type is not Type.NUMBER)
_OF_TASK = tuple((column.name, column.event) for column in TASK if column.event is not None)
_OF_ATTEMPT = tuple((column.name, column.event) for column in ATTEMPT if column.event is not None)
_OF_END = tuple(
    (column.name, column.event) for column in ATTEMPT if column.event is not None and column.group is Group.END
)
"""Columns with the key of the event whose value is copied to them unchanged."""


class Partial(NamedTuple):
    """What some events of a task say: the task's row, and the rows of its attempts by attempt key. Values are plain:
    str, int (times are microseconds since the epoch), bool, JSON, None."""

    task: dict[str, Any]
    attempts: dict[str, dict[str, Any]]


def status_of(event: Event) -> str:
    """The status that the event gives a row in which its order key is the largest."""
    if event.get("again"):
        return _PENDING
    kind = event["kind"]
    return _RETRY if event.get("retries") and kind in _SENT else _STATUS[kind]


def project(event: Event) -> Partial:
    """The rows that one event alone makes; an end that carries its start (``started``) makes those of both.

    `store.fold` has the same in SQL.
    """
    kind, at, task_id = event["kind"], event["at"], event["id"]
    status = status_of(event)
    key = attempt_key(event)
    started = at if kind == _STARTED else event.get("started")
    since = at if started is None else started
    order, start_order, origin = keys_of(event, key, started)
    parent, trace = event.get("parent"), event.get("trace")
    content, noted = event.get("content"), event.get("noted")
    values: Mapping[str, Any] = event
    task = _NO_TASK.copy()
    for column, event_key in _OF_TASK:
        if event_key in values:
            task[column] = values[event_key]
    task["celery_task_id"] = task_id
    task["customer_key"] = customer_key(event)
    task["created_by_key"] = created_by_key(event)
    task["origin_key"] = origin
    task["parent_task_id"] = parent if parent != task_id else None
    task["trace_key"] = trace_key(start_order, trace is not None)
    task["span_id"] = event.get("span") if trace is not None else None
    if noted is not None:
        task["content_key"] = content_key(order, CHANGED)
    else:
        task["content_key"] = content_key(start_order, GIVEN if content is not None else None)
    task["content"] = noted if noted is not None else content
    task["created_at"] = at if kind == _UNRECORDED else _created_at(event, min(since, at))
    task["started_at"] = started
    task["order_key"] = order
    task["status"] = status
    task["retries"] = event.get("retries", 0)
    task["completed_at"] = at if status in TERMINAL else None
    if started is None and not event.get("ran"):
        return Partial(task, {})
    return Partial(task, {key: _project_attempt(event, key, started)})


def _created_at(event: Event, at: int) -> int:
    """When the task was created, as far as an event at ``at`` can believe it; else ``at``. Of all events, the earliest
    counts: a time that one of them believed stays, however long the task waits after that."""
    created = event.get("created")
    if created is None:
        return at
    if not 0 <= created <= MAX_TIME:
        raise OverflowError("the event was created at a time that keys have no room for")
    return created if at - AGO <= created <= at + AHEAD else at


def customer_key(event: Event) -> str:
    """The key of the customer that the event's task is for, empty for none: with the task id, it identifies the row."""
    return _key(event.get("customer_key"), event.get("customer")) or ""


def created_by_key(event: Event) -> str | None:
    """The key of the creator of the event's task; None: not given."""
    return _key(event.get("created_by_key"), event.get("created_by"))


def _key(text: str | None, number: int | None) -> str | None:
    return text if text is not None or number is None else str(number)


def _project_attempt(event: Event, key: str, started: int | None) -> dict[str, Any]:
    kind, at = event["kind"], event["at"]
    has_start = started is not None
    ended = kind not in _NO_END
    values: Mapping[str, Any] = event
    attempt = _NO_ATTEMPT.copy()
    for column, event_key in _OF_ATTEMPT if has_start else _OF_END:
        if event_key in values:
            attempt[column] = values[event_key]
    attempt["celery_task_id"] = event["id"]
    attempt["customer_key"] = customer_key(event)
    attempt["run_key"] = key
    attempt["name"] = event["name"]
    attempt["retries"] = event.get("retries", 0)
    attempt["redelivered"] = bool(event.get("redelivered"))
    attempt["started_at"] = started
    attempt["received_at"] = received_at(key) if has_start and event.get("delivered") else None
    attempt["end_key"] = end_key(event) if kind != _STARTED else ""
    attempt["ended_at"] = at if ended else None
    attempt["outcome"] = event.get("outcome", kind) if ended else None
    return attempt


def _merge_groups(a: dict[str, Any], b: dict[str, Any], groups: Iterable[TaskGroup]) -> dict[str, Any]:
    merged = dict(a)
    for key, smallest_wins, columns in groups:
        if b[key] < a[key] if smallest_wins else b[key] > a[key]:
            merged[key] = b[key]
            for column in columns:
                merged[column] = b[column]
    return merged


def merge_task(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Join two partial task rows of the same task."""
    merged = _merge_groups(a, b, TASK_GROUPS)
    execution, other_execution = execution_of(a["order_key"]), execution_of(b["order_key"])
    for column in TASK_EARLIEST:
        known, other = a[column], b[column]
        if execution != other_execution:
            merged[column] = known if execution > other_execution else other
        elif known is None or (other is not None and other < known):
            merged[column] = other
    return merged


def merge_attempt(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Join two partial rows of the same attempt."""
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


Identity = tuple[str, str]
"""What identifies a row: the Celery task id, and the key of the customer, empty for none. Two customers may use the
same id, and neither must see the other's row."""


def fold_all(events: Iterable[Event]) -> Mapping[Identity, Partial]:
    """The rows of the events' tasks. The events may be of any tasks, in any order, repeated."""
    partials: dict[Identity, Partial] = {}
    for event in events:
        identity = event["id"], customer_key(event)
        partial = project(event)
        known = partials.get(identity)
        partials[identity] = partial if known is None else merge(known, partial)
    return partials
