"""The page that comes first: whether the record is complete, and what runs, fails, waits and is lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.responses import Response

from celery_asynctask.console.page import Page, route
from celery_asynctask.console.spark import sparks, sparks_note
from celery_asynctask.core.accounting import Ledger
from celery_asynctask.core.status import FAILED, AsyncTaskStatus
from celery_asynctask.queries.search.filter import Filter
from celery_asynctask.queries.statistics.counts import MAX_BACKLOG, backlog, is_empty
from celery_asynctask.queries.statistics.overview import MAX_RUNNING
from celery_asynctask.queries.statistics.overview import overview as overview_of
from celery_asynctask.queries.statistics.series import FEWER, MAX_SCANNED, series
from celery_asynctask.queries.types import Session

ROWS: Final = 10
"""Of each list."""
WAITING: Final = (AsyncTaskStatus.PENDING, AsyncTaskStatus.RECEIVED, AsyncTaskStatus.RETRY)


async def overview(page: Page) -> Response:
    """What happens now."""
    page.query()
    end = page.this_minute
    whole = page.access.customers is None  # events are of processes, not of customers
    ledger = (await page.service.run(page.health)).ledger if whole else None
    record = {"ledger": ledger, "equation": [] if ledger is None else _equation(ledger)}

    def make(session: Session) -> Mapping[str, object]:
        reader = page.reader  # which connects: not before we are in a thread
        if is_empty(reader, session):
            return {"found": None, **record}
        parts = series(reader, session, Filter(), end, limit=MAX_SCANNED if whole else FEWER)
        found = overview_of(reader, session, end, rows=ROWS)
        return {
            "found": found,
            **record,
            "now": backlog(reader, session),
            "max_counted": MAX_BACKLOG,
            "max_running": MAX_RUNNING,
            "names_are_of_some": sum(found.running.values()) >= MAX_RUNNING,
            "waiting": WAITING,
            "failures_of_hour": sum(found.counts.get(one, 0) for one in FAILED),
            "sparks": sparks(parts),
            "sparks_note": sparks_note(parts),
            "statuses": AsyncTaskStatus,
            "failures": sorted(
                [*found.failures, *found.lost], key=lambda task: (task.created_at, task.id), reverse=True
            )[:ROWS],
        }

    return await page.answer("overview.html", make, end, repr(ledger))


def _equation(ledger: Ledger) -> list[tuple[int, str]]:
    """Counts and what they are of, which add up to what was accepted; nothing that is 0 but what was stored."""
    counts = {
        "stored": ledger.stored,
        "on their way": ledger.in_journal,
        "in quarantine": ledger.quarantined,
        "damaged": ledger.damaged,
        "dropped": ledger.dropped.total(),
        "missing": ledger.missing,
    }
    return [(count, words) for words, count in counts.items() if count or words == "stored"]


ROUTES: Final = (route("/", overview),)
