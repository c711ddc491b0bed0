"""Errors as RFC 9457 problem details: a stable ``type``, the status, and a detail that says what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema
from starlette.exceptions import HTTPException

from celery_asynctask.errors import AuditError, NoDirectoryError, NoTablesError, StoreError, logger

MEDIA_TYPE: Final = "application/problem+json"
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every answer."""
TITLES: Final = {
    "invalid-parameter": "Invalid parameter",
    "unauthenticated": "Credentials required",
    "too-many-requests": "Rate limit exceeded",
    "credentials-unavailable": "Credentials unavailable",
    "forbidden": "Not allowed",
    "cross-site": "Cross-site request",
    "not-found": "Not found",
    "method-not-allowed": "Method not allowed",
    "refused": "Refused",
    "database-unavailable": "Database unavailable",
    "audit-unavailable": "Audit unavailable",
    "busy": "Too many requests",
    "too-large": "Body too large",
    "headers-too-large": "Headers too large",
    "invalid-request": "Not HTTP",
    "timeout": "Request not complete",
    "broker-unavailable": "Broker unavailable",
    "internal-error": "Internal error",
}
"""Titles of the problem types, whose names never change."""


NO_TABLES: Final = (
    "This database has no tables yet. Start a worker, which creates them with the first task that it stores, or run "
    "`celery -A APP asynctask upgrade`, which needs celery-asynctask[migrations]. The server's log names the database."
)
NO_DIRECTORY: Final = (
    "The directory of the database's file does not exist, so nothing can be recorded there. Create it, or correct "
    "asynctask_url. The server's log names it."
)
NO_AUDIT: Final = (
    "Not done: this is audited, and the audit cannot be written. The server's log says why; try again later."
)


class Problem(BaseModel):
    """An error, as RFC 9457 defines it."""

    type: str = Field(description="Stable name of the problem type, a URN")
    title: str = Field(description="Title of the problem type")
    status: int = Field(description="HTTP status code")
    detail: str = Field(description="What happened, and what to do")
    parameter: str | SkipJsonSchema[None] = Field(default=None, description="Name of the invalid parameter or field")


class ProblemError(Exception):
    """Ends a request with a problem; ``kind`` is a key of `TITLES`."""

    def __init__(
        self, kind: str, status: int, detail: str, *, parameter: str | None = None, headers: Mapping[str, str] = {}
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status = status
        self.detail = detail
        self.parameter = parameter
        self.headers = dict(headers)

    def response(self) -> JSONResponse:
        """The problem as an answer."""
        content = Problem(
            type=f"urn:problem-type:celery-asynctask:{self.kind}",
            title=TITLES[self.kind],
            status=self.status,
            detail=self.detail,
            parameter=self.parameter,
        ).model_dump(exclude_none=True)
        return JSONResponse(content, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def invalid(parameter: str, detail: str) -> ProblemError:
    """The problem of a parameter, or of a field of a body, that is not allowed."""
    return ProblemError("invalid-parameter", 422, detail, parameter=parameter)


def not_found(detail: str) -> ProblemError:
    """The problem of what does not exist, or not for this caller."""
    return ProblemError("not-found", 404, detail)


def _of_http(_request: Request, exc: Exception) -> JSONResponse:
    """Answers errors of Starlette's router and of the function `asynctask_access`."""
    assert isinstance(exc, HTTPException)
    if exc.status_code == 405:
        allowed = (exc.headers or {}).get("Allow", "")
        detail = f"Allowed methods: {allowed}."
        return ProblemError("method-not-allowed", 405, detail, headers=exc.headers or {}).response()
    if exc.status_code == 404:
        return not_found("This path does not exist. openapi.json lists all paths.").response()
    if exc.status_code in (401, 403):  # of that function
        kind = "unauthenticated" if exc.status_code == 401 else "forbidden"
        return ProblemError(kind, exc.status_code, f"{exc.detail}.", headers=exc.headers or {}).response()
    if exc.status_code == 400:  # a body that is not JSON, or not in UTF-8
        return invalid("body", f"{exc.detail}.").response()
    # Any other status is that function's own: a redirect to a login, a rate limit.
    title = HTTPStatus(exc.status_code).phrase
    content = {"type": "about:blank", "title": title, "status": exc.status_code, "detail": str(exc.detail)}
    return JSONResponse(content, exc.status_code, headers=exc.headers, media_type=MEDIA_TYPE)


def _of_validation(_request: Request, exc: Exception) -> JSONResponse:
    """The first error that FastAPI found. Its place is such as ``("query", "limit")``, with more parts for an item of a
    list or a union of types."""
    assert isinstance(exc, RequestValidationError)
    first = exc.errors()[0]
    # For a body that is not JSON, the second part is the position of a character.
    named = len(first["loc"]) > 1 and first["type"] != "json_invalid"
    parameter = str(first["loc"][1 if named else 0])
    return invalid(parameter, f"{parameter}: {first['msg'].removeprefix('Value error, ')}.").response()


Handlers = dict[type[Exception], Callable[[Request, Exception], Response]]


def handlers(answer: Callable[[Request, ProblemError], Response], unreadable: str) -> Handlers:
    """The exception handlers that the API and the console share. ``answer`` makes the response to a problem;
    ``unreadable`` is the detail where the database cannot be read."""

    def of_ours(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, ProblemError)
        return answer(request, exc)

    def of_store(request: Request, exc: Exception) -> Response:
        logger.error("%s", exc)  # callers must not learn the address of the database
        if isinstance(exc, AuditError):
            return answer(request, ProblemError("audit-unavailable", 503, NO_AUDIT, headers={"Retry-After": "5"}))
        detail = unreadable
        if isinstance(exc, NoTablesError):
            detail = NO_TABLES
        elif isinstance(exc, NoDirectoryError):
            detail = NO_DIRECTORY
        return answer(request, ProblemError("database-unavailable", 503, detail, headers={"Retry-After": "5"}))

    def of_any(request: Request, _exc: Exception) -> Response:  # Starlette raises it again, and the server logs it
        detail = "The fault is in this server, not in your request. The server's log has the details."
        # Starlette sends this answer outside all middleware, which would add the headers.
        return answer(request, ProblemError("internal-error", 500, detail, headers=HEADERS))

    return {ProblemError: of_ours, StoreError: of_store, Exception: of_any}


HANDLERS: Final[Handlers] = {
    **handlers(
        lambda _, problem: problem.response(),
        "The database could not be queried. Your tasks may be fine. The server's log says why; try again later.",
    ),
    RequestValidationError: _of_validation,
    HTTPException: _of_http,
}
"""The API's exception handlers: every error becomes a problem."""
