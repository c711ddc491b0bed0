"""One look at a page: who looks, what was asked for, and the answer with its ETag."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping
from functools import cached_property
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from celery_asynctask.console import markup
from celery_asynctask.core.rights import Right
from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.types import Session
from celery_asynctask.web.problem import invalid
from celery_asynctask.web.service import Caller, Service, caller_of


class Page:
    """One look at a page."""

    def __init__(self, request: Request, caller: Caller) -> None:
        self.request = request
        self.caller = caller

    @property
    def service(self) -> Service:
        """What all pages share."""
        return self.caller.service

    @property
    def now(self) -> dt.datetime:
        """When it was asked for, in UTC."""
        return self.caller.now

    @property
    def payloads(self) -> bool:
        """Whether who looks may see the tasks' values."""
        return self.caller.access.may(Right.PAYLOADS)

    def url(self, path: str = "", **query: object) -> str:
        """Where a page is: a path below the console, whose parts are quoted, with what its query says; what is None or
        empty is left out."""
        return markup.url(self.request, path, **query)

    def here(self, **changes: object) -> str:
        """This page, with another query: what is None is taken out."""
        given = self.request.query_params
        return markup.url(self.request, self.path, **{**{name: given.getlist(name) for name in given}, **changes})

    @cached_property
    def path(self) -> str:
        """Of this page below the console."""
        whole: str = self.request.scope["path"]
        return whole.removeprefix(self.request.scope.get("root_path", ""))

    def asked(self, *names: str, often: Collection[str] = ()) -> dict[str, str]:
        """The query's parameters, empty where they are not given; those ``often`` are had by `all_of`. Raises
        `ProblemError` for any other: a slip in a link must not look like an answer."""
        given = self.request.query_params
        for name in given:
            if name not in names and name not in often:
                raise invalid(name[:80], f"This page has no parameter {name[:80]!r}.")
        return {name: given.get(name, "") for name in names}

    def all_of(self, name: str) -> list[str]:
        """Each value of a parameter of the query that may be given often, once."""
        return list(dict.fromkeys(self.request.query_params.getlist(name)))

    async def answer(
        self, template: str, make: Callable[[Session], Mapping[str, object]], *more: Hashable, lasting: bool = True
    ) -> Response:
        """The page that ``template`` makes of what ``make`` finds in a session, or 304 where the browser has it.
        ``more``, besides the path and its query, is what it depends on; not ``lasting`` as in `Answers.answer`."""
        scope = self.request.scope
        key = (self.caller.access, scope["path"], scope["query_string"], scope.get("root_path", ""), *more)

        def work() -> Response:
            return self.service.answers.answer(
                self.request,
                self.caller.reader,
                key,
                lambda session: self.render(template, **make(session)),
                Reader.session,
                lasting=lasting,
                media_type="text/html",
                headers=markup.SECURITY,
            )

        return await self.service.run(work)

    def error(self, template: str, status: int, **found: object) -> Response:
        """A page that is not what was asked for."""
        return HTMLResponse(self.render(template, **found), status, headers=markup.SECURITY)

    def render(self, template: str, **found: object) -> str:
        """The HTML of a page."""
        return markup.render(self.request, template, page=self, **found)


class Endpoint(NamedTuple):
    """A page and what it needs."""

    endpoint: Callable[[Request], Awaitable[Response]]
    method: str


def get(make: Callable[[Page], Awaitable[Response]], right: Right = Right.READ) -> Endpoint:
    """A page that is looked at."""
    return _endpoint(make, "GET", right)


def post(make: Callable[[Page], Awaitable[Response]], right: Right) -> Endpoint:
    """An action: from a page of ours alone."""
    return _endpoint(make, "POST", right)


def _endpoint(make: Callable[[Page], Awaitable[Response]], method: str, right: Right) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        caller = await caller_of(request, Right.READ, right, kept=request.cookies.get(markup.COOKIE))
        return await make(Page(request, caller))

    return Endpoint(endpoint, method)
