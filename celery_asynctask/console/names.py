"""The pages of names: how the tasks of each do, and more of those of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from starlette.responses import Response

from celery_asynctask.console.overview import this_minute
from celery_asynctask.console.page import Page, get
from celery_asynctask.console.spark import sparks, sparks_note
from celery_asynctask.core.rights import Right
from celery_asynctask.core.status import FAILED
from celery_asynctask.errors import FilterError
from celery_asynctask.queries.search.filter import Filter, parse_value, term
from celery_asynctask.queries.statistics.by_name import MOST_LOOKED_AT as MOST_OF_A_NAME
from celery_asynctask.queries.statistics.by_name import by_name, named
from celery_asynctask.queries.statistics.measures import Percentiles
from celery_asynctask.queries.statistics.names import Name, Statistics, statistics, with_time
from celery_asynctask.queries.statistics.series import FEWER, series
from celery_asynctask.queries.types import Session
from celery_asynctask.web.parameters import in_values, searched
from celery_asynctask.web.problem import ProblemError, invalid, not_found

MOST_LOOKED_AT: Final = 20_000
"""Tasks of all names: a page is not to take as long as a report does."""
MOST_SHOWN: Final = 500
"""Names of a page."""
SHORTCUTS: Final = (("Last hour", "since:1h"), ("Last day", "since:1d"), ("Last week", "since:7d"))


class Column(NamedTuple):
    """One of the table, and what it is sorted by; the largest comes first, and what is None last."""

    title: str
    by: Callable[[Name], float | None]
    group: str = ""


def _percentile(what: str, at: str) -> Callable[[Name], float | None]:
    def by(name: Name) -> float | None:
        found: Percentiles = getattr(name, what)
        value: float | None = getattr(found, at)
        return value

    return by


COLUMNS: Final[Mapping[str, Column]] = {
    "tasks": Column("Tasks", lambda one: one.tasks),
    "failed": Column("Failed", lambda one: one.failed),
    "rate": Column("Failure rate", lambda one: one.failure_rate),
    "retries": Column("Retries", lambda one: one.retries),
    **{f"wait-{at}": Column(at, _percentile("wait", at), "Wait") for at in Percentiles._fields},
    **{f"run-{at}": Column(at, _percentile("run", at), "Run") for at in Percentiles._fields},
}
ORDERS: Final = ("name", *COLUMNS)


async def names(page: Page) -> Response:
    """How the tasks of each name do, of those that a search finds: of the last day where it names no time."""
    asked = page.asked("search", "order")
    order = asked["order"] or "tasks"
    if order not in ORDERS:
        raise invalid("order", f"There is no order {order[:40]!r}; there are {', '.join(ORDERS)}.")
    end = this_minute(page)
    try:
        terms, _ = searched(asked["search"], end)  # from a whole minute, so that it is the same within one
    except ProblemError as exc:
        return page.error(
            "names.html", 422, search=asked["search"], order=order, found=None, refusal=exc.detail, **_choices()
        )
    if in_values(terms):
        page.caller.need(Right.PAYLOADS, "search")
    search = with_time(Filter(tuple(terms)), end)
    narrow = asked["search"] if len(search.terms) == len(terms) else f"{asked['search']} since:1d".strip()

    def make(session: Session) -> Mapping[str, object]:
        found = statistics(page.caller.reader, search, end, most=MOST_LOOKED_AT, session=session)
        shown = ordered(found, order)
        return {
            "search": asked["search"],
            "narrow": narrow,
            "is_of_day": narrow != asked["search"],
            "order": order,
            "found": found,
            "shown": shown[:MOST_SHOWN],
            "most_looked_at": MOST_LOOKED_AT,
            **_choices(),
        }

    return await page.answer("names.html", make, end)


def ordered(found: Statistics, order: str) -> Sequence[Name]:
    """The names in one of `ORDERS`; those that are alike by name."""
    alike = sorted(found.names, key=lambda one: one.name)
    if order == "name":
        return alike
    by = COLUMNS[order].by
    return sorted(alike, key=lambda one: (by(one) is None, -(by(one) or 0)))


def _choices() -> dict[str, object]:
    return {"columns": COLUMNS, "shortcuts": SHORTCUTS, "term": term, "failed": [one.value for one in FAILED]}


async def name(page: Page) -> Response:
    """The tasks of one name. It stands in the query, for in a path browsers would make another of some names."""
    of = page.asked("name")["name"]
    try:
        parse_value("name", term("", of)[1:], page.now)
    except FilterError as exc:
        raise invalid("name", str(exc)) from None
    end = this_minute(page)
    search = by_name(of)

    def make(session: Session) -> Mapping[str, object]:
        reader = page.caller.reader
        parts = series(reader, session, search, end, most=FEWER)
        latest = named(reader, session, of)
        if not latest.newest:
            raise not_found(f"There is no task of the name {of[:80]!r}.")
        day = statistics(reader, with_time(search, end), end, most=MOST_OF_A_NAME, session=session)
        return {
            "of": of,
            "latest": latest,
            "day": day,
            "told": next(iter(day.names), None),
            "most_looked_at": MOST_OF_A_NAME,
            "sparks": sparks(parts),
            "sparks_note": sparks_note(parts),
            "term": term,
            "failed": [one.value for one in FAILED],
        }

    return await page.answer("name.html", make, end)


ROUTES: Final = (("/names", get(names)), ("/name", get(name)))
