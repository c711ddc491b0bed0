"""What happens now, in a few short statements: what runs, what failed, what is lost, and how recording itself does.

Each asks an index for a bounded number of rows, so that looking every other second costs a database nothing to speak
of, however many tasks there are.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, case, func, select, union_all
from sqlalchemy.orm import Session, defer

from celery_asynctask.core.accounting import SILENT, left_over
from celery_asynctask.core.status import FAILED, AsyncTaskStatus
from celery_asynctask.queries.reader import Reader
from celery_asynctask.store.models import AsyncTask, AsyncTaskSource

HOUR: Final = dt.timedelta(hours=1)
MOST_COUNTED: Final = 20_000
"""Tasks of the last hour that are counted by status."""
MOST_RUNNING: Final = 2_000
"""Running tasks that are counted by name."""
GONE: Final = dt.timedelta(hours=1)
"""For how long a source that is gone is counted."""


class Recording(NamedTuple):
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
    """An hour ago; later where there were more than `MOST_COUNTED`."""
    recording: Recording

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole hour that was counted."""
        return self.since <= self.at - HOUR


def overview(reader: Reader, session: Session, now: dt.datetime, *, rows: int = 10) -> Overview:
    """What happens at ``now``, with at most so many ``rows`` of each list."""
    counts, since = _counts(reader, session, now - HOUR)
    return Overview(
        at=now,
        running=_running(reader, session),
        slowest=_tasks(reader, session, [AsyncTaskStatus.STARTED], rows, newest=False),
        failures=_tasks(reader, session, [one for one in FAILED if one is not AsyncTaskStatus.LOST], rows),
        lost=_tasks(reader, session, [AsyncTaskStatus.LOST], rows),
        counts=counts,
        since=since,
        recording=_recording(session, now),
    )


def _tasks(
    reader: Reader,
    session: Session,
    statuses: Sequence[AsyncTaskStatus],
    rows: int,
    *,
    newest: bool = True,
) -> Sequence[AsyncTask]:
    """The newest tasks of these statuses, or those that started first of the oldest `MOST_RUNNING`. Each status is
    asked for alone: an index has its tasks in order."""
    asked_for = (AsyncTask.created_at.desc(), AsyncTask.id.desc()) if newest else (AsyncTask.created_at, AsyncTask.id)
    each = [
        reader.seen(select(AsyncTask.id))
        .where(AsyncTask.status == status)
        .order_by(*asked_for)
        .limit(rows if newest else MOST_RUNNING)
        .subquery()
        for status in statuses
    ]
    ids = union_all(*(select(one.c.id) for one in each)).subquery()
    values = (AsyncTask.task_args, AsyncTask.task_kwargs, AsyncTask.result, AsyncTask.content)
    found = reader.tasks().join(ids, AsyncTask.id == ids.c.id).options(*(defer(value) for value in values))
    in_order = asked_for if newest else (AsyncTask.started_at, AsyncTask.id)
    return session.scalars(found.order_by(*in_order).limit(rows)).all()


def _running(reader: Reader, session: Session) -> dict[str, int]:
    names = reader.seen(select(AsyncTask.name)).where(AsyncTask.status == AsyncTaskStatus.STARTED)
    one = names.limit(MOST_RUNNING).subquery()
    counted = select(one.c.name, func.count().label("tasks")).group_by(one.c.name)
    rows = session.execute(counted.order_by(func.count().desc(), one.c.name))
    return {row.name: row.tasks for row in rows}


def _counts(reader: Reader, session: Session, since: dt.datetime) -> tuple[dict[AsyncTaskStatus, int], dt.datetime]:
    newest = reader.tasks().with_only_columns(AsyncTask.status, AsyncTask.created_at)
    newest = newest.where(AsyncTask.created_at >= since)
    one = newest.order_by(AsyncTask.created_at.desc()).limit(MOST_COUNTED).subquery()
    counted = select(one.c.status, func.count().label("tasks"), func.min(one.c.created_at).label("first"))
    rows = session.execute(counted.group_by(one.c.status)).all()
    found = {row.status: row.tasks for row in rows}
    if sum(found.values()) == MOST_COUNTED:
        since = min(row.first for row in rows)
    return {status: found[status] for status in AsyncTaskStatus if status in found}, since


def _recording(session: Session, now: dt.datetime) -> Recording:
    source = AsyncTaskSource
    lives = source.ended_at.is_(None)
    seen = source.last_seen_at >= now - SILENT
    of: Any = AsyncTaskSource.__table__.c
    left: ColumnElement[int] = left_over(of.last_number, of.stored, of.quarantined)
    row = session.execute(
        select(
            _count(lives & seen).label("alive"),
            _count(lives & ~seen).label("silent"),
            _count(source.ended_at >= now - GONE).label("gone"),
            func.max(source.last_seen_at).label("seen"),
            func.coalesce(func.sum(source.stored), 0).label("stored"),
            func.coalesce(func.sum(source.quarantined), 0).label("quarantined"),
            func.coalesce(func.sum(case((left > 0, left), else_=0)), 0).label("missing"),
        )
    ).one()
    dropped: dict[str, int] = {}
    for counts in session.scalars(select(source.dropped).where(source.dropped.is_not(None))):
        for reason, count in counts.items():
            dropped[reason] = dropped.get(reason, 0) + int(count)
    return Recording(
        alive=int(row.alive),
        silent=int(row.silent),
        gone=int(row.gone),
        seen=row.seen,
        stored=int(row.stored),
        quarantined=int(row.quarantined),
        missing=int(row.missing),
        dropped=dropped,
    )


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)
