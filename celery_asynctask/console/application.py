"""`console`: the pages as an ASGI application, mounted in that of the API."""

from __future__ import annotations

from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from celery_asynctask.console import (
    audit,
    entry,
    errors,
    names,
    overview,
    rerun,
    static,
    task,
    tasks,
    workers,
    workflow,
)
from celery_asynctask.console.markup import failed
from celery_asynctask.errors import FilterError
from celery_asynctask.web.problem import NO_DIRECTORY, NO_TABLES, ProblemError, handlers
from celery_asynctask.web.service import Service

_UNREADABLE: Final = (
    "The database could not be queried. Your tasks may be fine. The server's log says why; try again, or narrow the "
    "search."
)
_TITLES: Final = {NO_TABLES: "No tables yet", NO_DIRECTORY: "No directory for the database"}


def console(service: Service) -> Starlette:
    """The pages of the store that ``service`` reads."""
    app = Starlette(
        routes=[
            *overview.ROUTES,
            *tasks.ROUTES,
            *task.ROUTES,
            *rerun.ROUTES,
            *workflow.ROUTES,
            *errors.ROUTES,
            *names.ROUTES,
            *workers.ROUTES,
            *audit.ROUTES,
            *entry.ROUTES,
            Route("/static/{name}", static.file),
        ],
        exception_handlers={
            **handlers(_answer, _UNREADABLE),
            ProblemError: _of_problem,
            FilterError: _of_filter,
            HTTPException: _of_http,
        },
    )
    app.state.asynctask = service
    app.state.paces = workflow.Paces(1000)
    app.router.redirect_slashes = False
    return app


async def _of_problem(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, ProblemError)
    try:
        return await entry.form(request, exc) if exc.kind == "unauthenticated" else _answer(request, exc)
    except ProblemError as other:  # the tokens can no longer be read
        return _answer(request, other)


def _answer(request: Request, exc: ProblemError) -> Response:
    return failed(request, exc.status, exc.detail, exc.headers, title=_TITLES.get(exc.detail, ""))


def _of_filter(request: Request, exc: Exception) -> Response:
    return failed(request, 422, str(exc))


def _of_http(request: Request, exc: Exception) -> Response:
    """Answers errors of Starlette's router and of the function `asynctask_access`, which may redirect to a login."""
    assert isinstance(exc, HTTPException)
    headers = exc.headers or {}
    if exc.status_code < 400:
        return Response(None, exc.status_code, headers=headers)
    details = {404: "This page does not exist.", 405: f"Allowed methods: {headers.get('Allow', '')}."}
    return failed(request, exc.status_code, details.get(exc.status_code, f"{exc.detail}."), headers)
