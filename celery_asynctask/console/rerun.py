"""Reruns from the page of a task: preview, confirmation, and the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

from starlette.responses import HTMLResponse, RedirectResponse, Response

from celery_asynctask.console import entry, markup, value
from celery_asynctask.console.page import Page
from celery_asynctask.console.task import address, located, routes, values
from celery_asynctask.core.rights import Right
from celery_asynctask.operations.rerun import Options
from celery_asynctask.present.reasons import reasons
from celery_asynctask.queries.reader import EVERY
from celery_asynctask.queries.reruns import RERUN_OF
from celery_asynctask.queries.task import exact, is_id, of_page, task_detail
from celery_asynctask.queries.types import OwnedTask, PageRow, Session
from celery_asynctask.web import rerun
from celery_asynctask.web.problem import invalid, not_found

REMEDIES: Final = {"again": "also if it was rerun before", "unfinished": "also if it has not ended"}
"""Titles of the checkboxes that override a refusal, by field of `Options`."""
Row = TypeVar("Row", bound=OwnedTask)
_WORDS: Final = {field: f"unless you tick “{title}”" for field, title in REMEDIES.items()}


def _by(page: Page) -> str:
    """The name that the rerun records."""
    return page.access.name or "console"


async def preview(page: Page) -> Response:
    """What would be sent, with warnings and refusals."""
    overrides = page.query(*REMEDIES, "customer")

    def work() -> Response:
        reader = page.reader
        with reader.session() as session:
            row = _of_customer(page, located(page, session, of_page(reader.dialect, page.parts)))
            task = exact(reader, session, "", row.id)
            around = task_detail(reader, session, row)
            base = address(page, session, row)
        if task is None:  # deleted in between
            raise not_found("This task was deleted.")
        candidate = rerun.preview(page, task, _options(overrides))
        text = page.render(
            "rerun.html",
            state="preview",
            name=row.name,
            base=base,
            form=f"/task/{row.id}/rerun",  # what an id means may have changed when the form is sent
            customer_key=row.customer_key,
            task=row,
            in_workflow=around.members > 1 or around.children_counted > 0,
            candidate=candidate,
            by=_by(page),
            overrides=overrides,
            values=values(page, row, base, ("args", "kwargs")),
            refusals=reasons(candidate.refusals, _WORDS),
            remarks=reasons(candidate.remarks),
            remedies={refusal.remedy for refusal in candidate.refusals} & REMEDIES.keys(),
            all_remedies=REMEDIES,
        )
        return HTMLResponse(text, headers=markup.SECURITY)

    return await page.run(work)


async def confirmed(page: Page) -> Response:
    """Send the rerun."""
    page.query("customer")
    overrides = await entry.fields(page.request)

    def work() -> Response:
        with page.reader.session() as session:
            task = _of_customer(page, located(page, session))
            base = address(page, session, task)
        _, new = rerun.send_again(page, task, _options(overrides), _by(page), _WORDS)
        return RedirectResponse(page.url(f"{base}/rerun/sent", id=new), 303, headers=markup.SECURITY)

    return await page.run(work)


async def sent(page: Page) -> Response:
    """The rerun after it was sent; its row may not be stored yet."""
    new = page.query("id", "customer")["id"]
    if not is_id(new):
        raise invalid("id", "id must be the id of the task that the rerun created.")

    def make(session: Session) -> Mapping[str, object]:
        columns = of_page(page.reader.dialect, EVERY)
        row = located(page, session, columns)
        new_row: PageRow | None = exact(page.whose(row.customer_key), session, new, None, columns)
        if new_row is not None and value.member(new_row.content, RERUN_OF) != row.celery_task_id:
            new_row = None  # a made-up address
        return {
            "state": "sent",
            "name": row.name,
            "base": address(page, session, row),
            "customer_key": row.customer_key,
            "new": new,
            "new_status": None if new_row is None else new_row.status,
            "just_sent": (row.celery_task_id, row.customer_key) in page.service.sent,
        }

    return await page.answer("rerun.html", make, cacheable=False)


def _of_customer(page: Page, row: Row) -> Row:
    """The row, if it is of the customer that the query may name. Raises `ProblemError`: the task of another one must
    not be sent in its place."""
    customer = page.request.query_params.get("customer")
    if customer is not None and row.customer_key != customer:
        raise not_found(f"That customer has no task with the id {row.celery_task_id[:80]!r}.")
    return row


def _options(overrides: Mapping[str, str]) -> Options:
    return Options(again=bool(overrides.get("again")), unfinished=bool(overrides.get("unfinished")))


ROUTES: Final = (
    *routes("/rerun", preview, Right.RERUN),
    *routes("/rerun", confirmed, Right.RERUN, "POST"),
    *routes("/rerun/sent", sent, Right.RERUN),
)
