"""The truth about one execution: the fold that turns events into rows.

Pure: no I/O, no clock, nothing of ours but the vocabulary in `event` and `status`. This module is the specification
that the upsert statements in `store` are tested against.

The fold is a join of a semilattice: commutative, associative and idempotent. Every field of a row belongs to one
of the groups below, and each group is decided by comparing one key, so any order, any duplicates and any split
into batches give the same row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any, NamedTuple

from celery_asynctask.core.columns import ATTEMPT, TASK, Group, Type, names
from celery_asynctask.core.event import Event, Kind
from celery_asynctask.core.status import TERMINAL, AsyncTaskStatus

NO_RUN = "0" * 20
"""Stands in an order key where an event belongs to no delivery (published, planned, unsent)."""


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

# Members of an enum are looked up and hashed in Python, so what is asked for every event goes by plain strings.
_STATUS = {kind.value: status.value for kind, status in STATUS.items()}
_TERMINAL = frozenset(status.value for status in TERMINAL)
_SENT = frozenset({Kind.PUBLISHED.value, Kind.RECEIVED.value})
_STARTED = Kind.STARTED.value
_NO_END = frozenset({Kind.STARTED.value, Kind.FOUND.value})
_PENDING = AsyncTaskStatus.PENDING.value
_RETRY = AsyncTaskStatus.RETRY.value

# Which of two events of the same retry count says more about where the task is. A message that was planned, then
# not sent, then sent after all; a message received says more than one published; what a run says outranks both,
# so a redelivery takes a finished row back only when its body really starts again.
STAGE = {Kind.PLANNED: 0, Kind.UNSENT: 1, Kind.PUBLISHED: 2, Kind.RECEIVED: 3}
STAGE_RUN = 4
_STAGE = {kind.value: stage for kind, stage in STAGE.items()}

# Inside one run. The process that ran the body knows better than the worker's main process, which only infers:
# a child that stored its result and was then killed has succeeded. An internal error of Celery's tracer comes
# after whatever the body did (a result backend that is down: celery/app/trace.py, 5.7).
PHASE_STARTED, PHASE_LOST, PHASE_INFERRED, PHASE_SEEN, PHASE_INTERNAL = range(5)
_PHASE = {
    Kind.STARTED.value: PHASE_STARTED,
    Kind.NOTED.value: PHASE_STARTED,
    Kind.LOST.value: PHASE_LOST,  # of these the later one is right
    Kind.FOUND.value: PHASE_LOST,
}

# Which event the asked-for facts are taken from, first choice first.
SOURCE_MESSAGE, SOURCE_UNSENT, SOURCE_PLANNED, SOURCE_NAME_ONLY = range(4)


_SOURCES = {Kind.PLANNED.value: SOURCE_PLANNED, Kind.UNSENT.value: SOURCE_UNSENT}


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


def status_of(event: Event) -> AsyncTaskStatus:
    """The status that the event gives a row in which it is the highest."""
    return AsyncTaskStatus(_status(event))


def _status(event: Event) -> str:
    if event.get("again"):
        return _PENDING
    kind = event["kind"]
    return _RETRY if event.get("retries") and kind in _SENT else _STATUS[kind]


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
    phase = _PHASE.get(event["kind"])
    if phase is not None:
        return phase
    if event.get("internal"):
        return PHASE_INTERNAL
    return PHASE_INFERRED if event.get("inferred") else PHASE_SEEN


def order_key(event: Event) -> str:
    """Orders all events of a task by what they say about where it is; fixed width, so strings compare."""
    return _order_key(event, run_key(event))


def _order_key(event: Event, key: str) -> str:
    stage = _STAGE.get(event["kind"], STAGE_RUN)
    run, phase = (key[6:], _phase(event)) if stage == STAGE_RUN else ("0" + NO_RUN, 0)
    return f"{key[:6]}{stage}{run}{phase}{event['at']:014x}"


def _source(event: Event) -> int:
    """Orders events by how well they know what was asked for: smaller is better."""
    if not event.get("asked"):
        return SOURCE_NAME_ONLY
    return _SOURCES.get(event["kind"], SOURCE_MESSAGE)


def project(event: Event) -> Partial:
    """The row that one event alone amounts to; an end that carries its start (``started``) amounts to both.

    The store has this in SQL, too (`store.postgresql`).
    """
    kind, at, task_id = event["kind"], event["at"], event["id"]
    status = _status(event)
    key = run_key(event)
    order = _order_key(event, key)
    started = at if kind == _STARTED else event.get("started")
    since = at if started is None else started
    start_order = order if started is None else f"{key[:6]}{STAGE_RUN}{key[6:]}{PHASE_STARTED}{started:014x}"
    parent, trace = event.get("parent"), event.get("trace")
    content, noted = event.get("content"), event.get("noted")
    told: Mapping[str, Any] = event
    task = _NO_TASK.copy()
    for column, said in _OF_TASK:
        if said in told:
            task[column] = told[said]
    task["celery_task_id"] = task_id
    task["origin_key"] = f"{_source(event)}{key[:6]}{since:014x}"
    task["parent_task_id"] = parent if parent != task_id else None
    task["trace_key"] = start_order if trace is not None else ""
    task["span_id"] = event.get("span") if trace is not None else None
    task["content_key"] = f"1{order}" if noted is not None else f"0{start_order}" if content is not None else ""
    task["content"] = noted if noted is not None else content
    task["created_at"] = event.get("created", min(since, at))
    task["started_at"] = started
    task["order_key"] = order
    task["status"] = status
    task["retries"] = event.get("retries", 0)
    task["completed_at"] = at if status in _TERMINAL else None
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
    attempt["received_at"] = int(key[7:21], 16) if has_start and event.get("delivered") else None
    attempt["end_key"] = f"{_phase(event)}{at:014x}" if kind != _STARTED else ""
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
