"""The present state, from a few short queries: running, failed and lost tasks, and the health of the recording itself.

Each query reads a bounded number of rows by an index, so that a refresh every two seconds costs the database next to
nothing, however many tasks there are.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, and_, case, func, select, union_all
from sqlalchemy.orm import Session

from celery_asynctask.core.accounting import GIVEN_UP, dropped_of, left_over
from celery_asynctask.core.status import FAILED, AsyncTaskStatus
from celery_asynctask.queries.completeness import unheard_since
from celery_asynctask.queries.processes import counted
from celery_asynctask.queries.reader import WITHOUT_VALUES, Reader
from celery_asynctask.queries.search.filter import Filter, Term, Value
from celery_asynctask.queries.search.order import NEWEST, OLDEST
from celery_asynctask.queries.statistics.counts import counts
from celery_asynctask.queries.statistics.measures import total
from celery_asynctask.store.models import AsyncTask, AsyncTaskSource

HOUR: Final = dt.timedelta(hours=1)
"""The time that the counts by status look back."""
MAX_COUNTED: Final = 20_000
"""Tasks of the last hour that are counted by status."""
MAX_RUNNING: Final = 2_000
"""Running tasks that are counted by name."""
GONE: Final = dt.timedelta(hours=1)
"""How long a process that is gone still counts."""


class RecordingHealth(NamedTuple):
    """The health of the recording: the ledger of all processes together, and their states."""

    alive: int
    """Number of living processes."""
    silent: int
    """Number of processes that no recorder has seen lately and none has found gone: their node is cut off, or has no
    recorder."""
    gone: int
    """Number of processes that were found gone within the last hour."""
    seen: dt.datetime | None
    """When a recorder last saw a process or stored events, by its clock; None: never."""
    stored: int
    """Number of events in the tables."""
    quarantined: int
    """Number of events set aside because they cannot be stored."""
    missing: int
    """Number of events that were numbered, but are neither stored nor quarantined: a segment was lost."""
    dropped: Mapping[str, int]
    """Number of events that never reached a journal, by reason."""
    given_up: int = 0
    """Number of events that were in quarantine until a person dropped them."""
    unheard: int = 0
    """Number of processes of which the database does not say what they did last, and that nobody has given up."""


class Overview(NamedTuple):
    """The present state. The values of the tasks are left unread."""

    at: dt.datetime
    """The time that it was taken."""
    running: Mapping[str, int]
    """Number of running tasks by name, the most frequent first."""
    slowest: Sequence[AsyncTask]
    """The running tasks that started first."""
    failures: Sequence[AsyncTask]
    """Failed and rejected tasks, those created last first."""
    lost: Sequence[AsyncTask]
    """Lost tasks, whose process is gone, those created last first."""
    counts: Mapping[AsyncTaskStatus, int]
    """Number of tasks created at ``since`` or later, by status, without zeros."""
    since: dt.datetime
    """An hour ago; later if more than `MAX_COUNTED` tasks were created in that hour."""
    recording: RecordingHealth

    @property
    def is_whole(self) -> bool:
        """Whether the counts cover the whole hour."""
        return self.since <= self.at - HOUR


def overview(reader: Reader, session: Session, now: dt.datetime, *, rows: int = 10) -> Overview:
    """The state at ``now``, with at most ``rows`` tasks in each list."""
    last_hour = Filter((Term("since", (), (Value(">=", now - HOUR),), False),))
    lately = counts(reader, session, last_hour, limit=MAX_COUNTED)
    return Overview(
        at=now,
        running=_running(reader, session),
        slowest=_tasks(reader, session, [AsyncTaskStatus.STARTED], rows, newest=False),
        failures=_tasks(reader, session, [status for status in FAILED if status is not AsyncTaskStatus.LOST], rows),
        lost=_tasks(reader, session, [AsyncTaskStatus.LOST], rows),
        counts={status: count for status, count in lately.by_status.items() if count},
        since=lately.looked_back_to or now - HOUR,
        recording=_recording(session, now),
    )


def _tasks(
    reader: Reader, session: Session, statuses: Sequence[AsyncTaskStatus], rows: int, *, newest: bool = True
) -> Sequence[AsyncTask]:
    """The newest tasks of these statuses, or those of the oldest `MAX_RUNNING` that started first. Each status has a
    query of its own, because an index has its tasks in order."""
    order, limit = (NEWEST, rows) if newest else (OLDEST, MAX_RUNNING)
    selects = []
    for status in statuses:
        of_status = reader.seen(select(AsyncTask.id)).where(AsyncTask.status == status)
        selects.append(select(of_status.order_by(*order.terms).limit(limit).subquery()))
    ids = union_all(*selects).subquery()
    tasks = reader.tasks().join(ids, AsyncTask.id == ids.c.id).options(*WITHOUT_VALUES)
    in_order = NEWEST.terms if newest else (AsyncTask.started_at, AsyncTask.id)
    return session.scalars(tasks.order_by(*in_order).limit(rows)).all()


def _running(reader: Reader, session: Session) -> dict[str, int]:
    names = reader.seen(select(AsyncTask.name)).where(AsyncTask.status == AsyncTaskStatus.STARTED)
    task = names.limit(MAX_RUNNING).subquery()
    by_name = select(task.c.name, func.count().label("tasks")).group_by(task.c.name)
    rows = session.execute(by_name.order_by(func.count().desc(), task.c.name))
    return {row.name: row.tasks for row in rows}


def _recording(session: Session, now: dt.datetime) -> RecordingHealth:
    table: Any = AsyncTaskSource.__table__.c
    left: ColumnElement[int] = left_over(table.last_number, table.stored, table.quarantined)
    statement = select(
        *counted(now, table.ended_at >= now - GONE),
        total(table.stored).label("stored"),
        total(table.quarantined).label("quarantined"),
        total(case((and_(left > 0, table.dropped.is_(None)), left))).label("missing"),
    )
    row = session.execute(statement).one()._asdict()
    dropped: Counter[str] = Counter()
    given_up = 0
    for by_reason, of_process in session.execute(select(table.dropped, left).where(table.dropped.is_not(None))):
        dropped.update(dropped_of(by_reason))
        given_up += by_reason.get(GIVEN_UP, 0)
        row["missing"] += max(0, of_process - by_reason.get(GIVEN_UP, 0))
    unheard = sum(1 for _ in unheard_since(session, now))
    return RecordingHealth(**row, given_up=given_up, unheard=unheard, dropped=dropped)
