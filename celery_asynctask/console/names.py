"""The pages of names: how the tasks of each do, and more of those of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

from starlette.responses import Response

from celery_asynctask.console.page import Page, route
from celery_asynctask.console.spark import sparks, sparks_note
from celery_asynctask.errors import FilterError
from celery_asynctask.queries.search.filter import parse_value, quoted
from celery_asynctask.queries.statistics.measures import Percentiles
from celery_asynctask.queries.statistics.names import (
    MAX_PER_NAME,
    Name,
    Statistics,
    by_name,
    name_detail,
    statistics,
    with_time,
)
from celery_asynctask.queries.statistics.series import FEWER, series
from celery_asynctask.queries.types import Session
from celery_asynctask.web.problem import invalid, not_found

MAX_SCANNED: Final = 20_000
"""Tasks of all names: a page is not to take as long as a report does."""
MAX_SHOWN: Final = 500
"""Names of a page."""
SHORTCUTS: Final = (("Last hour", "since:1h"), ("Last day", "since:1d"), ("Last week", "since:7d"))


class Column(NamedTuple):
    """One of the table, and what it is sorted by; the largest comes first, and what is None last."""

    title: str
    by: Callable[[Name], float | None]
    group: str = ""


COLUMNS: Final[Mapping[str, Column]] = {
    "tasks": Column("Tasks", attrgetter("tasks")),
    "failed": Column("Failed", attrgetter("failed")),
    "rate": Column("Failure rate", attrgetter("failure_rate")),
    "retries": Column("Retries", attrgetter("retries")),
    **{
        f"{what}-{at}": Column(at, attrgetter(f"{what}.{at}"), what.capitalize())
        for what in ("wait", "run")
        for at in Percentiles._fields
    },
}
ORDERS: Final = ("name", *COLUMNS)


async def names(page: Page) -> Response:
    """How the tasks of each name do, of those that a search finds: of the last day where it names no time."""
    page.query("search", "order")
    order = page.choice("order", ORDERS, "tasks")
    end = page.this_minute
    search = page.search(end)  # from a whole minute, so that it is the same within one
    shared = {"search": search, "order": order, "columns": COLUMNS, "shortcuts": SHORTCUTS}
    if search.refusal:
        return page.error("names.html", 422, found=None, **shared)
    within = with_time(search.filter, end)
    is_of_day = within != search.filter

    def make(session: Session) -> Mapping[str, object]:
        found = statistics(page.reader, session, within, end, limit=MAX_SCANNED)
        shown = ordered(found, order)
        return {
            **shared,
            "narrow": f"{search.text} since:1d".strip() if is_of_day else search.text,
            "is_of_day": is_of_day,
            "found": found,
            "shown": shown[:MAX_SHOWN],
            "max_scanned": MAX_SCANNED,
        }

    return await page.answer("names.html", make, end)


def ordered(found: Statistics, order: str) -> Sequence[Name]:
    """The names in one of `ORDERS`; those that are alike by name."""
    alike = sorted(found.names, key=lambda one: one.name)
    if order == "name":
        return alike
    by = COLUMNS[order].by
    return sorted(alike, key=lambda one: (by(one) is None, -(by(one) or 0)))


async def name(page: Page) -> Response:
    """The tasks of one name. It stands in the query, for in a path browsers would make another of some names."""
    of = page.query("name")["name"]
    try:
        parse_value("name", quoted(of), page.now)
    except FilterError as exc:
        raise invalid("name", str(exc)) from None
    end = page.this_minute
    search = by_name(of)

    def make(session: Session) -> Mapping[str, object]:
        reader = page.reader
        parts = series(reader, session, search, end, limit=FEWER)
        latest = name_detail(reader, session, of)
        if not latest.newest:
            raise not_found(f"No task with the name {of[:80]!r} is recorded.")
        day = statistics(reader, session, with_time(search, end), end, limit=MAX_PER_NAME)
        return {
            "of": of,
            "latest": latest,
            "day": day,
            "statistics": next(iter(day.names), None),
            "max_scanned": MAX_PER_NAME,
            "sparks": sparks(parts),
            "sparks_note": sparks_note(parts),
        }

    return await page.answer("name.html", make, end)


ROUTES: Final = (route("/names", names), route("/name", name))
