"""The truth about one execution: the fold that turns events into rows.

Pure: no I/O, no clock, nothing of ours but the vocabulary in `event`, `status` and `keys`. This module is the
specification that the upsert statements in `store` are tested against.

The fold is a join of a semilattice: commutative, associative and idempotent. Every field of a row belongs to one
of the groups below, and each group is decided by comparing one key, so any order, any duplicates and any split
into batches give the same row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from celery_asynctask.core.columns import ATTEMPT, TASK, Group, Type, names
from celery_asynctask.core.event import Event, Kind
from celery_asynctask.core.keys import CHANGED, GIVEN, end_key, order_keys, received_at, run_key
from celery_asynctask.core.status import TERMINAL, AsyncTaskStatus

STATUS = {
    Kind.PLANNED: AsyncTaskStatus.PENDING,
    Kind.UNSENT: AsyncTaskStatus.FAILURE,
    Kind.PUBLISHED: AsyncTaskStatus.PENDING,
    Kind.RECEIVED: AsyncTaskStatus.RECEIVED,
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

# Members of an enum are looked up in Python, so what is asked for every event goes by plain strings.
_STATUS = {kind.value: status.value for kind, status in STATUS.items()}
_SENT = frozenset({Kind.PUBLISHED.value, Kind.RECEIVED.value})
_STARTED = Kind.STARTED.value
_NO_END = frozenset({Kind.STARTED.value, Kind.FOUND.value})
_PENDING = AsyncTaskStatus.PENDING.value
_RETRY = AsyncTaskStatus.RETRY.value


class TaskGroup(NamedTuple):
    """Columns that change together: the side whose ``key`` is smaller (or larger) gives all of them."""

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
ATTEMPT_CONSTANT = names(ATTEMPT, Group.RUN)


_NO_TASK: dict[str, Any] = dict.fromkeys(one.name for one in TASK if one.type is not Type.NUMBER)
_NO_ATTEMPT: dict[str, Any] = dict.fromkeys(one.name for one in ATTEMPT if one.type is not Type.NUMBER)
_OF_TASK = tuple((one.name, one.event) for one in TASK if one.event is not None)
_OF_RUN = tuple((one.name, one.event) for one in ATTEMPT if one.event is not None)
_OF_END = tuple((one.name, one.event) for one in ATTEMPT if one.event is not None and one.group is Group.END)
"""Columns, each with the key of the event that is copied to it as it is."""


class Partial(NamedTuple):
    """What some events say: a task row and the rows of its attempts by run key. Values are plain: str, int
    (times are microseconds since the epoch), bool, JSON, None."""

    task: dict[str, Any]
    attempts: dict[str, dict[str, Any]]


def status_of(event: Event) -> str:
    """The status that the event gives a row in which it is the highest."""
    if event.get("again"):
        return _PENDING
    kind = event["kind"]
    return _RETRY if event.get("retries") and kind in _SENT else _STATUS[kind]


def project(event: Event) -> Partial:
    """The row that one event alone amounts to; an end that carries its start (``started``) amounts to both.

    The store has this in SQL, too (`store.fold`).
    """
    kind, at, task_id = event["kind"], event["at"], event["id"]
    status = status_of(event)
    key = run_key(event)
    started = at if kind == _STARTED else event.get("started")
    since = at if started is None else started
    order, start_order, origin = order_keys(event, key, started)
    parent, trace = event.get("parent"), event.get("trace")
    content, noted = event.get("content"), event.get("noted")
    told: Mapping[str, Any] = event
    task = _NO_TASK.copy()
    for column, said in _OF_TASK:
        if said in told:
            task[column] = told[said]
    task["celery_task_id"] = task_id
    task["origin_key"] = origin
    task["parent_task_id"] = parent if parent != task_id else None
    task["trace_key"] = start_order if trace is not None else ""
    task["span_id"] = event.get("span") if trace is not None else None
    task["content_key"] = ""
    if noted is not None:
        task["content_key"] = CHANGED + order
    elif content is not None:
        task["content_key"] = GIVEN + start_order
    task["content"] = noted if noted is not None else content
    task["created_at"] = event.get("created", min(since, at))
    task["started_at"] = started
    task["order_key"] = order
    task["status"] = status
    task["retries"] = event.get("retries", 0)
    task["completed_at"] = at if status in TERMINAL else None
    if started is None and not event.get("ran"):
        return Partial(task, {})
    return Partial(task, {key: _project_attempt(event, key, started)})


def _project_attempt(event: Event, key: str, started: int | None) -> dict[str, Any]:
    kind, at = event["kind"], event["at"]
    has_start = started is not None
    ended = kind not in _NO_END
    told: Mapping[str, Any] = event
    attempt = _NO_ATTEMPT.copy()
    for column, said in _OF_RUN if has_start else _OF_END:
        if said in told:
            attempt[column] = told[said]
    attempt["celery_task_id"] = event["id"]
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
    for column in TASK_EARLIEST:
        known, other = a[column], b[column]
        if known is None or (other is not None and other < known):
            merged[column] = other
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


def fold_all(events: Iterable[Event]) -> Mapping[str, Partial]:
    """Events of any tasks, in any order and number, to their rows, by Celery task id."""
    partials: dict[str, Partial] = {}
    for event in events:
        task_id = event["id"]
        partial = project(event)
        known = partials.get(task_id)
        partials[task_id] = partial if known is None else merge(known, partial)
    return partials
