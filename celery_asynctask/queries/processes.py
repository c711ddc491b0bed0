"""The processes that write journals: which of them live, what they run now, and what was lost with them.

An index leads to the tasks that are STARTED or LOST, and these lead to their attempts. So the number of rows read is
bounded, however many attempts a process has made.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, and_, case, func, select
from sqlalchemy.orm import Session

from celery_asynctask.core.accounting import SILENT
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.queries.attempts import of_task
from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.search.order import NEWEST
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt, AsyncTaskSource

MAX_LIVING: Final = 1000
"""Processes not known to be gone that are read."""
MAX_GONE: Final = 100
"""Processes known to be gone that are read."""
MAX_RUNNING: Final = 2000
"""Running tasks whose process is looked up."""
MAX_LOST: Final = 500
"""Lost tasks whose process is looked up."""


class State(str, enum.Enum):
    """The state of a process, as far as recorders know."""

    ALIVE = "alive"
    """A recorder has seen it within `SILENT`."""
    SILENT = "silent"
    """No recorder has seen it lately, and none has found it gone: its node is cut off, or has no recorder."""
    GONE = "gone"
    """A recorder has found it gone."""

    def __str__(self) -> str:
        return self.value


class ProcessAttempt(NamedTuple):
    """An attempt that runs or was lost, by its task."""

    celery_task_id: str
    customer_key: str
    name: str
    started_at: dt.datetime | None


class Source(NamedTuple):
    """One process. All fields but the last three are those of `models.AsyncTaskSource`."""

    source: str
    host: str
    pid: int
    role: str
    started_at: dt.datetime
    last_seen_at: dt.datetime
    ended_at: dt.datetime | None
    state: State
    running: Sequence[ProcessAttempt]
    """The tasks that it runs now, the longest-running first."""
    lost: Sequence[ProcessAttempt]
    """The tasks that it ran when it ended and that have not run again since; the newest first."""


class Sources(NamedTuple):
    """The processes of a store."""

    sources: Sequence[Source]
    """Living processes, then silent ones, then gone ones; within a state, those seen last come first."""
    counts: Mapping[State, int]
    """Number of all processes by state."""
    seen: dt.datetime | None
    """When a recorder last saw a process or stored events, by its clock; None: never."""
    running_since: dt.datetime | None
    """Only running tasks created at that time or later were looked at. None: all of them."""
    lost_since: dt.datetime | None
    """Like ``running_since``, for lost tasks."""


def sources(reader: Reader, session: Session, now: dt.datetime, *, gone: int = MAX_GONE) -> Sources:
    """The processes not known to be gone, with their state at ``now``, and the ``gone`` ones that ended last."""
    alive, silent, all_gone, seen = session.execute(select(*counted(now, AsyncTaskSource.ended_at.is_not(None)))).one()
    running, running_since = _attempts(
        reader, session, AsyncTaskStatus.STARTED, AsyncTaskAttempt.ended_at.is_(None), MAX_RUNNING
    )
    lost, lost_since = _attempts(reader, session, AsyncTaskStatus.LOST, AsyncTaskAttempt.outcome == "lost", MAX_LOST)
    for attempts in running.values():
        attempts.sort(key=lambda attempt: (attempt.started_at is None, attempt.started_at, attempt.celery_task_id))
    processes = [
        Source(
            **row._mapping, state=_state(row, now), running=running.get(row.source, ()), lost=lost.get(row.source, ())
        )
        for row in _rows(session, gone)
    ]
    processes.sort(key=lambda process: list(State).index(process.state))  # stable: the order within a state stays
    counts = {State.ALIVE: alive, State.SILENT: silent, State.GONE: all_gone}
    return Sources(processes, counts, seen, running_since, lost_since)


def counted(now: dt.datetime, gone: ColumnElement[bool]) -> tuple[ColumnElement[Any], ...]:
    """Columns with the number of processes that are alive, that are silent, and that meet the condition ``gone``, and
    the time when a recorder last saw one."""
    lives, seen = AsyncTaskSource.ended_at.is_(None), AsyncTaskSource.last_seen_at >= now - SILENT
    return (
        func.count(case((lives & seen, 1))).label("alive"),
        func.count(case((lives & ~seen, 1))).label("silent"),
        func.count(case((gone, 1))).label("gone"),
        func.max(AsyncTaskSource.last_seen_at).label("seen"),
    )


def _rows(session: Session, gone: int) -> Iterator[Any]:
    source = AsyncTaskSource
    columns = select(*(getattr(source, name) for name in Source._fields[:-3]))
    living = columns.where(source.ended_at.is_(None)).order_by(source.last_seen_at.desc(), source.source.desc())
    yield from session.execute(living.limit(MAX_LIVING))
    ended = columns.where(source.ended_at.is_not(None)).order_by(source.ended_at.desc(), source.source.desc())
    yield from session.execute(ended.limit(gone))


def _state(row: Any, now: dt.datetime) -> State:
    if row.ended_at is not None:
        return State.GONE
    return State.ALIVE if row.last_seen_at >= now - SILENT else State.SILENT


def _attempts(
    reader: Reader, session: Session, status: AsyncTaskStatus, which: ColumnElement[bool], limit: int
) -> tuple[dict[str, list[ProcessAttempt]], dt.datetime | None]:
    """The attempts of the newest tasks of a status, by process, and the time of the oldest of these tasks if there are
    others behind it."""
    columns = (AsyncTask.id, AsyncTask.celery_task_id, AsyncTask.customer_key, AsyncTask.name, AsyncTask.created_at)
    newest = reader.seen(select(*columns))
    newest = newest.where(AsyncTask.status == status).order_by(*NEWEST.terms)
    task = newest.limit(limit + 1).subquery()
    attempt = AsyncTaskAttempt
    statement = (
        select(task, attempt.source, attempt.started_at)
        .outerjoin_from(task, attempt, and_(of_task(task.c), attempt.source.is_not(None), which))
        .order_by(task.c.created_at.desc(), task.c.id.desc(), attempt.run_key.desc())
    )
    by_process: dict[str, list[ProcessAttempt]] = {}
    visited: set[int] = set()
    since = None
    for row in session.execute(statement):
        if row.id in visited:
            continue  # an earlier attempt whose end nobody saw: only the latest one runs, or was lost
        if len(visited) == limit:
            return by_process, since
        visited.add(row.id)
        since = row.created_at
        if row.source is not None:
            by_process.setdefault(row.source, []).append(
                ProcessAttempt(row.celery_task_id, row.customer_key, row.name, row.started_at)
            )
    return by_process, None
