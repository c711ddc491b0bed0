"""The first page: whether the record is complete, and what runs, fails, waits and is lost."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from starlette.responses import Response

from celery_asynctask.console.page import Page, route
from celery_asynctask.console.spark import sparks, sparks_note
from celery_asynctask.core.status import FAILED, AsyncTaskStatus
from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.reruns import reruns
from celery_asynctask.queries.search.filter import Filter
from celery_asynctask.queries.statistics.counts import LOST_RECENTLY, MAX_BACKLOG, backlog, is_empty, lost_counts
from celery_asynctask.queries.statistics.overview import MAX_RUNNING
from celery_asynctask.queries.statistics.overview import overview as overview_of
from celery_asynctask.queries.statistics.series import FEWER, MAX_SCANNED, series
from celery_asynctask.queries.types import Session
from celery_asynctask.store.models import AsyncTask

ROWS: Final = 10
"""Rows of each list."""
MAX_RERUNS_SCANNED: Final = 2_000
"""Newest tasks that are searched for reruns of lost ones."""
WAITING: Final = (AsyncTaskStatus.PENDING, AsyncTaskStatus.RECEIVED, AsyncTaskStatus.RETRY)


class Lost(NamedTuple):
    """Tasks lost within `LOST_RECENTLY`."""

    of_day: int
    has_more: bool
    """Whether only the newest `MAX_BACKLOG` lost tasks were counted."""
    rerun: int
    """How many of those listed were rerun since."""
    search: str
    """Finds them, with their status."""

    @property
    def is_open(self) -> bool:
        """Whether a lost task may still need attention: one that was rerun, or lost over a day ago, does not."""
        return self.of_day > self.rerun


def lost(reader: Reader, session: Session, newest: Sequence[AsyncTask], end: dt.datetime) -> Lost:
    """The tasks lost in the day before ``end``; of the ``newest`` ones, whether they were rerun."""
    since = end - LOST_RECENTLY
    counts = lost_counts(reader, session, since)
    of_day = [task for task in newest if task.completed_at is not None and task.completed_at >= since]
    rerun = reruns(reader, session, of_day, limit=MAX_RERUNS_SCANNED).by_task
    return Lost(counts.recent, counts.bounded, len(rerun), "completed:>=1d")


async def overview(page: Page) -> Response:
    """The present state of all tasks."""
    page.query()
    end = page.this_minute
    sees_all = page.sees_all
    ledger = (await page.run(page.health)).ledger if sees_all else None  # events belong to no customer

    def make(session: Session) -> Mapping[str, object]:
        reader = page.reader  # connects, so only here, in a thread
        if is_empty(reader, session):
            return {"overview": None, "ledger": ledger}
        parts = series(reader, session, Filter(), end, limit=MAX_SCANNED if sees_all else FEWER)
        now = overview_of(reader, session, end, rows=ROWS)
        return {
            "overview": now,
            "ledger": ledger,
            "now": backlog(reader, session),
            "lost": lost(reader, session, now.lost, end),
            "max_counted": MAX_BACKLOG,
            "max_running": MAX_RUNNING,
            "names_are_of_some": sum(now.running.values()) >= MAX_RUNNING,
            "waiting": WAITING,
            "failures_of_hour": sum(now.counts.get(status, 0) for status in FAILED),
            "sparks": sparks(parts),
            "sparks_note": sparks_note(parts),
            "statuses": AsyncTaskStatus,
            "failures": sorted([*now.failures, *now.lost], key=lambda task: (task.created_at, task.id), reverse=True)[
                :ROWS
            ],
        }

    return await page.answer("overview.html", make, end, repr(ledger))


ROUTES: Final = (route("/", overview),)
