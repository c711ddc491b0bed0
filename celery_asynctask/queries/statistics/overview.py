"""What happens now, in a few short statements: what runs, what failed, what is lost, and how recording itself does.

Each asks an index for a bounded number of rows, so that looking every other second costs a database nothing to speak
of, however many tasks there are.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, case, func, select, union_all
from sqlalchemy.orm import Session

from celery_asynctask.core.accounting import left_over
from celery_asynctask.core.status import FAILED, AsyncTaskStatus
from celery_asynctask.queries.processes import counted
from celery_asynctask.queries.reader import WITHOUT_VALUES, Reader
from celery_asynctask.queries.search.filter import Filter, Term, Value
from celery_asynctask.queries.search.order import NEWEST, OLDEST
from celery_asynctask.queries.statistics.counts import counts
from celery_asynctask.queries.statistics.measures import total
from celery_asynctask.store.models import AsyncTask, AsyncTaskSource

HOUR: Final = dt.timedelta(hours=1)
MAX_COUNTED: Final = 20_000
"""Tasks of the last hour that are counted by status."""
MAX_RUNNING: Final = 2_000
"""Running tasks that are counted by name."""
GONE: Final = dt.timedelta(hours=1)
"""For how long a source that is gone is counted."""


class RecordingHealth(NamedTuple):
    """How recording does: the ledger of all sources together, and who lives."""

    alive: int
    silent: int
    """Sources that nobody has seen lately, and nobody has found gone: their node is cut off, or has no recorder."""
    gone: int
    """Sources found gone within the last hour."""
    seen: dt.datetime | None
    """When a recorder last noted anything, by its clock; None: never."""
    stored: int
    quarantined: int
    missing: int
    """Events that were numbered, and are neither stored nor quarantined: a segment was lost."""
    dropped: Mapping[str, int]
    """By reason."""


class Overview(NamedTuple):
    """What was found. The tasks' values are not read."""

    at: dt.datetime
    running: Mapping[str, int]
    """How many tasks of which name run, the most frequent first."""
    slowest: Sequence[AsyncTask]
    """Of those that run, the ones that do for the longest time."""
    failures: Sequence[AsyncTask]
    """Those that failed or were rejected, of the ones that were asked for last."""
    lost: Sequence[AsyncTask]
    """Those whose process is gone, of the ones that were asked for last."""
    counts: Mapping[AsyncTaskStatus, int]
    """Of the tasks that were asked for since ``since``."""
    since: dt.datetime
    """An hour ago; later where there were more than `MAX_COUNTED`."""
    recording: RecordingHealth

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole hour that was counted."""
        return self.since <= self.at - HOUR


def overview(reader: Reader, session: Session, now: dt.datetime, *, rows: int = 10) -> Overview:
    """What happens at ``now``, with at most so many ``rows`` of each list."""
    last_hour = Filter((Term("since", (), (Value(">=", now - HOUR),), False),))
    lately = counts(reader, session, last_hour, limit=MAX_COUNTED)
    return Overview(
        at=now,
        running=_running(reader, session),
        slowest=_tasks(reader, session, [AsyncTaskStatus.STARTED], rows, newest=False),
        failures=_tasks(reader, session, [one for one in FAILED if one is not AsyncTaskStatus.LOST], rows),
        lost=_tasks(reader, session, [AsyncTaskStatus.LOST], rows),
        counts={status: count for status, count in lately.by_status.items() if count},
        since=lately.looked_back_to or now - HOUR,
        recording=_recording(session, now),
    )


def _tasks(
    reader: Reader, session: Session, statuses: Sequence[AsyncTaskStatus], rows: int, *, newest: bool = True
) -> Sequence[AsyncTask]:
    """The newest tasks of these statuses, or those that started first of the oldest `MAX_RUNNING`. Each status is
    asked for alone: an index has its tasks in order."""
    order, limit = (NEWEST, rows) if newest else (OLDEST, MAX_RUNNING)
    each = []
    for status in statuses:
        of_status = reader.seen(select(AsyncTask.id)).where(AsyncTask.status == status)
        each.append(select(of_status.order_by(*order.terms).limit(limit).subquery()))
    ids = union_all(*each).subquery()
    found = reader.tasks().join(ids, AsyncTask.id == ids.c.id).options(*WITHOUT_VALUES)
    in_order = NEWEST.terms if newest else (AsyncTask.started_at, AsyncTask.id)
    return session.scalars(found.order_by(*in_order).limit(rows)).all()


def _running(reader: Reader, session: Session) -> dict[str, int]:
    names = reader.seen(select(AsyncTask.name)).where(AsyncTask.status == AsyncTaskStatus.STARTED)
    one = names.limit(MAX_RUNNING).subquery()
    by_name = select(one.c.name, func.count().label("tasks")).group_by(one.c.name)
    rows = session.execute(by_name.order_by(func.count().desc(), one.c.name))
    return {row.name: row.tasks for row in rows}


def _recording(session: Session, now: dt.datetime) -> RecordingHealth:
    of: Any = AsyncTaskSource.__table__.c
    left: ColumnElement[int] = left_over(of.last_number, of.stored, of.quarantined)
    asked = select(
        *counted(now, of.ended_at >= now - GONE),
        total(of.stored).label("stored"),
        total(of.quarantined).label("quarantined"),
        total(case((left > 0, left))).label("missing"),
    )
    row = session.execute(asked).one()
    dropped: Counter[str] = Counter()
    for by_reason in session.scalars(select(of.dropped).where(of.dropped.is_not(None))):
        dropped.update(by_reason)
    return RecordingHealth(**row._mapping, dropped=dropped)
