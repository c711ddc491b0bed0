"""The OpenAPI document, as those need it who read it and those who generate clients from it."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI

from celery_asynctask.web.parameters import AsyncTaskOrdering
from celery_asynctask.web.problem import MEDIA_TYPE, Problem

DESCRIPTION: Final = """The record of what ran on Celery.

A token (`Authorization: Bearer ...`) has rights, and customers whose tasks it sees; what it does not see does not exist
for it. Values (`taskArgs`, `taskKwargs`, `result`, `content`) are left out without the right `payloads`.

Errors are problem details (RFC 9457), each with a `type` that never changes. Numbers may have 64 bits, values any
precision. An answer with an `ETag` is not sent again to who has it: poll with `If-None-Match`."""
TAGS: Final = [
    {"name": "async-tasks", "description": "What ran, and what was asked for."},
    {"name": "health", "description": "Whether the record is complete."},
]
_PROBLEMS: Final = {
    401: "No credentials, or unknown ones",
    403: "The right is missing, or the request comes from another site",
    404: "There is no such task, or not for this caller",
    409: "The task cannot be sent again; the problem says why",
    413: "The body is too large",
    422: "A parameter, or what is in the body, is not allowed",
    503: "The database, or the broker, does not answer",
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
