"""The OpenAPI document, for readers and for client generators."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI

from celery_asynctask.web.parameters import AsyncTaskOrdering
from celery_asynctask.web.problem import MEDIA_TYPE, Problem

DESCRIPTION: Final = """The record of what ran on Celery.

A token (`Authorization: Bearer ...`) has rights and customers. Tasks of other customers do not exist for it. Without
the right `payloads`, values (`taskArgs`, `taskKwargs`, `result`, `content`) are left out; without the right `errors`,
`errorMessage` and `traceback`.

Errors are problem details (RFC 9457), each with a stable `type`. Numbers may have 64 bits, values any precision. To
poll, send the `ETag` of the last answer in `If-None-Match`: an unchanged answer is a 304 without a body."""
TAGS: Final = [
    {"name": "async-tasks", "description": "Recorded tasks: created, running and ended."},
    {"name": "audit", "description": "Who did what."},
    {"name": "health", "description": "Whether the record is complete."},
]
_PROBLEMS: Final = {
    401: "No credentials, or invalid ones",
    403: "The right is missing, or the request comes from another site",
    404: "No such task, or not visible to this caller",
    409: "The task cannot be rerun; the problem says why",
    413: "The body is too large",
    422: "Invalid parameter or body",
    429: "Too many requests of this caller, or failed sign-ins; Retry-After says when to try again",
    503: "The database, the broker or the configured tokens are unavailable",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route or router: the problems of all routes, and those of the given statuses."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    every = sorted({401, 403, 422, 429, 503, *statuses})
    return {status: {"description": _PROBLEMS[status], "content": content} for status in every}


def describe(api: FastAPI) -> None:
    """Make the document once, of all routes that ``api`` has so far."""
    document = api.openapi()
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own; `web.problem` answers these errors
        schemas.pop(name, None)
    schemas["Problem"] = Problem.model_json_schema()
    schemas["AsyncTaskOrdering"]["x-enum-varnames"] = [order.name for order in AsyncTaskOrdering]
    document["paths"] = dict(sorted(document["paths"].items()))
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    titled = [parameter["schema"] for operation in operations for parameter in operation.get("parameters", ())]
    for schema in schemas.values():
        titled += [schema, *schema.get("properties", {}).values()]
    for described in titled:  # Pydantic makes titles of names, such as Createdbyname
        described.pop("title", None)
