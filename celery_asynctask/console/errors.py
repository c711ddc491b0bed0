"""The page of errors: what fails, cause by cause, and from each cause to its tasks."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from starlette.responses import Response

from celery_asynctask.console.page import Page, Search, route
from celery_asynctask.core.status import FAILED
from celery_asynctask.core.text import rfc3339
from celery_asynctask.errors import FilterError
from celery_asynctask.queries.failures.fingerprint import pieces
from celery_asynctask.queries.failures.groups import BUCKETS, Failures, Group, failures
from celery_asynctask.queries.search.filter import MAX_VALUES, parse, quoted, term
from celery_asynctask.queries.types import Session

SCANNED: Final = (1000, 10_000)
"""Newest failures that are looked at: as many as within a tenth of a second, or all that are ever grouped."""
CAUSES: Final = (50, 1000)
"""Groups that are shown."""
NAMES_SHOWN: Final = 3
"""Names of tasks that are shown of a group."""
SORTS: Final[Mapping[str, tuple[str, Callable[[Group], int | dt.datetime]]]] = {
    "count": ("Most frequent", lambda group: group.tasks),
    "last": ("Most recent", lambda group: group.last),
    "first": ("Newest", lambda group: group.first),
}
SHORTCUTS: Final = (("Last hour", "since:1h"), ("Last day", "since:1d"), ("Last week", "since:1w"))
"""Common terms of a search."""
_TICK: Final = dt.timedelta(microseconds=1)


class Cause(NamedTuple):
    """One group, as it is shown."""

    id: str
    """Of its row, the same whenever it is shown."""
    group: Group
    tasks: str
    """Where its tasks are listed."""
    peak: str
    """When most of them failed, in words."""
    bars: Sequence[tuple[float, str, str]]
    """As the macro takes them."""


async def errors(page: Page) -> Response:
    """What fails of what a search finds."""
    page.query("search", "sort", "most", "causes")
    sort = page.choice("sort", SORTS, "count")
    scanned, shown = int(page.choice("most", SCANNED, SCANNED[0])), int(page.choice("causes", CAUSES, CAUSES[0]))
    search = page.search(page.now)
    shared = {
        "search": search,
        "sort": sort,
        "most": scanned,
        "limit": shown,
        "sorts": {name: title for name, (title, _) in SORTS.items()},
        "shortcuts": SHORTCUTS,
        "max_causes": CAUSES[-1],
        "max_failures": SCANNED[-1],
    }
    if search.refusal:
        return page.error("errors.html", 422, found=None, **shared)

    def make(session: Session) -> Mapping[str, object]:
        found = failures(page.reader, session, search.filter, limit=scanned)
        groups = sorted(found.groups, key=SORTS[sort][1], reverse=True)
        head = groups[:shown]
        return {
            **shared,
            "found": found,
            "causes": list(_causes(page, search, found, head)),
            "left": len(groups) - len(head),
            "left_tasks": sum(group.tasks for group in groups[len(head) :]),
            "names_shown": NAMES_SHOWN,
        }

    return await page.answer("errors.html", make, cacheable=not search.relative)


def _causes(page: Page, search: Search, found: Failures, groups: Sequence[Group]) -> Iterator[Cause]:
    bounds = found.bounds
    shown = "%m-%d %H:%M" if bounds and bounds[-1] - bounds[0] > BUCKETS * dt.timedelta(minutes=1) else "%m-%d %H:%M:%S"
    periods = [f"{begin:{shown}} to {end:{shown}} UTC" for begin, end in pairwise(bounds)]
    names_status = any(one.key == "status" for one in search.filter.terms)
    for group in groups:
        key = repr((group.error_type, group.message, group.place)).encode(errors="surrogatepass")
        peak = max(group.counts)
        bars = [
            (max(count / peak, 0.08) if count else 0.0, "bad", f"{period}: {count:,}")
            for period, count in zip(periods, group.counts, strict=True)
        ]
        yield Cause(
            id=hashlib.blake2b(key, digest_size=8).hexdigest(),
            group=group,
            tasks=page.url(
                "/tasks",
                search=search_of(group, search.text, page.now),
                status=[] if names_status or group.error_type in FAILED else [status.value for status in FAILED],
            ),
            peak=f"Failures over time; peak: {peak:,}, {periods[group.counts.index(peak)]}",
            bars=bars,
        )


def search_of(group: Group, search: str, now: dt.datetime) -> str:
    """A search of the tasks that are in a group of what ``search`` finds, as nearly as the grammar can say it: it knows
    nothing of places. What would make it too long is left out, the names first."""
    has_error = group.error_type not in FAILED
    of_type = term("error", group.error_type) if has_error else f"status:{group.error_type} error:none"
    message = "*".join(quoted(piece) for piece in pieces(group.message))
    names = ",".join(map(quoted, group.names)) if len(group.names) <= MAX_VALUES else ""
    between = f"since:{rfc3339(group.first_asked)} until:{rfc3339(group.last_asked + _TICK)}"
    needed = [search.strip(), of_type]
    wanted = [between, f"message:{message}" if message else "", f"name:{names}" if names else ""]
    for left_out in range(len(wanted) + 1):
        found = " ".join(filter(None, [*needed, *wanted[: len(wanted) - left_out]]))
        try:
            parse(found, now)
        except FilterError:
            continue
        return found
    return of_type


ROUTES: Final = (route("/errors", errors),)
