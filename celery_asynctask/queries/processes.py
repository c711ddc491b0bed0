"""The processes that write: who lives, what they run now, and what was lost with them.

What runs and what was lost is asked of the tasks that are STARTED and LOST, to which an index leads, and from them of
their attempts: a bounded number, however many attempts a process has made.
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
from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.search.order import NEWEST
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt, AsyncTaskSource

MAX_LIVING: Final = 1000
"""Processes not known to be gone that are read."""
MAX_GONE: Final = 100
MAX_RUNNING: Final = 2000
"""Tasks that run of which the process is looked for."""
MAX_LOST: Final = 500
"""Lost tasks of which the process is looked for."""


class State(str, enum.Enum):
    """How a process is, as far as recorders know."""

    ALIVE = "alive"
    """A recorder has seen it lately."""
    SILENT = "silent"
    """Nobody has seen it lately, and nobody has found it gone: its node is cut off, or has no recorder."""
    GONE = "gone"

    def __str__(self) -> str:
        return self.value


class Run(NamedTuple):
    """A task, and when the run of it that matters began."""

    celery_task_id: str
    name: str
    started_at: dt.datetime | None


class Source(NamedTuple):
    """One process; the fields are those of `models.AsyncTaskSource`, but for the last three."""

    source: str
    host: str
    pid: int
    role: str
    started_at: dt.datetime
    last_seen_at: dt.datetime
    ended_at: dt.datetime | None
    state: State
    running: Sequence[Run]
    """What it runs now, the longest first."""
    lost: Sequence[Run]
    """What it ran when it went away, and nobody has run since; the newest first."""


class Sources(NamedTuple):
    """What was found."""

    sources: Sequence[Source]
    """Those that live, then those that are silent, then those that are gone; the ones seen last first."""
    counts: Mapping[State, int]
    """Of all there are."""
    seen: dt.datetime | None
    """When a recorder last noted anything, by its clock; None: never."""
    runs_since: dt.datetime | None
    """It was bounded: it looked at running tasks asked for down to that time, and at none before. None: at all."""
    lost_since: dt.datetime | None
    """As ``runs_since``, of lost tasks."""


def sources(reader: Reader, session: Session, now: dt.datetime, *, gone: int = MAX_GONE) -> Sources:
    """The processes that live at ``now`` and the ``gone`` ones that went last."""
    alive, silent, all_gone, seen = session.execute(select(*counted(now, AsyncTaskSource.ended_at.is_not(None)))).one()
    running, runs_since = _runs(
        reader, session, AsyncTaskStatus.STARTED, AsyncTaskAttempt.ended_at.is_(None), MAX_RUNNING
    )
    lost, lost_since = _runs(reader, session, AsyncTaskStatus.LOST, AsyncTaskAttempt.outcome == "lost", MAX_LOST)
    for runs in running.values():
        runs.sort(key=lambda run: (run.started_at is None, run.started_at, run.celery_task_id))
    found = [
        Source(
            **row._mapping, state=_state(row, now), running=running.get(row.source, ()), lost=lost.get(row.source, ())
        )
        for row in _rows(session, gone)
    ]
    found.sort(key=lambda one: list(State).index(one.state))  # it keeps their order otherwise
    counts = {State.ALIVE: alive, State.SILENT: silent, State.GONE: all_gone}
    return Sources(found, counts, seen, runs_since, lost_since)


def counted(now: dt.datetime, gone: ColumnElement[bool]) -> tuple[ColumnElement[Any], ...]:
    """Columns: how many processes are alive, silent, and like ``gone``; when a recorder last noted anything."""
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


def _runs(
    reader: Reader, session: Session, status: AsyncTaskStatus, which: ColumnElement[bool], limit: int
) -> tuple[dict[str, list[Run]], dt.datetime | None]:
    """The runs of the newest tasks of a status, by process, and how far back that was if there are others."""
    newest = reader.seen(select(AsyncTask.id, AsyncTask.celery_task_id, AsyncTask.name, AsyncTask.created_at))
    newest = newest.where(AsyncTask.status == status).order_by(*NEWEST.terms)
    task = newest.limit(limit + 1).subquery()
    attempt = AsyncTaskAttempt
    of_it = and_(attempt.celery_task_id == task.c.celery_task_id, attempt.source.is_not(None), which)
    asked = (
        select(task, attempt.source, attempt.started_at)
        .outerjoin_from(task, attempt, of_it)
        .order_by(task.c.created_at.desc(), task.c.id.desc(), attempt.run_key.desc())
    )
    found: dict[str, list[Run]] = {}
    looked_at: set[int] = set()
    since = None
    for row in session.execute(asked):
        if row.id in looked_at:
            continue  # an earlier run, of which nobody has said how it ended: the newest one is what runs, or was lost
        if len(looked_at) == limit:
            return found, since
        looked_at.add(row.id)
        since = row.created_at
        if row.source is not None:
            found.setdefault(row.source, []).append(Run(row.celery_task_id, row.name, row.started_at))
    return found, None
