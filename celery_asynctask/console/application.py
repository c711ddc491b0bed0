"""`console`: the pages as one ASGI application, to be mounted in the API's."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from celery_asynctask.console import entry, errors, names, overview, rerun, static, task, tasks, workers, workflow
from celery_asynctask.console.markup import failed
from celery_asynctask.errors import FilterError, StoreError, logger
from celery_asynctask.web.problem import ProblemError
from celery_asynctask.web.service import Service


def console(service: Service) -> Starlette:
    """The pages of the store that ``service`` reads, below wherever they are mounted."""
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
            *entry.ROUTES,
            Route("/static/{name}", static.file),
        ],
        exception_handlers={
            ProblemError: _of_problem,
            FilterError: _of_filter,
            StoreError: _of_store,
            HTTPException: _of_http,
            Exception: _of_any,
        },
    )
    app.state.asynctask = service
    app.router.redirect_slashes = False
    return app


def _of_problem(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, ProblemError)
    if exc.kind == "unauthenticated":
        return entry.asked(request, exc)
    return failed(request, exc.status, exc.detail, exc.headers)


def _of_filter(request: Request, exc: Exception) -> Response:
    return failed(request, 422, str(exc))


def _of_store(request: Request, exc: Exception) -> Response:
    logger.error("%s", exc)  # the address of a database is not for those who ask
    detail = (
        "The database did not answer this query, which says nothing about the tasks: they may be there all the same. "
        "The server's log says why; try again, or narrow the search."
    )
    return failed(request, 503, detail, {"Retry-After": "5"})


def _of_http(request: Request, exc: Exception) -> Response:
    """Of Starlette's router, or of the function `asynctask_access`: it may lead to where one logs in."""
    assert isinstance(exc, HTTPException)
    headers = exc.headers or {}
    if exc.status_code < 400:
        return Response(None, exc.status_code, headers=headers)
    told = {404: "There is no such page.", 405: f"Allowed here: {headers.get('Allow', '')}."}
    return failed(request, exc.status_code, told.get(exc.status_code, f"{exc.detail}."), headers)


def _of_any(request: Request, _exc: Exception) -> Response:  # Starlette raises it once more: the server logs it
    return failed(request, 500, "It is not your request. The server's log says what it is.")
