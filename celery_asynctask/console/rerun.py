"""Sending a task again from its page: what it would mean, doing it, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.responses import HTMLResponse, RedirectResponse, Response

from celery_asynctask.console import entry, markup, value
from celery_asynctask.console.page import Page
from celery_asynctask.console.task import address, located, routes, values
from celery_asynctask.core.rights import Right
from celery_asynctask.operations.rerun import Options
from celery_asynctask.present.reasons import reasons
from celery_asynctask.queries.reruns import RERUN_OF
from celery_asynctask.queries.task import exact, is_id, of_page
from celery_asynctask.queries.types import PageRow, Session
from celery_asynctask.web import rerun
from celery_asynctask.web.problem import invalid, not_found

REMEDIES: Final = {"again": "also if it was rerun before", "unfinished": "also if it has not ended"}
"""By field of `Options`: what is to be ticked by who wants it all the same."""
_WORDS: Final = {field: f"unless you tick “{title}”" for field, title in REMEDIES.items()}


def _by(page: Page) -> str:
    """Who it is recorded for."""
    return page.access.name or "console"


async def preview(page: Page) -> Response:
    """What would be sent, and what speaks against it."""
    asked = page.query(*REMEDIES)

    def work() -> Response:
        reader = page.reader
        with reader.session() as session:
            row = located(page, session, of_page(reader.dialect, values=page.payloads))
            found = exact(reader, session, "", row.id)
        if found is None:  # it was deleted meanwhile
            raise not_found("This task was deleted.")
        one = rerun.preview(page, found, _options(asked))
        shown = page.render(
            "rerun.html",
            state="asked",
            name=row.name,
            base=address(row),
            task=row,
            one=one,
            by=_by(page),
            asked=asked,
            values=values(page, row, ("args", "kwargs")),
            refusals=reasons(one.refusals, _WORDS),
            remarks=reasons(one.remarks),
            remedies={refusal.remedy for refusal in one.refusals} & REMEDIES.keys(),
            all_remedies=REMEDIES,
        )
        return HTMLResponse(shown, headers=markup.SECURITY)

    return await page.service.run(work)


async def confirmed(page: Page) -> Response:
    """Send it."""
    page.query()
    asked = await entry.fields(page.request)

    def work() -> Response:
        with page.reader.session() as session:
            found = located(page, session)
        _, new = rerun.send_again(page, found, _options(asked), _by(page), _WORDS)
        return RedirectResponse(page.url(f"{address(found)}/rerun/sent", id=new), 303, headers=markup.SECURITY)

    return await page.service.run(work)


async def sent(page: Page) -> Response:
    """It was sent; what came of it is perhaps not stored yet."""
    new = page.query("id")["id"]
    if not is_id(new):
        raise invalid("id", "id must be the id of the task that the rerun created.")

    def make(session: Session) -> Mapping[str, object]:
        columns = of_page(page.reader.dialect, values=True)
        row = located(page, session, columns)
        found: PageRow | None = exact(page.reader, session, new, None, columns)
        if found is not None and value.member(found.content, RERUN_OF) != row.celery_task_id:
            found = None  # an address that somebody made up
        return {
            "state": "sent",
            "name": row.name,
            "base": address(row),
            "new": new,
            "new_status": None if found is None else found.status,
            "just_sent": row.celery_task_id in page.service.sent,
        }

    return await page.answer("rerun.html", make, cacheable=False)


def _options(asked: Mapping[str, str]) -> Options:
    return Options(again=bool(asked.get("again")), unfinished=bool(asked.get("unfinished")))


ROUTES: Final = (
    *routes("/rerun", preview, Right.RERUN),
    *routes("/rerun", confirmed, Right.RERUN, "POST"),
    *routes("/rerun/sent", sent, Right.RERUN),
)
