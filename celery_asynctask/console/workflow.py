"""The page of a workflow: as a tree, as a waterfall, and as a table of all attempts."""

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
from celery_asynctask.core.fold import Identity
from celery_asynctask.core.status import FAILED, SHOWN, AsyncTaskStatus
from celery_asynctask.present import waterfall
from celery_asynctask.queries.types import Session
from celery_asynctask.queries.workflow.members import MAX_ATTEMPTS, MAX_MEMBERS, MemberAttempt, attempts_of
from celery_asynctask.queries.workflow.members import workflow as members_of
from celery_asynctask.queries.workflow.timeline import Course, courses
from celery_asynctask.queries.workflow.timeline import parts as parts_of
from celery_asynctask.queries.workflow.tree import Member, Placed, failed_branches, lineage
from celery_asynctask.store.models import AsyncTask
from celery_asynctask.web.memory import Latest
from celery_asynctask.web.problem import invalid

ROWS: Final = 500
"""Tasks in a window."""
VIEWS: Final = {"tree": "Tree", "waterfall": "Waterfall", "table": "Table"}
MAX_SHOWN_RUNS: Final = 3000
"""Attempts on one page, about; of a task with many, the last ones are shown."""
LEAST_SHOWN_RUNS: Final = 6
"""Attempts of a task that are always shown."""
MAX_LEVELS: Final = 12
"""Levels of a tree with an indentation of their own."""
FASTEST: Final = 2
"""Seconds for which a page stays the same, at least, while a task is under way."""


Paces = Latest[Hashable, int]
"""Seconds for which the page of each workflow stays the same; 0: until the record changes. So a workflow that has ended
costs next to nothing to poll, and the bars of one under way grow."""


class Query(NamedTuple):
    """The query of the page."""

    view: str
    failed: bool
    start: int | None
    """Number of the first row; None: that of the window with the task."""
    zoom: int
    at: float


class Row(NamedTuple):
    """A task in its place, with the numbers that a treegrid announces."""

    number: int
    """Among all rows, from 0."""
    placed: Placed
    position: int
    """Among its siblings, from 1."""
    siblings: int
    branch: bool
    """Whether a task below it is in the same window."""

    @property
    def member(self) -> Member:
        """The task."""
        return self.placed.member

    @property
    def level(self) -> int:
        """1 at the top."""
        return self.placed.depth + 1


class Window(NamedTuple):
    """The rows that are shown."""

    rows: Sequence[Row]
    start: int
    total: int
    requested: int | None
    """Start of the window with the requested task; None: the task is not in the list."""
    first_failure: int | None
    failure: Member | None
    """The first task that failed."""
    above: Sequence[Member]
    """The tasks above the first row, from the top, which are in other windows."""


class Summary(NamedTuple):
    """A workflow in numbers."""

    counts: Mapping[AsyncTaskStatus, int]
    tasks: int
    never_sent: int
    planned: int
    under_way: bool
    begun: dt.datetime
    ended: dt.datetime | None
    """When the last task ended; None: none has."""
    took: dt.timedelta
    """Time until the last end, or until now while a task is under way."""


def parse_query(page: Page) -> Query:
    """Raises `ProblemError`."""
    given = page.query("view", "failed", "from", "zoom", "at", "customer")
    view, failed = page.choice("view", VIEWS, "tree"), bool(page.choice("failed", ("1",)))
    if not re.fullmatch(r"[0-9]{0,6}", given["from"], re.ASCII):
        raise invalid("from", "from must be the number of a row, 0 or more.")
    zoom = int(page.choice("zoom", waterfall.ZOOMS, 1))
    if not re.fullmatch(r"(|[01]|0\.[0-9]{1,12})", given["at"], re.ASCII):
        raise invalid("at", "at must be a number from 0 to 1, such as 0.25.")
    at = min(float(given["at"] or 0), 1 - 1 / zoom)
    return Query(view, failed, int(given["from"]) if given["from"] else None, zoom, at)


async def workflow(page: Page) -> Response:
    """The page of a task's workflow."""
    query = parse_query(page)
    paces: Paces = page.request.app.state.paces
    key = (page.access.scope, page.path)
    pace = paces.get(key, FASTEST)
    now = floored(page.now, pace or FASTEST)

    def make(session: Session) -> Mapping[str, object]:
        task: AsyncTask = located(page, session)
        tasks = members_of(page.reader, session, task)
        tree = lineage(tasks.members)
        shown = failed_branches(tree) if query.failed else tree
        requested = task.celery_task_id, task.customer_key
        window = windowed(shown, requested, query.start)
        summary = summed(tasks.members, now)
        paces[key] = pace_of(summary)
        attempts = attempts_of(session, [row.member for row in window.rows]) if query.view != "tree" else {}
        return {
            "task": task,
            "query": query,
            "views": VIEWS,
            "statuses": SHOWN,
            "summary": summary,
            "offset": lambda at: "" if at is None else picture.offset((at - summary.begun).total_seconds(), 0.001),
            "window": window,
            "rows_at_once": ROWS,
            "max_levels": MAX_LEVELS,
            "bounded": MAX_MEMBERS if tasks.bounded else None,
            "max_attempts": MAX_ATTEMPTS if sum(map(len, attempts.values())) >= MAX_ATTEMPTS else None,
            **_drawn(query, tasks.members, window, attempts, requested, now),
        }

    return await page.answer("workflow.html", make, *((now,) if pace else ()))


def pace_of(summary: Summary) -> int:
    """Seconds for which a page stays the same: so long that bars grow in small steps, longer if it is slow to make."""
    if not summary.under_way:
        return 0
    least = max(summary.took.total_seconds() / 500, summary.tasks / 1000)
    pace = FASTEST
    while pace < least:
        pace *= 2
    return pace


def summed(members: Collection[Member], now: dt.datetime) -> Summary:
    """The summary of all tasks of a workflow."""
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


def windowed(shown: Sequence[Placed], task: Identity, start: int | None) -> Window:
    """The window from row ``start`` on, or where that is None, the one with the requested task."""
    at = next((number for number, placed in enumerate(shown) if placed.member.identity == task), None)
    failed = next((number for number, placed in enumerate(shown) if placed.member.status in FAILED), None)
    here = _start_of(at) or 0
    if start is not None:
        here = start if start < len(shown) else _start_of(max(len(shown) - 1, 0)) or 0
    positions: Counter[Identity | None] = Counter()
    siblings = Counter(placed.above for placed in shown)
    branches = {placed.above for placed in shown[here : here + ROWS]}
    rows = []
    for number, placed in enumerate(shown[: here + ROWS]):
        positions[placed.above] += 1
        if number >= here:
            is_branch = placed.member.identity in branches
            rows.append(Row(number, placed, positions[placed.above], siblings[placed.above], is_branch))
    failure = shown[failed].member if failed is not None else None
    return Window(rows, here, len(shown), _start_of(at), _start_of(failed), failure, _above(shown, here))


def _start_of(number: int | None) -> int | None:
    return None if number is None else number - number % ROWS


def _above(shown: Sequence[Placed], here: int) -> list[Member]:
    """The tasks above the row ``here``, from the top: of the rows before it, the last one of each higher level."""
    above: list[Member] = []
    depth = shown[here].depth if here < len(shown) else 0
    for placed in reversed(shown[:here]):
        if placed.depth < depth:
            depth = placed.depth
            above.append(placed.member)
    return above[::-1]


def _drawn(
    query: Query,
    members: Collection[Member],
    window: Window,
    attempts: Mapping[Identity, Sequence[MemberAttempt]],
    requested: Identity,
    now: dt.datetime,
) -> dict[str, object]:
    """The values of the views with attempts."""
    limit = MAX_SHOWN_RUNS
    if sum(map(len, attempts.values())) > MAX_SHOWN_RUNS:
        limit = max(MAX_SHOWN_RUNS // max(len(window.rows), 1), LEAST_SHOWN_RUNS)
    if query.view == "table":
        went: dict[int, tuple[Sequence[tuple[int, MemberAttempt, Course]], int]] = {}
        for row in window.rows:
            known = attempts.get(row.member.identity, ())
            numbered = list(zip(range(1, len(known) + 1), known, courses(row.member, known, now), strict=True))
            went[row.number] = (numbered[-limit:], max(len(numbered) - limit, 0))
        return {"courses": went}
    if query.view == "waterfall":
        drawn = [(row, row.member.identity, attempts.get(row.member.identity, ())) for row in window.rows]
        parts = {task: list(parts_of(row.member, known, now)) for row, task, known in drawn}
        scale = waterfall.scale(members, parts.values(), now)._replace(zoom=query.zoom, at=query.at)
        own = parts.get(requested)
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
