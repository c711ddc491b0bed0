"""The page of the audit: who did what, newest first."""

from __future__ import annotations

from typing import Final

from starlette.responses import HTMLResponse, Response

from celery_asynctask.console import markup
from celery_asynctask.console.page import Page, route
from celery_asynctask.core.rights import Right
from celery_asynctask.operations.audit import Action
from celery_asynctask.queries import audit as queries
from celery_asynctask.web.parameters import AUDIT_CURSOR
from celery_asynctask.web.problem import invalid

ACTIONS: Final = [action.value for action in Action]
ROWS: Final = 100
"""Entries of a page."""


async def audit(page: Page) -> Response:
    """The page of the audit."""
    query = page.query("actor", "before", "action")
    action, before = page.choice("action", ACTIONS), query["before"]
    if before and not AUDIT_CURSOR.fullmatch(before):
        raise invalid("before", "before must be the number of an entry. Begin with the first page again.")

    def work() -> Response:
        found = None
        if page.sees_all:
            found = queries.page(
                page.reader,
                actor=query["actor"] or None,
                action=action or None,
                before=int(before) if before else None,
                limit=ROWS,
            )
        text = page.render(
            "audit.html", found=found, actor=query["actor"], action=action, before=before, actions=ACTIONS
        )
        return HTMLResponse(text, headers=markup.SECURITY)

    return await page.run(work)


ROUTES: Final = (route("/audit", audit, Right.AUDIT),)
