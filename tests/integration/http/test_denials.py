"""The denial matrix: each route of the API and the console, for callers with no right, each right and all rights, who
see one creator's tasks of one customer; for tasks of their own, of a colleague, of another customer and of nobody."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from celery import Celery
from fastapi.routing import APIRoute
from httpx import Response
from sqlalchemy import insert, select
from starlette.requests import Request
from starlette.routing import BaseRoute, Mount, Route

from celery_asynctask.core.rights import Right
from celery_asynctask.http import Access
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt
from celery_asynctask.web import share
from tests.integration.http.client import Api, api_over
from tests.integration.oracle import START, add, row

OWN, MISSING = "own", "missing"
OTHERS = ("colleague", "other-customer", "other-customers-colleague", "without-creator", "of-nobody")
"""Tasks that no caller here may see. The creator has the same number at each customer."""
OWNERS = {
    OWN: (42, 1), "colleague": (42, 2), "other-customer": (43, 1), "other-customers-colleague": (43, 2),
    "without-creator": (42, None), "of-nobody": (None, None),
}  # fmt: skip
VALUE, ERROR, FOREIGN = "zqvalue", "zqerror", "zqforeign"
"""In values, in error messages and tracebacks; in all texts of tasks that are not the caller's own."""
GUESS = f"*{FOREIGN[:-1]}?"
"""Finds it; a page shows its search."""
NAME = f"shop.{FOREIGN}"


class Case(NamedTuple):
    """Requests to a route, and whom it answers."""

    rights: set[Right]
    """All of these are needed."""
    query: str = ""
    """``{id}`` and ``{number}`` stand for those of a task."""
    body: dict[str, Any] | None = None
    ok: tuple[int, ...] = (200,)
    """Statuses for who has the rights, for a task of their own."""


READ, ERRORS, PAYLOADS, RERUN = {Right.READ}, {Right.READ, Right.ERRORS}, {Right.READ, Right.PAYLOADS}, Right.RERUN
SEARCHES = (
    Case(READ), Case(READ, "search=customer:43,none"), Case(READ, "search=created_by:2"), Case(READ, "search=error:*"),
    Case(READ, f"search=worker:{GUESS}"), Case(ERRORS, f"search=message:{GUESS}"), Case(ERRORS, "search=-message:x"),
    Case(PAYLOADS, f"search=kwargs.a:{GUESS}"), Case(PAYLOADS, "search=result:none"),
)  # fmt: skip
PURGE = [
    Case(needed, body={"olderThan": "0s", "search": search})
    for needed, search in (
        ({Right.PURGE}, ""), ({Right.PURGE, Right.ERRORS}, "message:x"), ({Right.PURGE, Right.PAYLOADS}, "args.0:x")
    )
]  # fmt: skip
CASES: dict[tuple[str, str], tuple[Case, ...]] = {
    ("GET", "/async-tasks"): (*SEARCHES, Case(READ, "customer=43"), Case(READ, "createdBy=2&ordering=-completedAt")),
    ("GET", "/async-tasks/stats"): SEARCHES,
    ("GET", "/async-tasks/{id}"): (Case(READ), Case(READ, "customer=42")),
    ("GET", "/async-tasks/{id}/attempts"): (Case(READ),),
    ("GET", "/async-tasks/{id}/workflow"): (Case(READ),),
    ("POST", "/async-tasks/{id}/rerun"): (Case({RERUN}, body={"dryRun": True}, ok=(200, 409)),),
    ("POST", "/async-tasks/purge"): tuple(PURGE),
    ("GET", "/health"): (Case(READ),),
    ("GET", "/audit"): (Case({Right.AUDIT}, ok=(403,)),),  # for who sees all tasks
    ("GET", "/console/audit"): (Case({*READ, Right.AUDIT}),),
    ("GET", "/openapi.json"): (Case(READ),),
    ("GET", "/console/"): (Case(READ),),
    ("GET", "/console/tasks"): (*SEARCHES, Case(READ, "columns=error&columns=creator&columns=id")),
    ("GET", "/console/tasks.csv"): SEARCHES,
    ("GET", "/console/tasks.ndjson"): SEARCHES,
    ("GET", "/console/task"): (Case(READ, "id={id}", ok=(302,)),),
    ("GET", "/console/tasks/{id}"): (Case(READ),),
    ("GET", "/console/task/{number}"): (Case(READ, ok=(302,)),),
    ("GET", "/console/tasks/{id}/values/{name}.json"): (Case(PAYLOADS),),
    ("GET", "/console/task/{number}/values/{name}.json"): (Case(PAYLOADS),),
    ("GET", "/console/tasks/{id}/rerun"): (Case({*READ, RERUN}),),
    ("GET", "/console/task/{number}/rerun"): (Case({*READ, RERUN}),),
    ("POST", "/console/tasks/{id}/rerun"): (Case({*READ, RERUN}, ok=(303, 409)),),
    ("POST", "/console/task/{number}/rerun"): (Case({*READ, RERUN}, ok=(303, 409)),),
    ("GET", "/console/tasks/{id}/rerun/sent"): (Case({*READ, RERUN}, "id=colleague"),),
    ("GET", "/console/task/{number}/rerun/sent"): (Case({*READ, RERUN}, "id=other-customer"),),
    ("GET", "/console/tasks/{id}/workflow"): (Case(READ), Case(READ, "view=table"), Case(READ, "view=waterfall")),
    ("GET", "/console/task/{number}/workflow"): (Case(READ),),
    ("GET", "/console/errors"): (Case(ERRORS), Case(PAYLOADS | ERRORS, "search=args.0:x")),
    ("GET", "/console/names"): (Case(READ, "search=since:2020-01-01"), Case(ERRORS, "search=message:x")),
    ("GET", "/console/name"): (Case(READ, "name=shop.charge"), Case(READ, f"name={NAME}", ok=(404,))),
    ("GET", "/console/workers"): (Case(READ),),
}
"""All routes but those of `PUBLIC`."""
PUBLIC = {
    ("GET", "/"), ("GET", "/console"), ("GET", "/console/static/{name}"), ("GET", "/console/sign-in"),
    ("POST", "/console/sign-in"), ("POST", "/console/sign-out"), ("GET", "/ping"),
}  # fmt: skip
"""They show no task."""
CALLERS: dict[str, set[Right] | None] = {
    "nobody": None, "wrong token": None, "no right": set(), **{right.value: {right} for right in Right},
    "read and errors": ERRORS, "read and payloads": PAYLOADS, "all rights": set(Right),
}  # fmt: skip


def access(request: Request) -> Access | None:
    rights = CALLERS.get(request.headers.get("x-who", "nobody"))
    return None if rights is None else Access({42}, frozenset(rights), "", created_by={1})


@pytest.fixture
def numbers(store: Store) -> dict[str, int]:
    """The numbers of the tasks, which are in one workflow."""
    rows, runs = [], []
    for task_id, (customer, creator) in OWNERS.items():
        mark = "" if task_id == OWN else FOREIGN
        value, error = {"a": [f"{VALUE} {mark}"]}, f"{ERROR} {mark}"
        rows.append(
            row(
                task_id,
                name="shop.charge" if task_id == OWN else NAME,
                customer=customer,
                created_by=creator,
                created_by_name=f"Ann {mark}",
                status="FAILURE",
                started_at=START,
                completed_at=START,
                error_type=f"ValueError{mark}",
                error_message=error,
                task_args=[value],
                task_kwargs=value,
                result=value,
                content=value,
                root_task_id=OWN,
                parent_task_id=None if task_id == OWN else OWN,
                trace_id=None if task_id == OWN else FOREIGN,
            )
        )
        about = {"run_key": "0", "name": rows[-1]["name"], "retries": 0, "redelivered": False, "end_key": ""}
        said = {"error_type": rows[-1]["error_type"], "error_message": error}
        lines = f'Traceback:\n  File "/app/{error}.py", line 1, in f\n    f("{ERROR}")\nValueError: {error}'
        whose = {"celery_task_id": task_id, "customer_key": rows[-1]["customer_key"], "traceback": lines}
        where = {"worker": mark or "one", "queue": mark or "celery", "started_at": START, "ended_at": START}
        runs.append({**about, **said, **whose, **where, "outcome": "failed"})
    add(store, rows)
    with store.engine.begin() as connection:
        connection.execute(insert(AsyncTaskAttempt), runs)
        return {
            one.celery_task_id: one.id for one in connection.execute(select(AsyncTask.celery_task_id, AsyncTask.id))
        }


@pytest.fixture
def api(store: Store, shop: Celery, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setattr(share.Rates, "take", lambda *_: None)  # so many requests at once have a rate
    with api_over(store, shop, asynctask_access=access) as made:
        yield made


def routes_of(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Method and path of each route."""
    for route in routes:
        if isinstance(route, Mount):
            yield from routes_of(list(route.routes), prefix + route.path)
        elif (router := getattr(route, "original_router", None)) is not None:  # of newer releases of FastAPI
            yield from routes_of(list(router.routes), prefix)
        else:
            assert isinstance(route, (Route, APIRoute)), route
            path = re.sub(r":\w+}", "}", prefix + route.path)
            yield from ((method, path) for method in route.methods or () if method != "HEAD")


def test_every_route_is_in_the_matrix(api: Api) -> None:
    routes = set(routes_of(api.app.routes))
    documented = {(method.upper(), path) for path, one in api.app.openapi()["paths"].items() for method in one}
    assert routes | documented == CASES.keys() | PUBLIC


def asked(api: Api, who: str, method: str, path: str, case: Case) -> Response:
    headers = {"X-Who": who, **({"Authorization": "Bearer wrong"} if who == "wrong token" else {})}
    more = {} if case.body is None else {"json": case.body}
    return api.ask(method, f"{path}?{case.query}" if case.query else path, None, headers, **more)


@pytest.mark.parametrize("who", CALLERS)
def test_who_is_answered(api: Api, numbers: dict[str, int], who: str) -> None:
    rights = CALLERS[who]
    for (method, template), cases in CASES.items():
        is_of_one = "{id}" in template + cases[0].query or "{number}" in template
        for task_id in (OWN, *OTHERS, MISSING) if is_of_one and rights is not None else (OWN,):
            number = str(numbers.get(task_id, 10**9))
            ids = (task_id, number) if template.startswith("/async-tasks/{id}") else (task_id,)
            for case, written in ((case, written) for case in cases for written in ids):
                path = template.format(id=written, number=number, name="kwargs")
                answer = asked(api, who, method, path, case._replace(query=case.query.replace("{id}", written)))
                expected = case.ok if task_id == OWN else (404,)
                if rights is None:
                    expected = (401,)
                elif not case.rights <= rights:
                    expected = (403,)
                what = (method, path, case, answer.text[:500])
                assert answer.status_code in expected, what
                text = answer.text.replace(NAME, "") if NAME in case.query else answer.text
                assert FOREIGN not in text, what
                assert VALUE not in text or Right.PAYLOADS in (rights or ()), what
                assert ERROR not in text or Right.ERRORS in (rights or ()), what


def test_all_is_seen_by_who_may(api: Api, numbers: dict[str, int]) -> None:
    """The matrix would hold also for pages that show nothing."""
    for path in ("/async-tasks", "/console/tasks.csv", "/console/tasks.ndjson", "/console/tasks/own"):
        text = asked(api, "all rights", "GET", path, CASES["GET", "/async-tasks"][0]).text
        assert VALUE in text, path
        assert ERROR in text, path
    for path in ("/async-tasks/own/attempts", "/async-tasks/own/workflow", "/console/", "/console/errors"):
        assert ERROR in asked(api, "all rights", "GET", path, CASES["GET", "/async-tasks"][0]).text, path


def test_nothing_foreign_is_deleted(api: Api, store: Store, numbers: dict[str, int]) -> None:
    purge = CASES["POST", "/async-tasks/purge"][0]
    for who in CALLERS:
        asked(api, who, "POST", "/async-tasks/purge", purge._replace(body={"olderThan": "0s", "dryRun": False}))
    with store.engine.connect() as connection:
        left = set(connection.scalars(select(AsyncTask.celery_task_id)))
    assert left == numbers.keys() - {OWN}
