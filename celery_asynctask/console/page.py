"""A request for a page: its caller, its query, and the answer with its ETag."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping
from functools import cached_property
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from celery_asynctask.console import markup
from celery_asynctask.core.rights import Right
from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.search.filter import Filter
from celery_asynctask.queries.search.hint import hint
from celery_asynctask.queries.types import Session
from celery_asynctask.web.parameters import searched
from celery_asynctask.web.problem import ProblemError, invalid
from celery_asynctask.web.service import Caller, Service, caller_of


class Search(NamedTuple):
    """A search as typed, and parsed."""

    text: str
    parsed: Filter | None = None
    relative: bool = False
    """Whether it counts time from now, and so finds other tasks tomorrow."""
    refusal: str = ""
    """Why it cannot be parsed; empty: it can."""

    @property
    def filter(self) -> Filter:
        """The parsed search. Raises `ProblemError` for a wrong search, which must not find all tasks."""
        if self.parsed is None:
            raise invalid("search", self.refusal)
        return self.parsed

    @property
    def hint(self) -> str:
        """What it was probably meant to be, for a page without results; empty: nothing looks wrong."""
        return hint(self.filter) or ""


class Page(Caller):
    """A request for a page."""

    def __init__(self, request: Request, caller: Caller) -> None:
        super().__init__(caller.access, caller.service, caller.origin)
        self.request = request

    def url(self, path: str = "", **query: object) -> str:
        """The address of a path below the console, with a query; None and empty values are left out."""
        return markup.url(self.request, path, **query)

    def task_url(self, task_id: str, customer: str = "") -> str:
        """The address of a task's page; with its customer only where the caller sees several, who may use one id."""
        return markup.task_url(self.request, task_id, customer if self.sees_several else "")

    @property
    def sees_several(self) -> bool:
        """Whether the caller may see tasks of several customers."""
        return self.access.scope.has_several

    @property
    def sees_audit(self) -> bool:
        """Whether the caller may see the audit."""
        return self.sees_all and self.access.may(Right.AUDIT)

    def here(self, **changes: object) -> str:
        """The address of this page with changes to its query; None removes a parameter."""
        given = self.request.query_params
        return markup.url(self.request, self.path, **{**{name: given.getlist(name) for name in given}, **changes})

    @cached_property
    def path(self) -> str:
        """The path of this page below the console."""
        path: str = self.request.scope["path"]
        return path.removeprefix(self.request.scope.get("root_path", ""))

    def query(self, *names: str, often: Collection[str] = ()) -> dict[str, str]:
        """The parameters of the query, empty where they are missing. `choices` reads those in ``often``, which may be
        repeated. Raises `ProblemError` for others: a mistyped parameter must not be ignored."""
        given = self.request.query_params
        for name in given:
            if name not in names and name not in often:
                raise invalid(name[:80], f"This page has no parameter {name[:80]!r}. Remove it from the address.")
        return {name: given.get(name, "") for name in names}

    def choice(self, name: str, options: Iterable[object], default: object = "") -> str:
        """The option that a parameter of the query names; ``default`` where it is missing. Raises `ProblemError`."""
        given = self.request.query_params.get(name, "")
        return _one_of(name, given, options) if given else str(default)

    def choices(self, name: str, options: Iterable[object]) -> list[str]:
        """The options that a parameter of the query names, which may be repeated. Raises `ProblemError`."""
        return [_one_of(name, given, options) for given in dict.fromkeys(self.request.query_params.getlist(name))]

    def search(self, now: dt.datetime) -> Search:
        """The search of the query; a page shows a wrong one again, with its refusal, to be corrected. Raises
        `ProblemError` for a search in what the caller may not see."""
        text = self.request.query_params.get("search", "")
        try:
            terms, relative = searched(text, now)
        except ProblemError as exc:
            return Search(text, refusal=exc.detail)
        self.may_search(terms)
        return Search(text, Filter(tuple(terms)), relative)

    async def answer(
        self, template: str, make: Callable[[Session], Mapping[str, object]], *depends: Hashable, cacheable: bool = True
    ) -> Response:
        """The page that ``template`` makes of the values of ``make``, or a 304 where the browser has it. ``depends``:
        what it depends on besides the path and the query; ``cacheable`` as in `Answers.answer`."""
        scope = self.request.scope
        key = (self.access, scope["path"], scope["query_string"], scope.get("root_path", ""), *depends)

        def work() -> Response:
            return self.service.answers.answer(
                self.request,
                self.reader,
                key,
                lambda session: self.render(template, **make(session)),
                Reader.session,
                cacheable=cacheable,
                media_type="text/html",
                headers=markup.SECURITY,
            )

        return await self.run(work)

    def error(self, template: str, status: int, **values: object) -> Response:
        """A page with the status of an error."""
        return HTMLResponse(self.render(template, **values), status, headers=markup.SECURITY)

    def render(self, template: str, **values: object) -> str:
        """The HTML of a page."""
        return markup.render(self.request, template, page=self, **values)


def floored(now: dt.datetime, seconds: int) -> dt.datetime:
    """``now``, rounded down to a multiple of ``seconds``: the same for all requests within that time."""
    timestamp = int(now.timestamp())
    return dt.datetime.fromtimestamp(timestamp - timestamp % seconds, dt.timezone.utc)


Make = Callable[[Page], Awaitable[Response]]
"""Answers a request for a page."""


def _one_of(name: str, given: str, options: Iterable[object]) -> str:
    known = [str(option) for option in options]
    if given not in known:
        raise invalid(name, f"{name} must be one of {', '.join(known)}, or left out; {given[:40]!r} is not.")
    return given


def route(path: str, make: Make, right: Right = Right.READ, method: str = "GET") -> Route:
    """The route of a page. A ``method`` of POST makes it an action, which only pages of this server may send."""

    async def endpoint(request: Request) -> Response:
        service: Service = request.app.state.asynctask
        caller = await caller_of(request, Right.READ, right, kept=service.authenticator.cookie(request))
        return await make(Page(request, caller))

    return Route(path, endpoint, methods=[method])
