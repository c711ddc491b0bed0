"""The page of a task: its state and why, its attempts, its values and its workflow."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, overload

from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from celery_asynctask.console import frames, markup, value
from celery_asynctask.console.page import Make, Page, floored, route
from celery_asynctask.core.fold import STATUS
from celery_asynctask.core.keys import is_of_earlier_execution
from celery_asynctask.core.limits import MAX_MESSAGE, MAX_TRACEBACK
from celery_asynctask.core.rights import Right
from celery_asynctask.core.status import TERMINAL, AsyncTaskStatus
from celery_asynctask.core.text import span
from celery_asynctask.errors import NotFoundError
from celery_asynctask.present import links
from celery_asynctask.present.diagnosis import Words, explain
from celery_asynctask.queries.diagnosis import Evidence, evidence
from celery_asynctask.queries.reader import EVERY
from celery_asynctask.queries.task import (
    MAX_COUNTED,
    Relative,
    attempts,
    exact,
    find,
    is_id,
    namesakes,
    number_of,
    of_page,
    task_detail,
)
from celery_asynctask.queries.types import EvidentTask, ListedTask, PageColumns, PageRow, Session, TaskLike, TaskRow
from celery_asynctask.queries.workflow.timeline import Course, courses
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt
from celery_asynctask.web.problem import invalid, not_found

VALUES: Final = {"args": "task_args", "kwargs": "task_kwargs", "result": "result", "content": "content"}
"""Columns, by their names on the page."""
ATTEMPTS: Final = 20
"""Attempts that are shown at a time."""
MAX_SHOWN_TRACEBACK: Final = MAX_TRACEBACK + 1000
"""Characters of a traceback's end that are shown, with the note that it was cut."""
TICK: Final = 10
"""Seconds for which the page of an unchanged task stays the same."""
OUTCOMES: Final = {
    **{kind.value: status for kind, status in STATUS.items()},
    "replaced": AsyncTaskStatus.SUCCESS,
    "requeued": AsyncTaskStatus.RETRY,
    "terminated": AsyncTaskStatus.REVOKED,
    "running": AsyncTaskStatus.STARTED,
}
"""Status whose look an outcome has; any other outcome looks like LOST."""


class Attempt(NamedTuple):
    """A row of the table of attempts."""

    number: int
    run: AsyncTaskAttempt
    course: Course
    looks: AsyncTaskStatus
    traceback: str
    """The end of the traceback."""
    own: str
    """The same, folded to the user's own frames."""
    earlier: bool
    """Whether it belongs to an earlier execution under the same id."""


class _ElsewhereError(Exception):
    """The page of the task has another address."""


@overload
def located(page: Page, session: Session) -> AsyncTask: ...
@overload
def located(page: Page, session: Session, columns: PageColumns) -> PageRow: ...
def located(page: Page, session: Session, columns: PageColumns | None = None) -> AsyncTask | PageRow:
    """The task of the page's path; its ``columns`` where they are given. A path has the number of a row, or a Celery
    id; where several customers use the id, the query may name one. An id that no task has may be a row number, or the
    beginning of one task's id. Raises `ProblemError`."""
    reader, given = page.reader, page.request.path_params
    customer = page.request.query_params.get("customer")

    def of_row(number: int | None) -> AsyncTask | PageRow | None:
        row: AsyncTask | PageRow | None = exact(reader, session, "", number, columns)
        return row

    row: AsyncTask | PageRow | None
    if (number := given.get("number")) is not None:
        if (row := of_row(number_of(number))) is None:
            raise not_found(f"No task has the row number {number[:80]}.")
        return row
    text = given["id"]
    of_customer = exact(page.whose(customer), session, text, None, columns) if customer is not None else None
    row = of_customer or exact(reader, session, text, None, columns) or of_row(number_of(text))
    if row is None:
        try:
            task = find(reader, session, text)
        except NotFoundError as exc:
            raise not_found(str(exc)) from None
        row = task if columns is None else of_row(task.id)
    if row is None:  # deleted in between
        raise not_found(f"No task has the id {text[:80]!r}.")
    return row


def address(page: Page, session: Session, row: ListedTask) -> str:
    """The path of a task's page, which no other task has."""
    return _address(row, namesakes(page.reader, session, row))


def _address(row: ListedTask, alike: Sequence[Relative]) -> str:
    """By its Celery id, or if that cannot be in a path, or means the newer task of another customer, by its row number;
    ``alike`` are its `namesakes`."""
    task_id = row.celery_task_id
    is_other = "/" in task_id or task_id in (".", "..") or any(one.id != row.id for one in alike[:1])
    return f"/task/{row.id}" if is_other else f"/tasks/{task_id}"


def routes(below: str, make: Make, right: Right = Right.READ, method: str = "GET") -> list[Route]:
    """The routes of a page below that of a task, for both forms of its address."""
    return [route(f"{base}{below}", make, right, method) for base in ("/tasks/{id}", "/task/{number}")]


async def task(page: Page) -> Response:
    """The page of a task."""
    first = page.query("attempts", "customer")["attempts"]
    now = floored(page.now, TICK)

    def make(session: Session) -> Mapping[str, object]:
        # With its error for all: it says why. The template and `explain` quote it only for who may see it.
        row = located(page, session, of_page(page.reader.dialect, page.parts._replace(errors=True)))
        alike = namesakes(page.reader, session, row)
        if (base := _address(row, alike)) != page.path:
            raise _ElsewhereError(base)
        others = [one for one in alike if one.id != row.id]
        return {**_values(page, session, row, base, first, now), "namesakes": others}

    try:
        return await page.answer("task.html", make, now)
    except _ElsewhereError as exc:
        return RedirectResponse(page.url(exc.args[0], attempts=first), 302, headers=markup.SECURITY)


def _values(
    page: Page, session: Session, row: PageRow, base: str, first: str, now: dt.datetime
) -> Mapping[str, object]:
    """The values of the template."""
    reader = page.reader
    known = evidence(reader, session, row)
    if not reader.scope.is_all:
        known = _scoped(known)
    last = known.last
    runs = known.of_earlier_executions + known.attempts
    content = row.content if page.payloads else None
    rerun_of = value.member(content, "rerun_of")  # users write into the content, too: this may be no id
    return {
        "row": row,
        "base": base,
        "last": last,
        "over": row.status in TERMINAL,
        "why": list(_why(known, Words(now, _shown, _age, errors=page.errors))),
        "attempts": _attempts(page, session, row, runs, first, now),
        "runs": runs,
        "per_page": ATTEMPTS,
        "detail": task_detail(reader, session, row),
        "max_counted": MAX_COUNTED,
        "values": values(page, row, base),
        "progress": value.progress(content),
        "rerun_of": rerun_of if rerun_of and is_id(rerun_of) else None,
        "rerun_by": value.member(content, "rerun_by"),
        "links": _links(page, row, last, now),
        "may_rerun": page.access.may(Right.RERUN),
        "max_message": MAX_MESSAGE,
    }


def _scoped(known: Evidence) -> Evidence:
    """Evidence without processes, and without the tasks of other customers on a queue."""
    cause = None if known.cause is None else _scoped(known.cause)
    return known._replace(
        source=None, holder=None, sources_are_seen=False, ahead=known.ahead or None, unheard={}, cause=cause
    )


def _shown(item: object) -> str:
    if isinstance(item, dt.datetime):
        return f"{item.astimezone(dt.timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(item, dt.timedelta):
        return span(item.total_seconds())
    return f"{item:,}" if isinstance(item, int) else str(item)


def _age(age: dt.timedelta) -> str:
    """An age, no more exact than a page that stays the same for `TICK` seconds."""
    seconds = int(age.total_seconds())
    if seconds < TICK:
        return "a few seconds"
    if seconds < 3600:
        return f"{seconds // 60} m" if seconds >= 60 else f"{seconds - seconds % TICK} s"
    return span(seconds - seconds % 60)


def _why(known: Evidence, words: Words) -> Iterator[tuple[TaskLike | None, list[str]]]:
    """The sentences about a task, then about each of its causes, with the cause itself. The page links to a cause in
    place of the sentence with its name, which `explain` puts before those about it."""
    cause: TaskLike | None = None
    at: Evidence | None = known
    while at is not None:
        sentences = explain(at, words)
        after = 0 if at.cause is None else 1 + len(explain(at.cause, words))
        yield cause, sentences[: len(sentences) - after]
        at = at.cause
        cause = None if at is None else at.task


def _attempts(
    page: Page, session: Session, row: EvidentTask, total: int, first: str, now: dt.datetime
) -> list[Attempt]:
    """`ATTEMPTS` of the ``total`` attempts: from the number ``first`` on, or where that is empty, the last ones."""
    if first and not (re.fullmatch(r"[0-9]{1,9}", first, re.ASCII) and 1 <= int(first) <= total):
        options = f"must be a number from 1 to {total:,}" if total else "must be left out: this task has none"
        raise invalid("attempts", f"attempts {options}; {first[:40]!r} is not allowed.")
    if not total:
        return []
    start = int(first) if first else max(1, total - ATTEMPTS + 1)
    # One attempt more before, for the queue time of the first one, and one after, for the end of the last one.
    begin = max(1, start - 1)
    runs = attempts(page.reader, session, row, begin, start - begin + ATTEMPTS + 1)
    rows = []
    for number, (run, course) in enumerate(zip(runs, courses(row, runs, now), strict=True), begin):
        if start <= number < start + ATTEMPTS:
            text = (run.traceback or "")[-MAX_SHOWN_TRACEBACK:] if page.errors else ""
            own = frames.folded(text, run.name.partition(".")[0]) if text else ""
            looks = OUTCOMES.get(course.outcome, AsyncTaskStatus.LOST)
            is_earlier = is_of_earlier_execution(run.run_key, row.order_key)
            rows.append(Attempt(number, run, course, looks, text, own, is_earlier))
    return rows


def values(page: Page, row: TaskRow, base: str, names: Iterable[str] = VALUES) -> dict[str, value.Shown | None]:
    """The values of a task by name, if the caller may see them; None: not recorded. ``base`` is its `address`."""
    shown: dict[str, value.Shown | None] = {}
    for name in names if page.payloads else ():
        text = getattr(row, VALUES[name])
        download = page.url(f"{base}/values/{name}.json")
        shown[name] = None if text is None else value.shown(text, download)
    return shown


def _links(page: Page, row: ListedTask, last: AsyncTaskAttempt | None, now: dt.datetime) -> list[links.Link]:
    settings = page.service.settings
    trace = links.trace_link(settings.trace_url, row.trace_id, row.span_id)
    known = {
        "task_id": row.celery_task_id,
        "root_id": row.root_task_id,
        "parent_id": row.parent_task_id,
        "name": row.name,
        "trace_id": row.trace_id,
        "span_id": row.span_id,
        "customer": row.customer_key or None,
        "worker": last.worker if last is not None else None,
        "start": row.created_at,
        "end": row.completed_at or now,
    }
    return [*([links.Link("Trace", trace)] if trace else []), *links.task_links(settings.links or {}, known)]


async def file(page: Page) -> Response:
    """A value as a file, as it is stored."""
    page.query()
    page.need(Right.PAYLOADS)
    column = VALUES.get(page.request.path_params["name"])
    if column is None:
        raise not_found(f"No such value. The values of a task are {', '.join(VALUES)}.")

    def work() -> Response:
        with page.reader.session() as session:
            row = located(page, session, of_page(page.reader.dialect, EVERY))
        text = getattr(row, column)
        if text is None:
            raise not_found("This value is not recorded.")
        name = f"{page.request.path_params['name']}.json"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', **markup.SECURITY}
        return Response(text, media_type="application/json", headers=headers)

    return await page.run(work)


async def elsewhere(page: Page) -> Response:
    """Redirects to the page of a task by an id that cannot be in a path."""
    given = page.query("id", "customer")
    task_id, customer = given["id"], page.request.query_params.get("customer")

    def work() -> Response:
        with page.reader.session() as session:
            of_customer = exact(page.whose(customer), session, task_id) if customer is not None else None
            row = of_customer or exact(page.reader, session, task_id)
            if row is None:
                raise not_found(f"No task has the id {task_id[:80]}.")
            path = address(page, session, row)
        return RedirectResponse(page.url(path), 302, headers=markup.SECURITY)

    return await page.run(work)


ROUTES: Final = (
    route("/task", elsewhere),
    *routes("", task),
    *routes("/values/{name}.json", file),
)
