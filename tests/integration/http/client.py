"""The HTTP API over a store, called in this process, by callers of every kind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

from celery import Celery
from httpx import ASGITransport, AsyncClient, Response

from celery_asynctask.core.tokens import hashed
from celery_asynctask.http import create_app, openapi
from celery_asynctask.store import Store
from celery_asynctask.web.problem import HEADERS, MEDIA_TYPE, TITLES
from tests.histories import HISTORIES, about, lines, variant
from tests.integration.statements import statements_of
from tests.tokens import token_of

ADMIN = "admin"
"""Sees all tasks and has all rights."""
RIGHTS = ("read", "errors", "payloads", "rerun", "purge")
OURS, THEIRS = 42, 43
"""Customers."""


def grant(name: str, customers: Any = "*", rights: tuple[str, ...] = RIGHTS, **more: Any) -> dict[str, Any]:
    """The grant of a caller's token."""
    return {"sha256": hashed(token_of(name)), "customers": customers, "rights": rights, **more}


TOKENS: Mapping[str, Mapping[str, Any]] = {
    ADMIN: grant(ADMIN, rights=(*RIGHTS, "audit")),
    "reader": grant("reader", rights=("read",)),
    "ours": grant("ours", [OURS]),
    "ours-of-7": grant("ours-of-7", [OURS], created_by=[7]),
    "theirs": grant("theirs", [THEIRS]),
    "both": grant("both", [OURS, THEIRS]),
    "nobody": grant("nobody", []),
    "ours-read": grant("ours-read", [OURS], ("read",)),
    "ours-failures": grant("ours-failures", [OURS], ("read", "errors")),
    "ours-errors": grant("ours-errors", [OURS], ("errors",)),
    "ours-payloads": grant("ours-payloads", [OURS], ("payloads",)),
    "ours-rerun": grant("ours-rerun", [OURS], ("rerun",)),
    "ours-purge": grant("ours-purge", [OURS], ("purge",)),
    "ours-none": grant("ours-none", [OURS], ()),
}


@cache
def _document() -> dict[str, Any]:
    """The OpenAPI document, made once: that takes longer than most tests."""
    app = Celery("document", broker="memory://", set_as_current=False)
    made: dict[str, Any] = create_app(app).openapi()
    app.close()
    return made


class Api:
    """The application over a store; ``settings`` are keys of the Celery configuration."""

    def __init__(
        self,
        store: Store,
        celery: Celery | None = None,
        *,
        loopback: bool = False,
        local: bool = False,
        **settings: Any,
    ) -> None:
        self.own = celery is None
        self.celery = celery or Celery("api", broker="memory://", set_as_current=False)
        self.celery.conf.update({"asynctask_url": store.settings.url, "asynctask_tokens": TOKENS, **settings})
        document = _document()
        with mock.patch.object(openapi, "describe", lambda api: setattr(api, "openapi", lambda: document)):
            self.app = create_app(self.celery, loopback=loopback, local=local)
        self.loop = asyncio.new_event_loop()

    def ask(self, method: str, path: str, who: str | None = ADMIN, headers: Any = (), **more: Any) -> Response:
        """The answer to a request of a caller of `TOKENS`, or of nobody; every answer has our headers."""
        given = dict(headers)
        if who is not None:
            given.setdefault("Authorization", f"Bearer {token_of(who)}")
        answer = self.loop.run_until_complete(self._asked(method, path, headers=given, **more))
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS, answer
        return answer

    async def _asked(self, method: str, path: str, **more: Any) -> Response:
        transport = ASGITransport(self.app, raise_app_exceptions=False)
        async with AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **more)

    def get(self, path: str, who: str | None = ADMIN, headers: Any = (), **parameters: Any) -> Response:
        return self.ask("GET", path, who, headers, params=parameters)

    def post(self, path: str, who: str | None = ADMIN, headers: Any = (), **body: Any) -> Response:
        return self.ask("POST", path, who, headers, json=body)

    def ok(self, path: str, who: str | None = ADMIN, **parameters: Any) -> Any:
        """The JSON of a 200."""
        answer = self.get(path, who, **parameters)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        return answer.json()

    def ids(self, who: str | None = ADMIN, **parameters: Any) -> list[str]:
        """Celery ids of the tasks of one page."""
        return [one["celeryTaskId"] for one in self.ok("/async-tasks", who, **parameters)["results"]]

    def close(self) -> None:
        self.app.state.asynctask.close()
        self.loop.close()
        if self.own:
            self.celery.close()


@contextmanager
def api_over(store: Store, celery: Celery | None = None, **more: Any) -> Iterator[Api]:
    """The application; afterwards none of its connections is in use."""
    made = Api(store, celery, **more)
    try:
        yield made
        reader = made.app.state.asynctask._reader
        if "engine" in reader.__dict__:
            assert reader.engine.pool.checkedout() == 0, "a connection was not given back"
    finally:
        made.close()


def is_problem(answer: Response, kind: str, status: int, parameter: str | None = None) -> str:
    """Assert that an answer is a problem of that kind; its detail."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, MEDIA_TYPE), answer.text
    problem = answer.json()
    expected = {"type": f"urn:problem-type:celery-asynctask:{kind}", "title": TITLES[kind], "status": status}
    if parameter is not None:
        expected["parameter"] = parameter
    assert {name: value for name, value in problem.items() if name != "detail"} == expected
    assert problem["detail"].endswith((".", "…"))
    return str(problem["detail"])


@contextmanager
def statements(api: Api) -> Iterator[list[str]]:
    """The statements sent to the database meanwhile, without those that open a connection."""
    with statements_of(api.app.state.asynctask.reader.engine) as sent:
        yield sent


def tell(store: Store, task_id: str, customer: int | str | None, **more: Any) -> None:
    """Store a succeeded task of a customer."""
    key = "customer_key" if isinstance(customer, str) else "customer"
    whose = {} if customer is None else {key: customer}
    history = about(HISTORIES["success"](), task_id)
    store.write(
        lines(
            variant(one, **({"root": task_id, "parent": None, **more} if one.get("asked") else {}), **whose)
            for one in history
        )
    )
