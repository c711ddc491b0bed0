"""Splits the time of a task into waits, queues and attempts, from its rows. Pure."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from celery_asynctask.core.keys import is_of_earlier_execution
from celery_asynctask.core.status import TERMINAL, AsyncTaskStatus
from celery_asynctask.queries.types import EvidentTask
from celery_asynctask.queries.workflow.members import MemberAttempt
from celery_asynctask.queries.workflow.tree import Member
from celery_asynctask.store.models import AsyncTaskAttempt


class Time(str, enum.Enum):
    """The state of a task during a part of its time."""

    QUEUED = "queued"
    """It waits for a worker."""
    WAITING = "waiting"
    """It waits for its ETA, or for a retry."""
    RAN = "ran"
    """It runs, or an attempt ended well."""
    FAILED = "failed"
    """An attempt that did not end well."""
    UNKNOWN = "unknown"
    """An attempt whose end nobody saw."""
    END = "end"
    """A moment: the task ended without an attempt."""


class Part(NamedTuple):
    """A part of a task's time; both ends are aware UTC times."""

    start: dt.datetime
    end: dt.datetime
    time: Time


_STATES: Final = {"succeeded": Time.RAN, "replaced": Time.RAN, "ignored": Time.RAN, "lost": Time.UNKNOWN}
"""The state by the outcome of an attempt; any other outcome is a failure."""


def parts(member: Member, attempts: Sequence[MemberAttempt], now: dt.datetime) -> Iterator[Part]:
    """The parts of a task's time in order, up to ``now`` if it has not ended; none for a step that was not sent."""
    if member.planned:
        return
    if not attempts:
        if member.completed_at is None:
            yield Part(member.created_at, max(now, member.created_at), Time.QUEUED)
        else:
            if not member.unsent:
                yield Part(member.created_at, max(member.completed_at, member.created_at), Time.QUEUED)
            yield Part(member.completed_at, member.completed_at, Time.END)
        return
    over = member.status in TERMINAL
    free: dt.datetime | None = None  # end of the attempt before, as far as it is known
    for number, attempt in enumerate(attempts):
        later = attempts[number + 1] if number + 1 < len(attempts) else None
        start = attempt.started_at or attempt.ended_at
        if start is None:
            continue
        since = attempt.published_at or attempt.received_at or (member.created_at if free is None else free)
        since = min(since if free is None else max(since, free), start)
        due = min(max(attempt.eta, since), start) if attempt.eta is not None else since
        yield from (
            part for part in (Part(since, due, Time.WAITING), Part(due, start, Time.QUEUED)) if part.end > part.start
        )
        if attempt.ended_at is not None:
            end, time = attempt.ended_at, _STATES.get(attempt.outcome or "", Time.FAILED)
        elif later is None and not over:
            end, time = now, Time.RAN
        else:
            end = next((at for at in (later and later.started_at, member.completed_at) if at is not None), start)
            time = Time.UNKNOWN
        free = max(end, start)
        yield Part(start, free, time)
    if not over and attempts[-1].ended_at is not None:  # back in the queue, or waiting for a retry
        yield Part(attempts[-1].ended_at, max(now, attempts[-1].ended_at), Time.WAITING)


class Course(NamedTuple):
    """The durations and the outcome of an attempt."""

    delayed: dt.timedelta | None
    """From the sending of its message to its ETA; None: it had no later ETA."""
    queued: dt.timedelta | None
    """From then to its start; None: no start is known."""
    ran: dt.timedelta | None
    """From its start to its end, or to now while it runs; None: not known."""
    outcome: str
    """Its outcome, ``running``, or ``end not seen``."""


def courses(
    task: EvidentTask | Member, attempts: Sequence[AsyncTaskAttempt | MemberAttempt], now: dt.datetime
) -> Iterator[Course]:
    """The course of each attempt. If it is not known when its message was sent, the end of the attempt before counts,
    and for the first attempt the creation of the task; of an earlier execution under the same id, neither is known."""
    before: dt.datetime | None = None
    is_first = True
    for number, attempt in enumerate(attempts, 1):
        is_earlier = is_of_earlier_execution(attempt.run_key, task.order_key)
        if not is_earlier and is_first:
            before, is_first = task.created_at, False
        sent = attempt.published_at or before
        ready = max(sent, attempt.eta) if sent is not None and attempt.eta is not None else sent
        is_last = task.status is AsyncTaskStatus.STARTED and number == len(attempts) and not is_earlier
        is_running = is_last and attempt.ended_at is None
        end = attempt.ended_at or (now if is_running else None)
        yield Course(
            ready - sent if ready is not None and sent is not None and ready > sent else None,
            attempt.started_at - ready if attempt.started_at is not None and ready is not None else None,
            end - attempt.started_at if end is not None and attempt.started_at is not None else None,
            attempt.outcome or ("running" if is_running else "end not seen"),
        )
        if not is_earlier:
            before = attempt.ended_at or attempt.started_at or before
