"""Templates, the form of values in them, and the addresses of pages."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from functools import partial
from typing import Final, Protocol
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from celery_asynctask import __version__
from celery_asynctask.console import static
from celery_asynctask.core.reasons import NotSent
from celery_asynctask.core.status import FAILED, AsyncTaskStatus
from celery_asynctask.core.text import clean, rfc3339, span
from celery_asynctask.present.ledger import verdict
from celery_asynctask.present.symbols import SIGNS
from celery_asynctask.queries.search.filter import NONE, term
from celery_asynctask.queries.search.keys import KEYS
from celery_asynctask.web.sessions import cookie_of

SEARCH_EXAMPLES: Final = (
    "status:FAILURE since:1d",
    "name:billing.* -status:SUCCESS",
    "customer:42,43 retries:>2",
    "run:>10s since:1h",
    "error:*Timeout* created_by_name:*",
)
"""Searches that show the grammar; a click runs them."""
SECURITY: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
"""Headers of every page."""


def _finalized(value: object) -> object:
    """A value as a template writes it: without control characters and marks of writing direction."""
    if value is None:
        return ""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def seconds(value: dt.timedelta | float | None) -> str:
    """A length of time in at most two units; None: empty."""
    return span(value.total_seconds() if isinstance(value, dt.timedelta) else value)


def percent(value: float) -> str:
    """A share of 1. Only exactly 0 and 1 are shown as 0 % and 100 %."""
    shown = f"{value * 100:.1f}".rstrip("0").rstrip(".")
    return f"{'<0.1' if shown == '0' and value else '>99.9' if shown == '100' and value < 1 else shown} %"


def rate(value: float) -> str:
    """A number of tasks a minute, with the unit; below 0.1 of tasks a day."""
    if value >= 0.1 or not value:
        return f"{round(value):,} per minute" if value >= 10 else f"{value:.2g} per minute"
    day = value * 1440
    return f"{round(day) if day >= 10 else format(day, '.2g')} per day"


def sentence(text: str) -> str:
    """A part of a sentence as one of its own."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '…')) else '.'}"


class Failed(Protocol):
    """The columns of a task that say why it failed."""

    @property
    def status(self) -> AsyncTaskStatus: ...
    @property
    def started_at(self) -> dt.datetime | None: ...
    @property
    def error_message(self) -> str | None: ...


def not_sent(task: Failed) -> NotSent | None:
    """Why a task was never sent, with the task that began it: each step in between quotes the one before it. None: it
    has an error of its own, or none."""
    if task.status is not AsyncTaskStatus.FAILURE or task.started_at is not None:
        return None
    first = reason = NotSent.parse(task.error_message or "")
    while reason is not None:
        first, reason = reason, NotSent.parse(reason.reason)
    return first


def customer_term(key: str) -> str:
    """The term of a search that finds the tasks of a customer, as short as it can be."""
    is_plain = re.fullmatch(r"[\w-]+", key, re.ASCII) is not None and key.lower() != NONE
    return f"customer:{key}" if is_plain else term("customer", key)


_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("celery_asynctask.console"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=_finalized,
    auto_reload=False,
)
_ENVIRONMENT.filters.update(
    rfc3339=rfc3339,
    seconds=seconds,
    number="{:,}".format,
    percent=percent,
    not_sent=not_sent,
    rate=rate,
    sentence=sentence,
    verdict=verdict,
)
_ENVIRONMENT.globals.update(
    signs={status.value: sign for status, sign in SIGNS.items()},
    failed_statuses=[status.value for status in FAILED],
    search_examples=SEARCH_EXAMPLES,
    search_keys={name: key.meaning for name, key in KEYS.items()},
    term=term,
    customer_term=customer_term,
    version=__version__,
)


def url(request: Request, path: str = "", **query: object) -> str:
    """As `Page.url`."""
    given = {name: value for name, value in query.items() if value not in (None, "", [])}
    address = f"{request.scope.get('root_path', '')}{quote(path) or '/'}"
    return f"{address}?{urlencode(given, doseq=True)}" if given else address


def task_url(request: Request, task_id: str, customer: str = "") -> str:
    """The address of the task with that Celery id, of the customer with that key, or else of the newest one. An id that
    browsers would change in a path (slashes, dots), or that is a number and so may be the row of another task, goes by
    the page that redirects to it."""
    is_plain = re.fullmatch(r"(?!(\.{1,2}|[0-9]+)$)[^/\\]+", task_id) is not None
    if is_plain:
        return url(request, f"/tasks/{task_id}", customer=customer)
    return url(request, "/task", id=task_id, customer=customer)


def render(request: Request, template: str, **values: object) -> str:
    """The HTML of a template, from ``values`` and what every template has."""
    return _ENVIRONMENT.get_template(template).render(
        url=partial(url, request),
        task_url=partial(task_url, request),
        asset=lambda name: url(request, f"/static/{name}", v=static.version(name)),
        at=request.scope["path"].removeprefix(request.scope.get("root_path", "")),
        signed_in=cookie_of(request) is not None,
        **values,
    )


def failed(request: Request, status: int, detail: str, headers: Mapping[str, str] = {}, *, title: str = "") -> Response:
    """The page of an error; ``detail`` says what happened and what to do, ``title`` by default what the status is."""
    page = render(request, "failed.html", status=status, detail=detail, title=title)
    return HTMLResponse(page, status, headers={**headers, **SECURITY})
