"""`create_app`: the ASGI application of the API and the console, to be served alone or mounted in another one."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from celery_asynctask import __version__
from celery_asynctask.console import console
from celery_asynctask.core.accounting import by_host, counts
from celery_asynctask.core.rights import Right
from celery_asynctask.http import actions, audit, openapi, tasks
from celery_asynctask.present.ledger import verdict
from celery_asynctask.settings import Settings
from celery_asynctask.store.tables import SCHEMA_VERSION
from celery_asynctask.web import schema
from celery_asynctask.web.answer import json_response
from celery_asynctask.web.cookies import MAX_COOKIES, cheap
from celery_asynctask.web.problem import HANDLERS, HEADERS, ProblemError, invalid
from celery_asynctask.web.service import Caller, Service, needing

MAX_BODY: Final = 65_536
"""Bytes of a request's body."""
MAX_QUERY: Final = 32_768
"""Bytes of the query in an address: more than the longest search takes."""
MAX_PARAMETERS: Final = 100
"""Parameters of a query."""
_health: Final = APIRouter(tags=["health"])


def create_app(
    celery: Any,
    *,
    settings: Settings | None = None,
    loopback: bool = False,
    local: bool = False,
    from_elsewhere: bool = False,
) -> FastAPI:
    """The API and the console over the store that the Celery app ``celery`` is configured for.

    ``settings`` replaces the app's own. ``loopback`` says that the server listens to this host alone, and that without
    credentials everybody on it may read; ``local``, in its place, lets only the user who runs it in. Leave both out
    where the application is mounted. ``from_elsewhere`` lets callers rerun tasks although ``settings`` lead to another
    record than the app's. The first request connects to the database. Raises `SettingsError`.
    """
    settings = settings or Settings.from_app(celery)
    api = FastAPI(
        title="celery-asynctask",
        description=openapi.DESCRIPTION,
        openapi_tags=openapi.TAGS,
        license_info={"name": "MIT", "identifier": "MIT"},
        version=__version__,
        docs_url=None,  # FastAPI's page loads scripts from another host
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    api.state.asynctask = Service(celery, settings, loopback=loopback, local=local, from_elsewhere=from_elsewhere)
    bearer = HTTPBearer(auto_error=False, scheme_name="token", description="A token of `asynctask_tokens`")
    # Actions first: /async-tasks/purge must not match the route of a task with that id.
    for router in (actions.router, tasks.router, audit.router, _health):
        api.include_router(router, dependencies=[Depends(bearer)], responses=openapi.problems())
    may_read = Depends(needing(Right.READ))
    api.add_api_route("/openapi.json", _openapi, include_in_schema=False, dependencies=[may_read])
    for path in ("/", "/console"):
        api.add_route(path, _to_console, include_in_schema=False)
    api.add_route("/ping", _ping, include_in_schema=False)
    api.mount("/console", console(api.state.asynctask))
    for kind, handler in HANDLERS.items():
        api.add_exception_handler(kind, handler)
    api.add_middleware(_Frame)
    openapi.describe(api)
    return api


@_health.get(
    "/health",
    operation_id="health_retrieve",
    summary="Health of the record",
    response_model=schema.Health,
    response_description="The database can be read",
)
async def health(caller: Annotated[Caller, Depends(needing(Right.READ))]) -> Response:
    """Whether the database can be read, and what became of the events of all processes; updated every five seconds at
    most."""
    return await caller.run(partial(_health_of, caller))


def _health_of(caller: Caller) -> Response:
    reader = caller.reader
    reader.check_schema()
    ledger = None
    if caller.sees_all:  # events belong to processes, not to customers
        total = caller.health().ledger
        ledger = schema.Ledger.of(
            total,
            sentence=verdict(total),
            **{**counts(total), "unknown": by_host(total.unknown), "accepted_unknown": by_host(total.accepted_unknown)},
        )
    return json_response({"schema_version": SCHEMA_VERSION, "ledger": ledger})


def _openapi(request: Request) -> JSONResponse:
    """The OpenAPI document, for callers who may read; its server is where the application is mounted."""
    prefix = request.scope.get("root_path", "")
    servers = {"servers": [{"url": prefix}]} if prefix else {}
    return JSONResponse({**request.app.openapi(), **servers})


async def _to_console(request: Request) -> RedirectResponse:
    """The address of the application, opened in a browser, leads to the console."""
    return RedirectResponse(f"{request.scope.get('root_path', '')}/console/", 307)


async def _ping(_request: Request) -> Response:
    """For load balancers, who have no token: this process answers. Of the database it says nothing."""
    return Response(status_code=204)


class _Frame:
    """Sets `HEADERS` on every answer, errors included, and refuses what would cost much before the caller is
    authenticated, because FastAPI parses it: many cookies or parameters, and bodies over `MAX_BODY`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = cheap(scope["headers"])
        if headers is None:
            detail = f"The cookies are larger than {MAX_COOKIES:,} bytes. Delete those of this host, and try again."
            await ProblemError("headers-too-large", 431, detail).response()(scope, receive, send_with_headers)
            return
        query = scope["query_string"]
        if len(query) > MAX_QUERY or query.count(b"&") >= MAX_PARAMETERS:
            detail = f"The query is larger than {MAX_QUERY:,} bytes or {MAX_PARAMETERS} parameters. Shorten it."
            await invalid("query", detail).response()(scope, receive, send_with_headers)
            return
        scope = {**scope, "headers": headers} if headers is not scope["headers"] else scope
        if scope["method"] == "GET":
            await self._app(scope, receive, send_with_headers)
            return
        body = await _body(scope, receive)
        if body is None:
            detail = f"The body is larger than {MAX_BODY:,} bytes. Send a smaller one."
            await ProblemError("too-large", 413, detail).response()(scope, receive, send_with_headers)
            return
        if body["type"] == "http.disconnect":
            return
        parts = iter([body])

        async def replayed() -> Message:
            return next(parts, None) or await receive()

        await self._app(scope, replayed, send_with_headers)


async def _body(scope: Scope, receive: Receive) -> Message | None:
    """The body of a request as one message, or the message that came instead (a disconnect); None: it is too large."""
    length = Headers(scope=scope).get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > MAX_BODY):  # Python reads no more than 4,300 digits
        return None
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return message
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            return None
        if not message.get("more_body"):
            return {"type": "http.request", "body": body, "more_body": False}
