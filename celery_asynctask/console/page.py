"""One look at a page: who looks, what was asked for, and the answer with its ETag."""

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
from celery_asynctask.queries.types import Session
from celery_asynctask.web.parameters import in_values, searched
from celery_asynctask.web.problem import ProblemError, invalid
from celery_asynctask.web.service import Caller, caller_of


class Search(NamedTuple):
    """A search as it was typed, and what it means."""

    text: str
    meaning: Filter | None = None
    relative: bool = False
    """Whether it means something else tomorrow."""
    refusal: str = ""
    """Why it was not understood; empty: it was."""

    @property
    def filter(self) -> Filter:
        """What it means. Raises `ProblemError` where it was not understood: nothing must be found for it by chance."""
        if self.meaning is None:
            raise invalid("search", self.refusal)
        return self.meaning


class Page(Caller):
    """One look at a page, by whoever asks for it."""

    def __init__(self, request: Request, caller: Caller) -> None:
        super().__init__(caller.access, caller.service)
        self.request = request

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

    def query(self, *names: str, often: Collection[str] = ()) -> dict[str, str]:
        """The query's parameters, empty where they are not given; those ``often`` are had by `choices`. Raises
        `ProblemError` for any other: a slip in a link must not look like an answer."""
        given = self.request.query_params
        for name in given:
            if name not in names and name not in often:
                raise invalid(name[:80], f"This page has no parameter {name[:80]!r}. Remove it from the address.")
        return {name: given.get(name, "") for name in names}

    def choice(self, name: str, options: Iterable[object], default: object = "") -> str:
        """Which of the options a parameter of the query names, ``default`` where it is not given. Raises
        `ProblemError`."""
        given = self.request.query_params.get(name, "")
        return _one_of(name, given, options) if given else str(default)

    def choices(self, name: str, options: Iterable[object]) -> list[str]:
        """Those of the options that a parameter of the query names, which may be given often. Raises `ProblemError`."""
        return [_one_of(name, given, options) for given in dict.fromkeys(self.request.query_params.getlist(name))]

    def search(self, now: dt.datetime) -> Search:
        """The query's search; one that was not understood is shown again, to be corrected. Raises `ProblemError` for
        one that looks into values which are not to be seen."""
        text = self.request.query_params.get("search", "")
        try:
            terms, relative = searched(text, now)
        except ProblemError as exc:
            return Search(text, refusal=exc.detail)
        if in_values(terms):
            self.need(Right.PAYLOADS, "search")
        return Search(text, Filter(tuple(terms)), relative)

    async def answer(
        self, template: str, make: Callable[[Session], Mapping[str, object]], *more: Hashable, cacheable: bool = True
    ) -> Response:
        """The page that ``template`` makes of what ``make`` finds in a session, or 304 where the browser has it.
        ``more``, besides the path and its query, is what it depends on; not ``lasting`` as in `Answers.answer`."""
        scope = self.request.scope
        key = (self.access, scope["path"], scope["query_string"], scope.get("root_path", ""), *more)

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

        return await self.service.run(work)

    def error(self, template: str, status: int, **found: object) -> Response:
        """A page that is not what was asked for."""
        return HTMLResponse(self.render(template, **found), status, headers=markup.SECURITY)

    def render(self, template: str, **found: object) -> str:
        """The HTML of a page."""
        return markup.render(self.request, template, page=self, **found)


def floored(now: dt.datetime, seconds: int) -> dt.datetime:
    """The moment that all looks within so many seconds have in common."""
    whole = int(now.timestamp())
    return dt.datetime.fromtimestamp(whole - whole % seconds, dt.timezone.utc)


Make = Callable[[Page], Awaitable[Response]]
"""Answers a look at a page."""


def _one_of(name: str, given: str, options: Iterable[object]) -> str:
    known = [str(one) for one in options]
    if given not in known:
        raise invalid(name, f"{name} must be one of {', '.join(known)}, or left out; {given[:40]!r} is not.")
    return given


def route(path: str, make: Make, right: Right = Right.READ, method: str = "GET") -> Route:
    """A page at a path; one that is posted to is an action, which is taken from pages of ours alone."""

    async def endpoint(request: Request) -> Response:
        caller = await caller_of(request, Right.READ, right, kept=request.cookies.get(markup.COOKIE))
        return await make(Page(request, caller))

    return Route(path, endpoint, methods=[method])
