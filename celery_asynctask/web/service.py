"""What all requests share: settings, the gate, the database; and what one request may reach of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Mapping, Set
from functools import cached_property
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request

from celery_asynctask.core.rights import Right
from celery_asynctask.queries.reader import Reader
from celery_asynctask.settings import Settings, engine_options
from celery_asynctask.web.access import Access, Gate
from celery_asynctask.web.answer import Answers
from celery_asynctask.web.memory import Kept, LedgerTold, Sent
from celery_asynctask.web.parameters import check_names
from celery_asynctask.web.problem import ProblemError

T = TypeVar("T")

QUERY_SECONDS: Final = 10
"""How long a query may take before the database stops it."""
THREADS: Final = 6
"""Queries at a time: one Python process makes no more answers by asking for more at once."""
MOST_WAITING: Final = 200
"""Requests that wait for one of them."""
_POOL: Final = {"pool_size": THREADS, "max_overflow": THREADS, "pool_timeout": 5}
"""Connections are kept, for making one takes longer than most queries."""
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Service:
    """Of one ASGI application."""

    def __init__(self, api: FastAPI, celery: Any, settings: Settings, gate: Gate) -> None:
        self.celery = celery
        self.settings = settings
        self.gate = gate
        self.answers = Answers()
        self.sent = Sent()
        self.ledger: Kept[LedgerTold] = Kept()
        self.api = api
        options = engine_options(settings.engine_options, **_POOL)
        self._reader = Reader(settings.url, options, seconds=QUERY_SECONDS)
        self._checked = False
        self._asked = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Do what asks the database in a thread; of ours, for a host application needs its own. Raises `ProblemError`
        where too many wait, and what ``work`` raises."""
        if self._asked >= THREADS + MOST_WAITING:
            detail = f"{MOST_WAITING} requests wait for the database already: ask less often."
            raise ProblemError("busy", 503, detail, headers={"Retry-After": "1"})
        self._asked += 1
        try:
            return await to_thread.run_sync(work, limiter=self._threads)
        finally:
            self._asked -= 1

    @cached_property
    def _threads(self) -> CapacityLimiter:
        return CapacityLimiter(THREADS)

    @property
    def reader(self) -> Reader:
        """The database, found to have our tables. Raises `StoreError`."""
        if not self._checked:
            self._reader.check_schema()  # by several threads at once, perhaps: none waits for a database that is away
            self._checked = True
        return self._reader

    def parameters(self, method: str, path: str) -> Mapping[str, bool]:
        """The query parameters of an operation, as the document has them, and whether each may be given often."""
        return self._parameters.get((method, path), {})

    @cached_property
    def _parameters(self) -> dict[tuple[str, str], dict[str, bool]]:
        return {
            (method.upper(), path): {
                one["name"]: one["schema"].get("type") == "array"
                for one in operation.get("parameters", ())
                if one["in"] == "query"
            }
            for path, operations in self.api.openapi()["paths"].items()
            for method, operation in operations.items()
        }

    def close(self) -> None:
        """Give the connections back."""
        self._reader.close()


class Caller:
    """Who makes a request, and what that reaches: there is no other way to a task than by the `reader` here."""

    def __init__(self, access: Access, service: Service) -> None:
        self.access = access
        self.service = service
        self.now = dt.datetime.now(dt.timezone.utc)

    @cached_property
    def reader(self) -> Reader:
        """The database, of which the caller's customers are seen. Raises `StoreError`."""
        return self.service.reader.scoped(self.access.customers)

    @property
    def scope(self) -> tuple[Set[int] | None, bool]:
        """What two callers have in common who see the same."""
        return self.access.customers, self.access.may(Right.PAYLOADS)

    def need(self, right: Right, parameter: str | None = None) -> None:
        """Raises `ProblemError` where the caller does not have the right."""
        if not self.access.may(right):
            what = f"{parameter} needs" if parameter else "This needs"
            raise ProblemError("forbidden", 403, f"{what} the right {right.value!r}.", parameter=parameter)


def needing(right: Right) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency: the caller, who has the right. Raises `ProblemError`."""

    async def caller(request: Request) -> Caller:
        service: Service = request.app.state.asynctask
        found = Caller(await service.gate.access(request), service)
        found.need(right)
        if request.method not in _SAFE:
            same_site(request)
        check_names(request, service.parameters(request.method, request.scope["route"].path))
        return found

    return caller


def same_site(request: Request) -> None:
    """Raises `ProblemError` for an action of another site's: a browser lets any page send a form to us, with the
    cookies that the function `asynctask_access` may look at."""
    site = request.headers.get("sec-fetch-site")
    if site is None:  # no browser, or an old one; a proxy may have changed Host, which is not looked at otherwise
        origin = request.headers.get("origin")
        refused = origin is not None and _host(origin) != request.headers.get("host", "")
    else:
        refused = site not in ("same-origin", "none")
    if refused:
        raise ProblemError("cross-site", 403, "Actions are taken from pages of this server, or without a browser.")


def _host(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None
