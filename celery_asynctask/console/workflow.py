"""The page of a workflow: as a tree, drawn in time, and as a plain table of all attempts."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Final, NamedTuple

from starlette.responses import Response

from celery_asynctask.console import picture
from celery_asynctask.console.page import Page, floored, route
from celery_asynctask.console.task import located
from celery_asynctask.core.status import FAILED, AsyncTaskStatus
from celery_asynctask.present import waterfall
from celery_asynctask.queries.types import Session
from celery_asynctask.queries.workflow.members import MAX_MEMBERS, MAX_RUNS, Run, runs
from celery_asynctask.queries.workflow.members import workflow as members_of
from celery_asynctask.queries.workflow.timeline import Course, courses
from celery_asynctask.queries.workflow.timeline import parts as parts_of
from celery_asynctask.queries.workflow.tree import Member, Placed, failed_branches, lineage
from celery_asynctask.store.models import AsyncTask
from celery_asynctask.web.memory import Latest
from celery_asynctask.web.problem import invalid

ROWS: Final = 500
"""Tasks that are shown at a time."""
VIEWS: Final = {"tree": "Tree", "waterfall": "Waterfall", "table": "Table"}
MAX_SHOWN_RUNS: Final = 3000
"""Attempts on one page, about: of a task with many, the last ones are shown."""
LEAST_SHOWN_RUNS: Final = 6
"""Attempts of a task that are shown however many there are in all."""
MAX_LEVELS: Final = 12
"""Levels of a tree that are indented."""
FASTEST: Final = 2
"""Seconds that a picture lasts at least while something is under way."""


Paces = Latest[Hashable, int]
"""How many seconds the pictures of workflows last, as they were seen last; 0: till the record changes. So looking again
at one that is over costs next to nothing, and while something is under way its bars grow."""


class Query(NamedTuple):
    """What the page's query says."""

    view: str
    failed: bool
    start: int | None
    """Number of the first row; None: of the window in which the task is."""
    zoom: int
    at: float


class Row(NamedTuple):
    """A task in its place; what a treegrid says of it."""

    number: int
    """Among all rows, from 0."""
    placed: Placed
    position: int
    """Among what hangs on the same task, from 1."""
    siblings: int
    branch: bool
    """Whether something in the same window hangs on it."""

    @property
    def member(self) -> Member:
        """The task."""
        return self.placed.member

    @property
    def level(self) -> int:
        """1 at the top."""
        return self.placed.depth + 1


class Window(NamedTuple):
    """The rows that are shown of all."""

    rows: Sequence[Row]
    start: int
    total: int
    requested: int | None
    """Where a window with the task begins that was asked for; None: it is not among them."""
    first_failure: int | None
    failure: Member | None
    """The first task that failed."""
    above: Sequence[Member]
    """What the first row hangs on: in another window."""


class Summary(NamedTuple):
    """All of a workflow in numbers."""

    counts: Mapping[AsyncTaskStatus, int]
    tasks: int
    never_sent: int
    planned: int
    under_way: bool
    begun: dt.datetime
    ended: dt.datetime | None
    """When the last one ended, of those that have; None: none has."""
    took: dt.timedelta
    """Till then, or so far."""


def parse_query(page: Page) -> Query:
    """Raises `ProblemError`."""
    given = page.query("view", "failed", "from", "zoom", "at")
    view, failed = page.choice("view", VIEWS, "tree"), bool(page.choice("failed", ("1",)))
    if not re.fullmatch(r"[0-9]{0,6}", given["from"], re.ASCII):
        raise invalid("from", "from must be the number of a row, 0 or more.")
    zoom = int(page.choice("zoom", waterfall.ZOOMS, 1))
    if not re.fullmatch(r"(|[01]|0\.[0-9]{1,12})", given["at"], re.ASCII):
        raise invalid("at", "at must be a number from 0 to 1, such as 0.25.")
    at = min(float(given["at"] or 0), 1 - 1 / zoom)
    return Query(view, failed, int(given["from"]) if given["from"] else None, zoom, at)


async def workflow(page: Page) -> Response:
    """The workflow that a task is in."""
    query = parse_query(page)
    paces: Paces = page.request.app.state.paces
    key = (page.access.customers, page.path)
    pace = paces.get(key, FASTEST)
    now = floored(page.now, pace or FASTEST)

    def make(session: Session) -> Mapping[str, object]:
        task: AsyncTask = located(page, session)
        whole = members_of(page.reader, session, task)
        everything = lineage(whole.members)
        shown = failed_branches(everything) if query.failed else everything
        window = windowed(shown, task.celery_task_id, query.start)
        summary = summed(whole.members, now)
        paces[key] = pace_of(summary)
        ids = [row.member.celery_task_id for row in window.rows]
        attempts = runs(session, ids) if query.view != "tree" else {}
        return {
            "task": task,
            "query": query,
            "views": VIEWS,
            "statuses": list(AsyncTaskStatus),
            "summary": summary,
            "offset": lambda at: "" if at is None else picture.offset((at - summary.begun).total_seconds(), 0.001),
            "window": window,
            "rows_at_once": ROWS,
            "max_levels": MAX_LEVELS,
            "bounded": MAX_MEMBERS if whole.bounded else None,
            "max_runs": MAX_RUNS if sum(map(len, attempts.values())) >= MAX_RUNS else None,
            **_drawn(query, whole.members, window, attempts, task.celery_task_id, now),
        }

    return await page.answer("workflow.html", make, *((now,) if pace else ()))


def pace_of(summary: Summary) -> int:
    """How long a picture lasts: it grows by steps that hardly show, and one that takes long to make less often."""
    if not summary.under_way:
        return 0
    wanted = max(summary.took.total_seconds() / 500, summary.tasks / 1000)
    pace = FASTEST
    while pace < wanted:
        pace *= 2
    return pace


def summed(members: Collection[Member], now: dt.datetime) -> Summary:
    """What is said above all rows."""
    begun = min(member.created_at for member in members)
    ended = max((member.completed_at for member in members if member.completed_at is not None), default=None)
    under_way = any(member.open for member in members)
    last = now if under_way else ended or begun
    return Summary(
        Counter(member.status for member in members),
        len(members),
        sum(member.unsent for member in members),
        sum(member.planned for member in members),
        under_way,
        begun,
        ended,
        max(last - begun, dt.timedelta()),
    )


def windowed(shown: Sequence[Placed], asked: str, start: int | None) -> Window:
    """The rows from ``start`` on, else the ones among which the task is that was asked for."""
    at = next((number for number, one in enumerate(shown) if one.member.celery_task_id == asked), None)
    failed = next((number for number, one in enumerate(shown) if one.member.status in FAILED), None)
    here = _start_of(at) or 0
    if start is not None:
        here = start if start < len(shown) else _start_of(max(len(shown) - 1, 0)) or 0
    positions: Counter[str | None] = Counter()
    siblings = Counter(one.above for one in shown)
    part = shown[here : here + ROWS]
    branches = {one.above for one in part}
    rows = []
    for number, one in enumerate(shown[: here + ROWS]):
        positions[one.above] += 1
        if number >= here:
            is_branch = one.member.celery_task_id in branches
            rows.append(Row(number, one, positions[one.above], siblings[one.above], is_branch))
    failure = shown[failed].member if failed is not None else None
    return Window(rows, here, len(shown), _start_of(at), _start_of(failed), failure, _above(shown, here))


def _start_of(number: int | None) -> int | None:
    return None if number is None else number - number % ROWS


def _above(shown: Sequence[Placed], here: int) -> list[Member]:
    """What the row there hangs on, from the top: of what is before it, the last of each level above."""
    found: list[Member] = []
    depth = shown[here].depth if here < len(shown) else 0
    for one in reversed(shown[:here]):
        if one.depth < depth:
            depth = one.depth
            found.append(one.member)
    return found[::-1]


def _drawn(
    query: Query,
    members: Collection[Member],
    window: Window,
    attempts: Mapping[str, Sequence[Run]],
    task_id: str,
    now: dt.datetime,
) -> dict[str, object]:
    """What the views with attempts show."""
    limit = MAX_SHOWN_RUNS
    if sum(map(len, attempts.values())) > MAX_SHOWN_RUNS:
        limit = max(MAX_SHOWN_RUNS // max(len(window.rows), 1), LEAST_SHOWN_RUNS)
    if query.view == "table":
        went: dict[int, tuple[Sequence[tuple[int, Run, Course]], int]] = {}
        for row in window.rows:
            known = attempts.get(row.member.celery_task_id, ())
            numbered = list(zip(range(1, len(known) + 1), known, courses(row.member, known, now), strict=True))
            went[row.number] = (numbered[-limit:], max(len(numbered) - limit, 0))
        return {"courses": went}
    if query.view == "waterfall":
        drawn = [(row, row.member.celery_task_id, attempts.get(row.member.celery_task_id, ())) for row in window.rows]
        parts = {task: list(parts_of(row.member, known, now)) for row, task, known in drawn}
        scale = waterfall.scale(members, parts.values(), now)._replace(zoom=query.zoom, at=query.at)
        own = parts.get(task_id)
        return {
            "drawings": {
                row.number: picture.drawing(row.member, known, parts[task], scale, limit) for row, task, known in drawn
            },
            "scale": scale,
            "near": scale.over(own[0].start, own[-1].end) if own else None,
            "ticks": picture.ticks(scale),
            "legend": waterfall.MEANINGS,
            "heights": picture.HEIGHTS,
            "step_width": picture.STEP_WIDTH,
        }
    return {}


ROUTES: Final = (route("/tasks/{id:path}/workflow", workflow), route("/task/{number}/workflow", workflow))
