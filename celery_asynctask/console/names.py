"""The pages of task types: statistics of all names, and of one."""

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
"""Tasks that are read: a page must be faster than a report."""
MAX_SHOWN: Final = 500
"""Names that are shown."""
SHORTCUTS: Final = (("Last hour", "since:1h"), ("Last day", "since:1d"), ("Last week", "since:7d"))


class Column(NamedTuple):
    """A column and its sort key; the largest value comes first, None last."""

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
    """Statistics by name of the tasks that match a search, of the last 24 hours if it names no time."""
    page.query("search", "order")
    order = page.choice("order", ORDERS, "tasks")
    end = page.this_minute
    search = page.search(end)  # times count from the end of the minute: the page is the same within it
    shared = {"search": search, "order": order, "columns": COLUMNS, "shortcuts": SHORTCUTS}
    if search.refusal:
        return page.error("names.html", 422, statistics=None, **shared)
    within = with_time(search.filter, end)
    is_of_day = within != search.filter

    def make(session: Session) -> Mapping[str, object]:
        total = statistics(page.reader, session, within, end, limit=MAX_SCANNED)
        shown = ordered(total, order)
        return {
            **shared,
            "narrow": f"{search.text} since:1d".strip() if is_of_day else search.text,
            "is_of_day": is_of_day,
            "statistics": total,
            "shown": shown[:MAX_SHOWN],
            "max_scanned": MAX_SCANNED,
        }

    return await page.answer("names.html", make, end)


def ordered(total: Statistics, order: str) -> Sequence[Name]:
    """The names in one of `ORDERS`; equal ones by name."""
    by_name = sorted(total.names, key=lambda row: row.name)
    if order == "name":
        return by_name
    value = COLUMNS[order].by
    return sorted(by_name, key=lambda row: (value(row) is None, -(value(row) or 0)))


async def name(page: Page) -> Response:
    """The tasks of one name, which is in the query: browsers would change some names in a path."""
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
