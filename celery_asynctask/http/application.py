"""`create_app`: the ASGI application, to be mounted in another or served alone."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from celery_asynctask import __version__
from celery_asynctask.console import console
from celery_asynctask.core.accounting import counts
from celery_asynctask.core.rights import Right
from celery_asynctask.http import actions, openapi, tasks
from celery_asynctask.present.ledger import verdict
from celery_asynctask.settings import Settings
from celery_asynctask.store.tables import SCHEMA_VERSION
from celery_asynctask.web import schema
from celery_asynctask.web.answer import json_response
from celery_asynctask.web.problem import HANDLERS, HEADERS, ProblemError
from celery_asynctask.web.service import Caller, Service, needing

MAX_BODY: Final = 65_536
"""Bytes of a request."""
_health: Final = APIRouter(tags=["health"])


def create_app(celery: Any, *, settings: Settings | None = None, loopback: bool = False) -> FastAPI:
    """The API of the store that the Celery app ``celery`` is configured for.

    ``settings``: in place of the app's own. ``loopback``: whoever serves it listens to this host alone, so that without
    credentials it may be read; leave it where it is mounted. The database is reached when it is first asked for.
    Raises `SettingsError`.
    """
    settings = settings or Settings.from_app(celery)
    api = FastAPI(
        title="celery-asynctask",
        description=openapi.DESCRIPTION,
        openapi_tags=openapi.TAGS,
        license_info={"name": "MIT", "identifier": "MIT"},
        version=__version__,
        docs_url=None,  # its page is fetched from elsewhere
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    api.state.asynctask = Service(celery, settings, loopback=loopback)
    bearer = HTTPBearer(auto_error=False, scheme_name="token", description="A token of `asynctask_tokens`")
    # Actions first: who asks what may be done with /async-tasks/purge is not told of the task of that id.
    for router in (actions.router, tasks.router, _health):
        api.include_router(router, dependencies=[Depends(bearer)], responses=openapi.problems())
    may_read = Depends(needing(Right.READ))
    api.add_api_route("/openapi.json", _openapi, include_in_schema=False, dependencies=[may_read])
    for path in ("/", "/console"):
        api.add_route(path, _to_console, include_in_schema=False)
    api.mount("/console", console(api.state.asynctask))
    for kind, answer in HANDLERS.items():
        api.add_exception_handler(kind, answer)
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
def health(caller: Annotated[Caller, Depends(needing(Right.READ))]) -> Response:
    """Whether the database can be read, and what became of the events of all processes; updated every five seconds at
    most."""
    reader = caller.reader
    reader.check_schema()
    ledger = None
    if caller.access.customers is None:  # events are of processes, not of customers
        found = caller.health().ledger
        ledger = schema.Ledger.of(found, sentence=verdict(found), **counts(found))
    return json_response({"schema_version": SCHEMA_VERSION, "ledger": ledger})


def _openapi(request: Request) -> JSONResponse:
    """The document itself, for whoever may read; its paths are below where the application is mounted."""
    prefix = request.scope.get("root_path", "")
    servers = {"servers": [{"url": prefix}]} if prefix else {}
    return JSONResponse({**request.app.openapi(), **servers})


async def _to_console(request: Request) -> RedirectResponse:
    """Whoever opens the address in a browser is shown something."""
    return RedirectResponse(f"{request.scope.get('root_path', '')}/console/", 307)


class _Frame:
    """Puts `HEADERS` on every answer, those to errors too, and refuses bodies that are too large for what is asked here
    before they are read: FastAPI reads them before it looks who asks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "GET":
            await self._app(scope, receive, sent)
            return
        body = await _body(scope, receive)
        if body is None:
            detail = f"The body is larger than {MAX_BODY:,} bytes. Send a smaller one."
            await ProblemError("too-large", 413, detail).response()(scope, receive, sent)
            return
        parts = iter([body])

        async def replayed() -> Message:
            return next(parts, None) or await receive()

        await self._app(scope, replayed, sent)


async def _body(scope: Scope, receive: Receive) -> Message | None:
    """All of a request's body, or what came in its place; None: it is too large."""
    length = Headers(scope=scope).get("content-length", "")
    if length.isdecimal() and int(length) > MAX_BODY:
        return None
    read = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return message
        read += message.get("body", b"")
        if len(read) > MAX_BODY:
            return None
        if not message.get("more_body"):
            return {"type": "http.request", "body": read, "more_body": False}
