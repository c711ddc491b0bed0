"""The page of errors: failures by cause, with a link from each cause to its tasks."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from starlette.responses import Response

from celery_asynctask.console.page import Page, Search, route
from celery_asynctask.core.rights import Right
from celery_asynctask.core.status import FAILED
from celery_asynctask.core.text import rfc3339
from celery_asynctask.errors import FilterError
from celery_asynctask.queries.failures.fingerprint import pieces
from celery_asynctask.queries.failures.groups import BUCKETS, Failures, Group, failures
from celery_asynctask.queries.search.filter import MAX_VALUES, parse, quoted, term
from celery_asynctask.queries.types import Session

SCANNED: Final = (1000, 10_000)
"""Newest failures that are grouped: by default what takes a tenth of a second; on request, the maximum."""
CAUSES: Final = (50, 1000)
"""Causes that are shown: by default, on request."""
NAMES_SHOWN: Final = 3
"""Task names that are shown of a cause."""
SORTS: Final[Mapping[str, tuple[str, Callable[[Group], int | dt.datetime]]]] = {
    "count": ("Most frequent", lambda group: group.tasks),
    "last": ("Latest failure", lambda group: group.last),
    "first": ("Newly appeared", lambda group: group.first),
}
SHORTCUTS: Final = (("Last hour", "since:1h"), ("Last day", "since:1d"), ("Last week", "since:1w"))
"""Common terms of a search, by their titles."""
_TICK: Final = dt.timedelta(microseconds=1)


class Cause(NamedTuple):
    """A row of the table."""

    id: str
    """Of the row, the same in every refresh."""
    group: Group
    tasks: str
    """Address of the list of its tasks."""
    peak: str
    """Text of the bars: when most of them failed."""
    bars: Sequence[tuple[float, str, str]]
    """As the macro `bars` takes them."""


async def errors(page: Page) -> Response:
    """The failures among the tasks that match a search, by cause."""
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
        return page.error("errors.html", 422, failures=None, **shared)

    def make(session: Session) -> Mapping[str, object]:
        total = failures(page.reader, session, search.filter, limit=scanned)
        groups = sorted(total.groups, key=SORTS[sort][1], reverse=True)
        head = groups[:shown]
        return {
            **shared,
            "failures": total,
            "causes": list(_causes(page, search, total, head)),
            "left": len(groups) - len(head),
            "left_tasks": sum(group.tasks for group in groups[len(head) :]),
            "names_shown": NAMES_SHOWN,
        }

    return await page.answer("errors.html", make, cacheable=not search.relative)


def _causes(page: Page, search: Search, total: Failures, groups: Sequence[Group]) -> Iterator[Cause]:
    bounds = total.bounds
    form = "%m-%d %H:%M" if bounds and bounds[-1] - bounds[0] > BUCKETS * dt.timedelta(minutes=1) else "%m-%d %H:%M:%S"
    periods = [f"{begin:{form}} to {end:{form}} UTC" for begin, end in pairwise(bounds)]
    names_status = any(term.key == "status" for term in search.filter.terms)
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
    """A search for the tasks of a group among those of ``search``, as nearly as the grammar can say it: it has no key
    for the line in the code. Parts that would make it too long are left out, the names first."""
    has_error = group.error_type not in FAILED
    of_type = term("error", group.error_type) if has_error else f"status:{group.error_type} error:none"
    message = "*".join(quoted(piece) for piece in pieces(group.message))
    names = ",".join(map(quoted, group.names)) if len(group.names) <= MAX_VALUES else ""
    between = f"since:{rfc3339(group.first_created)} until:{rfc3339(group.last_created + _TICK)}"
    required = [search.strip(), of_type]
    optional = [between, f"message:{message}" if message else "", f"name:{names}" if names else ""]
    for left_out in range(len(optional) + 1):
        text = " ".join(filter(None, [*required, *optional[: len(optional) - left_out]]))
        try:
            parse(text, now)
        except FilterError:
            continue
        return text
    return of_type


ROUTES: Final = (route("/errors", errors, Right.ERRORS),)
