"""The OpenAPI document, as those need it who read it and those who generate clients from it."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI

from celery_asynctask.web.parameters import AsyncTaskOrdering
from celery_asynctask.web.problem import MEDIA_TYPE, Problem

DESCRIPTION: Final = """The record of what ran on Celery.

A token (`Authorization: Bearer ...`) has rights and customers. Tasks of other customers do not exist for it. Without
the right `payloads`, values (`taskArgs`, `taskKwargs`, `result`, `content`) are left out.

Errors are problem details (RFC 9457), each with a stable `type`. Numbers may have 64 bits, values any precision. To
poll, send the `ETag` of the last answer in `If-None-Match`: an unchanged answer is a 304 without a body."""
TAGS: Final = [
    {"name": "async-tasks", "description": "Recorded tasks: created, running and ended."},
    {"name": "health", "description": "Whether the record is complete."},
]
_PROBLEMS: Final = {
    401: "No credentials, or invalid ones",
    403: "The right is missing, or the request comes from another site",
    404: "No such task, or not visible to this caller",
    409: "The task cannot be rerun; the problem says why",
    413: "The body is too large",
    422: "Invalid parameter or body",
    503: "The database or the broker is unavailable",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route, or of a router: the problems that it may answer with besides those of all routes."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {one: {"description": _PROBLEMS[one], "content": content} for one in sorted({401, 403, 422, 503, *statuses})}


def describe(api: FastAPI) -> None:
    """Make the document, once, of all routes that ``api`` has by now."""
    made = api.openapi()
    schemas = made["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, of errors that `problem` answers
        schemas.pop(name, None)
    schemas["Problem"] = Problem.model_json_schema()
    schemas["AsyncTaskOrdering"]["x-enum-varnames"] = [one.name for one in AsyncTaskOrdering]
    made["paths"] = dict(sorted(made["paths"].items()))
    operations = [one for path in made["paths"].values() for one in path.values()]
    titled = [parameter["schema"] for one in operations for parameter in one.get("parameters", ())]
    for schema in schemas.values():
        titled += [schema, *schema.get("properties", {}).values()]
    for one in titled:  # such as Createdbyname, which Pydantic makes of a name
        one.pop("title", None)
