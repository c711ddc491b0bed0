"""The page of a task: how it went and why, every attempt, its values, and what is around it."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple, overload

from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from celery_asynctask.console import frames, markup, value
from celery_asynctask.console.page import Make, Page, floored, route
from celery_asynctask.core.fold import STATUS
from celery_asynctask.core.limits import MAX_MESSAGE, MAX_TRACEBACK
from celery_asynctask.core.rights import Right
from celery_asynctask.core.status import TERMINAL, AsyncTaskStatus
from celery_asynctask.core.text import span
from celery_asynctask.errors import NotFoundError
from celery_asynctask.present import links
from celery_asynctask.present.diagnosis import Words, explain
from celery_asynctask.queries.diagnosis import Evidence, evidence
from celery_asynctask.queries.task import MAX_COUNTED, attempts, exact, find, is_id, number_of, of_page, task_detail
from celery_asynctask.queries.types import PageColumns, PageRow, Session, TaskLike, TaskRow
from celery_asynctask.queries.workflow.timeline import Course, courses
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt
from celery_asynctask.web.problem import invalid, not_found

VALUES: Final = {"args": "task_args", "kwargs": "task_kwargs", "result": "result", "content": "content"}
"""By how a page calls them, the columns."""
ATTEMPTS: Final = 20
"""Of a task that are shown at a time."""
MAX_SHOWN_TRACEBACK: Final = MAX_TRACEBACK + 1000
"""Characters of the end of a traceback that are shown, with what says that it was cut."""
TICK: Final = 10
"""Seconds for which the page of a task that nothing happens to stays the same."""
OUTCOMES: Final = {
    **{kind.value: status for kind, status in STATUS.items()},
    "replaced": AsyncTaskStatus.SUCCESS,
    "requeued": AsyncTaskStatus.RETRY,
    "terminated": AsyncTaskStatus.REVOKED,
    "running": AsyncTaskStatus.STARTED,
}
"""Like which status a run's end looks; any other one like LOST."""


class Attempt(NamedTuple):
    """One of the table."""

    number: int
    run: AsyncTaskAttempt
    course: Course
    looks: AsyncTaskStatus
    traceback: str
    """Its end."""
    own: str
    """The same, folded to the user's own frames."""


class _ElsewhereError(Exception):
    """The task has another address."""


@overload
def located(page: Page, session: Session) -> AsyncTask: ...
@overload
def located(page: Page, session: Session, columns: PageColumns) -> PageRow: ...
def located(page: Page, session: Session, columns: PageColumns | None = None) -> AsyncTask | PageRow:
    """The task of the page's path, or its columns: by its row's number, where the path is of that, else by its Celery
    id, that number where no Celery id is like it, or a beginning of the id that no other has. Raises `ProblemError`."""
    reader, given = page.reader, page.request.path_params

    def of_row(number: int | None) -> AsyncTask | PageRow | None:
        row: AsyncTask | PageRow | None = exact(reader, session, "", number, columns)
        return row

    found: AsyncTask | PageRow | None
    if (number := given.get("number")) is not None:
        if (found := of_row(number_of(number))) is None:
            raise not_found(f"No task has the row number {number[:80]}.")
        return found
    text = given["id"]
    found = exact(reader, session, text, None, columns) or of_row(number_of(text))
    if found is None:
        try:
            task = find(reader, session, text)
        except NotFoundError as exc:
            raise not_found(str(exc)) from None
        found = task if columns is None else of_row(task.id)
    if found is None:  # it was deleted meanwhile
        raise not_found(f"No task has the id {text[:80]!r}.")
    return found


def address(row: TaskLike) -> str:
    """The path of a task's page, which is that of no other: by its Celery id, or where that cannot be in a path, by its
    row's number."""
    task_id = row.celery_task_id
    return f"/task/{row.id}" if "/" in task_id or task_id in (".", "..") else f"/tasks/{task_id}"


def routes(below: str, make: Make, right: Right = Right.READ, method: str = "GET") -> list[Route]:
    """Of a page below that of a task, for both of a task's addresses."""
    return [route(f"{base}{below}", make, right, method) for base in ("/tasks/{id}", "/task/{number}")]


async def task(page: Page) -> Response:
    """All about one task."""
    asked = page.query("attempts")
    now = floored(page.now, TICK)

    def make(session: Session) -> Mapping[str, object]:
        row = located(page, session, of_page(page.reader.dialect, values=page.payloads))
        if (base := address(row)) != page.path:
            raise _ElsewhereError(base)
        return _found(page, session, row, base, asked["attempts"], now)

    try:
        return await page.answer("task.html", make, now)
    except _ElsewhereError as exc:
        return RedirectResponse(page.url(exc.args[0], attempts=asked["attempts"]), 302, headers=markup.SECURITY)


def _found(page: Page, session: Session, row: PageRow, base: str, first: str, now: dt.datetime) -> Mapping[str, object]:
    reader = page.reader
    told = evidence(reader, session, row)
    if reader.customers is not None:
        told = _scoped(told)
    last = told.last
    content = row.content if page.payloads else None
    rerun_of = value.member(content, "rerun_of")  # the content is the user's own, too: it may be no id
    return {
        "row": row,
        "base": base,
        "last": last,
        "over": row.status in TERMINAL,
        "sentences": explain(told, Words(now, _shown, _age)),
        "causes": list(_causes(told)),
        "attempts": _attempts(session, row, told.runs, first, now),
        "runs": told.runs,
        "per_page": ATTEMPTS,
        "detail": task_detail(reader, session, row),
        "max_counted": MAX_COUNTED,
        "values": values(page, row),
        "progress": value.progress(content),
        "rerun_of": rerun_of if rerun_of and is_id(rerun_of) else None,
        "rerun_by": value.member(content, "rerun_by"),
        "links": _links(page, row, last, now),
        "may_rerun": page.access.may(Right.RERUN),
        "max_message": MAX_MESSAGE,
    }


def _scoped(told: Evidence) -> Evidence:
    """Without what is known of processes, and of the tasks of others on a queue."""
    cause = None if told.cause is None else _scoped(told.cause)
    return told._replace(source=None, sources_are_seen=False, ahead=told.ahead or None, cause=cause)


def _shown(what: object) -> str:
    if isinstance(what, dt.datetime):
        return f"{what.astimezone(dt.timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(what, dt.timedelta):
        return span(what.total_seconds())
    return f"{what:,}" if isinstance(what, int) else str(what)


def _age(age: dt.timedelta) -> str:
    """About how long ago something is, on a page that is the same for some seconds."""
    seconds = int(age.total_seconds())
    if seconds < TICK:
        return "moments"
    if seconds < 3600:
        return f"{seconds // 60} m" if seconds >= 60 else f"{seconds - seconds % TICK} s"
    return span(seconds - seconds % 60)


def _causes(told: Evidence) -> Iterator[TaskLike]:
    while told.cause is not None:
        told = told.cause
        yield told.task


def _attempts(session: Session, row: TaskLike, total: int, first: str, now: dt.datetime) -> list[Attempt]:
    """The last ones, or those from the number that was asked for."""
    if first and not (re.fullmatch(r"[0-9]{1,9}", first, re.ASCII) and 1 <= int(first) <= total):
        options = f"must be a number from 1 to {total:,}" if total else "must be left out: this task has none"
        raise invalid("attempts", f"attempts {options}; {first[:40]!r} is not allowed.")
    if not total:
        return []
    start = int(first) if first else max(1, total - ATTEMPTS + 1)
    begin = max(1, start - 1)  # the one before, for the wait of the first, and one after, for the end of the last
    runs = attempts(session, row, begin, start - begin + ATTEMPTS + 1)
    found = []
    for number, (run, course) in enumerate(zip(runs, courses(row, runs, now), strict=True), begin):
        if start <= number < start + ATTEMPTS:
            text = (run.traceback or "")[-MAX_SHOWN_TRACEBACK:]
            own = frames.folded(text, run.name.partition(".")[0]) if text else ""
            looks = OUTCOMES.get(course.outcome, AsyncTaskStatus.LOST)
            found.append(Attempt(number, run, course, looks, text, own))
    return found


def values(page: Page, row: TaskRow, names: Iterable[str] = VALUES) -> dict[str, value.Shown | None]:
    """What a task was given, and gave, by name, as far as who looks may see it; None: it was not recorded."""
    found: dict[str, value.Shown | None] = {}
    for name in names if page.payloads else ():
        text = getattr(row, VALUES[name])
        where = page.url(f"{address(row)}/values/{name}.json")
        found[name] = None if text is None else value.shown(text, where)
    return found


def _links(page: Page, row: TaskLike, last: AsyncTaskAttempt | None, now: dt.datetime) -> list[links.Link]:
    settings = page.service.settings
    trace = links.trace_link(settings.trace_url, row.trace_id, row.span_id)
    known = {
        "task_id": row.celery_task_id,
        "root_id": row.root_task_id,
        "parent_id": row.parent_task_id,
        "name": row.name,
        "trace_id": row.trace_id,
        "span_id": row.span_id,
        "customer": row.customer,
        "worker": last.worker if last is not None else None,
        "start": row.created_at,
        "end": row.completed_at or now,
    }
    return [*([links.Link("Trace", trace)] if trace else []), *links.task_links(settings.links or {}, known)]


async def file(page: Page) -> Response:
    """A value as it is stored."""
    page.query()
    page.need(Right.PAYLOADS)
    column = VALUES.get(page.request.path_params["name"])
    if column is None:
        raise not_found(f"No such value. The values of a task are {', '.join(VALUES)}.")

    def work() -> Response:
        with page.reader.session() as session:
            row = located(page, session, of_page(page.reader.dialect, values=True))
        text = getattr(row, column)
        if text is None:
            raise not_found("This value is not recorded.")
        name = f"{page.request.path_params['name']}.json"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', **markup.SECURITY}
        return Response(text, media_type="application/json", headers=headers)

    return await page.service.run(work)


async def elsewhere(page: Page) -> Response:
    """Leads to the page of a task whose id cannot be in a path."""
    task_id = page.query("id")["id"]

    def work() -> Response:
        with page.reader.session() as session:
            row = exact(page.reader, session, task_id)
        if row is None:
            raise not_found(f"No task has the id {task_id[:80]}.")
        return RedirectResponse(page.url(address(row)), 302, headers=markup.SECURITY)

    return await page.service.run(work)


ROUTES: Final = (
    route("/task", elsewhere),
    *routes("", task),
    *routes("/values/{name}.json", file),
)
