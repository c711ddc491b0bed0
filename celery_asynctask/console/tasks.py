"""The page of tasks: those that match a search, counts by status, and the same tasks as a file."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from starlette.responses import Response

from celery_asynctask.console.page import Make, Page, Search, route
from celery_asynctask.core.accounting import plural
from celery_asynctask.core.status import SHOWN as STATUSES
from celery_asynctask.errors import FilterError
from celery_asynctask.operations.audit import Action, search_target
from celery_asynctask.present import csv
from celery_asynctask.queries.reader import TASK_COLUMNS, Parts, task_columns
from celery_asynctask.queries.search.filter import Filter, Term, Value
from celery_asynctask.queries.search.page import MAX_SCANNED
from celery_asynctask.queries.search.page import Page as Rows
from celery_asynctask.queries.search.page import page as page_of
from celery_asynctask.queries.statistics.counts import MAX_COUNTED, counts
from celery_asynctask.queries.task import of_list
from celery_asynctask.queries.types import ListRow, Session, TaskColumns, TaskRow
from celery_asynctask.web.answer import task_document
from celery_asynctask.web.parameters import ORDER_BY
from celery_asynctask.web.problem import invalid
from celery_asynctask.web.service import same_site
from celery_asynctask.web.share import FILES

LIMITS: Final = (25, 50, 100, 200)
"""Choices for the rows of a page."""
SHORTCUTS: Final = (
    ("Last hour", "since:1h"),
    ("Last day", "since:1d"),
    ("Retried", "retries:>0"),
    ("Ran over 10 s", "run:>10s"),
    ("Waited over 1 m", "wait:>1m"),
)
"""Common terms of a search, by their titles."""
ORDERS: Final = {
    "-createdAt": "newest first",
    "createdAt": "oldest first",
    "-startedAt": "last started first",
    "startedAt": "first started first",
    "-completedAt": "last ended first",
    "completedAt": "first ended first",
}

COLUMNS: Final = {
    "status": "Status",
    "name": "Name",
    "customer": "Customer",
    "creator": "Created by",
    "created": "Created",
    "started": "Started",
    "completed": "Completed",
    "wait": "Wait",
    "run": "Run",
    "retries": "Retries",
    "error": "Error",
    "root": "Root",
    "parent": "Parent",
    "trace": "Trace",
    "id": "Id",
}
"""Titles of the columns that the table may have; each has a macro in tasks.html."""
SHOWN: Final = ("status", "name", "customer", "creator", "created", "wait", "run", "retries", "error")
"""Columns that are shown by default."""


class Columns(Protocol):
    """A function that makes the SELECT of a file's rows."""

    def __call__(self, dialect: str, parts: Parts) -> TaskColumns: ...


class Query(NamedTuple):
    """The query of the page."""

    search: Search
    statuses: Sequence[str]
    ordering: str
    cursor: str
    limit: int
    columns: Sequence[str]

    @property
    def filter(self) -> Filter:
        """The search together with the statuses."""
        if not self.statuses:
            return self.search.filter
        status = Term("status", (), tuple(Value("=", status) for status in self.statuses), False)
        return Filter((*self.search.filter.terms, status))


def parse_query(page: Page) -> Query:
    """Raises `ProblemError`, but not for a wrong search."""
    given = page.query("search", "ordering", "cursor", "limit", often=("status", "columns"))
    named = page.choices("columns", COLUMNS)
    return Query(
        statuses=page.choices("status", STATUSES),
        ordering=page.choice("ordering", ORDER_BY, "-createdAt"),
        cursor=given["cursor"],
        limit=int(page.choice("limit", LIMITS, 50)),
        columns=[name for name in COLUMNS if name in named] or SHOWN,
        search=page.search(page.now),
    )


async def tasks(page: Page) -> Response:
    """The tasks that match a search."""
    query = parse_query(page)
    shared = {
        "query": query,
        "columns": COLUMNS,
        "shortcuts": SHORTCUTS,
        "orders": ORDERS,
        "limits": LIMITS,
    }
    if query.search.refusal:
        return page.error("tasks.html", 422, rows=None, **shared)

    def make(session: Session) -> Mapping[str, object]:
        return {
            **shared,
            "rows": _page_of(page, query, session, of_list(page.reader.dialect, page.parts._replace(values=False))),
            "counts": counts(page.reader, session, query.search.filter),
            "statuses": STATUSES,
            "max_counted": MAX_COUNTED,
            "max_scanned": MAX_SCANNED,
        }

    return await page.answer("tasks.html", make, cacheable=not query.search.relative)


def _page_of(page: Page, query: Query, session: Session, columns: TaskColumns) -> Rows:
    try:
        return page_of(
            page.reader,
            session,
            query.filter,
            limit=query.limit,
            after=query.cursor or None,
            order=ORDER_BY[query.ordering],
            columns=columns,
        )
    except FilterError as exc:
        raise invalid("cursor", str(exc)) from None


def _file(of: Columns, write: Callable[[Sequence[Any], Parts], str], media_type: str, suffix: str) -> Make:
    async def file(page: Page) -> Response:
        same_site(page.request)  # a link elsewhere must not leave an export in the audit, nor take from the rate
        query = parse_query(page)
        page.take(FILES)

        def work() -> Response:
            headers = {"Content-Disposition": f'attachment; filename="tasks.{suffix}"'}
            columns = of(page.reader.dialect, page.parts)
            rows = _rows(page, query, columns)
            text = write(rows, page.parts)
            # One entry: nothing is sent before it is stored.
            detail = f"{len(rows)} {plural(len(rows), 'task')} as {suffix}"
            page.service.audit.write(page.entry(Action.EXPORT, search_target(query.filter), detail))
            return Response(text, media_type=media_type, headers=headers)

        return await page.run(work)

    return file


def _rows(page: Page, query: Query, columns: TaskColumns) -> list[Any]:
    """The tasks that the page shows, with their values. One query stops at a size of values: then there are several."""
    rows: list[Any] = []
    with page.reader.session() as session:
        while True:
            part = _page_of(page, query._replace(limit=query.limit - len(rows)), session, columns)
            rows += part.tasks
            if part.next is None or not part.tasks or len(rows) >= query.limit:
                return rows
            query = query._replace(cursor=part.next)


def _csv(rows: Sequence[ListRow], parts: Parts) -> str:
    names = [*parts.of(TASK_COLUMNS), "customer_key", "created_by_key"]
    text = io.StringIO()
    csv.write(text, names, ([getattr(row, name) for name in names] for row in rows))
    return text.getvalue()


def _ndjson(rows: Sequence[TaskRow], parts: Parts) -> str:
    return "".join(f"{task_document(row, parts)}\n" for row in rows)


ROUTES: Final = (
    route("/tasks", tasks),
    route("/tasks.csv", _file(of_list, _csv, "text/csv", "csv")),
    route("/tasks.ndjson", _file(task_columns, _ndjson, "application/x-ndjson", "ndjson")),
)
