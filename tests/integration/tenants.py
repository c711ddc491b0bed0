"""One task of each of two customers and one without a customer, and every route of the HTTP API."""

from __future__ import annotations

from typing import Any

from httpx import Response

from tests.integration.http.client import OURS, THEIRS, Api

MINE, FOREIGN, OF_NOBODY = "mine", "foreign", "of-nobody"
WHOSE = {MINE: OURS, FOREIGN: THEIRS, OF_NOBODY: None}
VALUES = {"taskArgs", "taskKwargs", "result", "content"}
READS = ("", "/attempts", "/workflow")


def routes(task_id: str) -> list[tuple[str, str, Any, str]]:
    """Method, path, body and required right of each route."""
    return [
        ("GET", "/async-tasks", None, "read"),
        ("GET", "/async-tasks/stats", None, "read"),
        ("GET", "/audit", None, "audit"),
        ("GET", "/health", None, "read"),
        ("GET", "/openapi.json", None, "read"),
        *(("GET", f"/async-tasks/{task_id}{below}", None, "read") for below in READS),
        ("POST", f"/async-tasks/{task_id}/rerun", {"dryRun": True}, "rerun"),
        ("POST", "/async-tasks/purge", {"olderThan": "1d"}, "purge"),
    ]


def ask(api: Api, route: tuple[str, str, Any, str], who: str | None, headers: Any = ()) -> Response:
    method, path, body, _ = route
    return api.ask(method, path, who, headers, **({} if body is None else {"json": body}))
