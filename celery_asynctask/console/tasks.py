"""The page of tasks: what a search finds, how many of which status, and the same as a file."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from starlette.responses import Response

from celery_asynctask.console.page import Endpoint, Page, get
from celery_asynctask.core.columns import VALUES
from celery_asynctask.core.rights import Right
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.errors import FilterError
from celery_asynctask.present import csv
from celery_asynctask.queries.reader import TASK_COLUMNS, task_columns
from celery_asynctask.queries.search.filter import Filter, Term, Value
from celery_asynctask.queries.search.keys import KEYS
from celery_asynctask.queries.search.order import Order
from celery_asynctask.queries.search.page import Page as Found
from celery_asynctask.queries.search.page import page as page_of
from celery_asynctask.queries.statistics.counts import MOST_COUNTED, counts
from celery_asynctask.queries.types import Session, TaskRow
from celery_asynctask.web.answer import task_document
from celery_asynctask.web.parameters import ORDER_BY, in_values, searched
from celery_asynctask.web.problem import ProblemError, invalid

LIMITS: Final = (25, 50, 100, 200)
"""Rows of a page that can be chosen."""
SHORTCUTS: Final = (
    ("Last hour", "since:1h"),
    ("Last day", "since:1d"),
    ("Retried", "retries:>0"),
    ("Ran over 10 s", "run:>10s"),
    ("Waited over 1 m", "wait:>1m"),
)
"""Common terms of a search."""
ORDERS: Final = {
    "-createdAt": "newest first",
    "createdAt": "oldest first",
    "-startedAt": "last started first",
    "startedAt": "first started first",
    "-completedAt": "last ended first",
    "completedAt": "first ended first",
}


class Column(NamedTuple):
    """One of the table."""

    title: str
    cell: str
    """Name of its macro in tasks.html."""
    is_shown: bool = True
    """Unless others are chosen."""


COLUMNS: Final[Mapping[str, Column]] = {
    "status": Column("Status", "status"),
    "name": Column("Name", "name"),
    "customer": Column("Customer", "customer"),
    "creator": Column("Created by", "creator"),
    "created": Column("Created", "created"),
    "started": Column("Started", "started", False),
    "completed": Column("Completed", "completed", False),
    "wait": Column("Wait", "wait"),
    "run": Column("Run", "run"),
    "retries": Column("Retries", "retries"),
    "error": Column("Error", "error"),
    "root": Column("Root", "root", False),
    "parent": Column("Parent", "parent", False),
    "trace": Column("Trace", "trace", False),
    "id": Column("Id", "id", False),
}
SHOWN: Final = [name for name, column in COLUMNS.items() if column.is_shown]


class Asked(NamedTuple):
    """What the page's query says."""

    search: str
    statuses: Sequence[str]
    ordering: str
    cursor: str
    limit: int
    columns: Sequence[str]
    filter: Filter = Filter(())
    everything: Filter = Filter(())
    """Whatever the status."""
    relative: bool = False
    """Whether the search means something else tomorrow."""

    @property
    def order(self) -> Order:
        """The order that it names."""
        return ORDER_BY[self.ordering]


def read(page: Page) -> Asked:
    """All but what its search means. Raises `ProblemError`."""
    given = page.asked("search", "ordering", "cursor", "limit", often=("status", "columns"))
    statuses, named = page.all_of("status"), page.all_of("columns")
    if unknown := set(statuses) - set(AsyncTaskStatus.__members__):
        raise invalid("status", f"There is no status {sorted(unknown)[0][:40]!r}.")
    ordering = given["ordering"] or "-createdAt"
    if ordering not in ORDER_BY:
        raise invalid("ordering", f"There is no order {ordering[:40]!r}; there are {', '.join(ORDER_BY)}.")
    limit = given["limit"] or "50"
    if limit not in map(str, LIMITS):
        raise invalid("limit", f"A page has {', '.join(map(str, LIMITS))} rows.")
    if unknown := set(named) - set(COLUMNS):
        raise invalid("columns", f"There is no column {sorted(unknown)[0][:40]!r}; there are {', '.join(COLUMNS)}.")
    chosen = [one for one in COLUMNS if one in named] or SHOWN
    return Asked(given["search"], statuses, ordering, given["cursor"], int(limit), chosen)


def understood(page: Page) -> Asked:
    """What its search means, too. Raises `ProblemError`."""
    asked = read(page)
    terms, relative = searched(asked.search, page.now)
    if in_values(terms):
        page.caller.need(Right.PAYLOADS, "search")
    everything = Filter(tuple(terms))
    if asked.statuses:
        terms = [*terms, Term("status", (), tuple(Value("=", one) for one in asked.statuses), False)]
    return asked._replace(filter=Filter(tuple(terms)), everything=everything, relative=relative)


async def tasks(page: Page) -> Response:
    """What a search finds."""
    try:
        asked = understood(page)
    except ProblemError as exc:
        if exc.parameter != "search" or exc.status != 422:
            raise
        return _misunderstood(page, exc)

    def make(session: Session) -> Mapping[str, object]:
        found = _found(page, asked, session, values=False)
        return {
            "asked": asked,
            "found": found,
            "counts": counts(page.caller.reader, session, asked.everything),
            **_choices(asked.columns),
        }

    return await page.answer("tasks.html", make, lasting=not asked.relative)


def _found(page: Page, asked: Asked, session: Session, *, values: bool) -> Found:
    try:
        return page_of(
            page.caller.reader,
            asked.filter,
            limit=asked.limit,
            after=asked.cursor or None,
            order=asked.order,
            columns=task_columns(page.caller.reader.dialect, values=values),
            session=session,
        )
    except FilterError as exc:
        raise invalid("cursor", str(exc)) from None


def _choices(columns: Sequence[str]) -> dict[str, object]:
    return {
        "columns": {name: COLUMNS[name] for name in columns},
        "all_columns": COLUMNS,
        "shown": SHOWN,
        "shortcuts": SHORTCUTS,
        "orders": ORDERS,
        "limits": LIMITS,
        "keys": {name: key.meaning for name, key in KEYS.items()},
        "statuses": list(AsyncTaskStatus),
        "most_counted": MOST_COUNTED,
    }


def _misunderstood(page: Page, exc: ProblemError) -> Response:
    """The page again, with what was typed: it is corrected, not typed again."""
    asked = read(page)
    more = _choices(asked.columns)
    return page.error("tasks.html", 422, asked=asked, found=None, counts=None, refusal=exc.detail, **more)


def _file(write: Callable[[Sequence[TaskRow], bool], str], media_type: str, suffix: str) -> Endpoint:
    async def file(page: Page) -> Response:
        asked = understood(page)

        def work() -> Response:
            headers = {"Content-Disposition": f'attachment; filename="tasks.{suffix}"'}
            return Response(write(_rows(page, asked), page.payloads), media_type=media_type, headers=headers)

        return await page.service.run(work)

    return get(file)


def _rows(page: Page, asked: Asked) -> list[TaskRow]:
    """What the page shows, with the values, of which a page takes only so many: then there are several."""
    rows: list[TaskRow] = []
    with page.caller.reader.session() as session:
        while True:
            found = _found(page, asked._replace(limit=asked.limit - len(rows)), session, values=page.payloads)
            rows += found.tasks
            if found.next is None or not found.tasks or len(rows) >= asked.limit:
                return rows
            asked = asked._replace(cursor=found.next, limit=asked.limit)


def _csv(rows: Sequence[TaskRow], values: bool) -> str:
    names = [name for name in TASK_COLUMNS if values or name not in VALUES]
    written = io.StringIO()
    csv.write(written, names, ([getattr(row, name) for name in names] for row in rows))
    return written.getvalue()


def _ndjson(rows: Sequence[TaskRow], values: bool) -> str:
    return "".join(f"{task_document(row, values=values)}\n" for row in rows)


ROUTES: Final = (
    ("/tasks", get(tasks)),
    ("/tasks.csv", _file(_csv, "text/csv", "csv")),
    ("/tasks.ndjson", _file(_ndjson, "application/x-ndjson", "ndjson")),
)
