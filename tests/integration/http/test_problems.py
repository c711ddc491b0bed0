"""Problems of every kind that the HTTP API answers with; none reveals anything of the server."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from celery_asynctask.http import tasks
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.web.problem import TITLES
from tests.integration.http.client import Api, api_over, is_problem
from tests.pace import patience

LIST = "/async-tasks"

pytestmark = pytest.mark.usefixtures("two_tenants")


def test_paths_and_methods_that_there_are_not(api: Api) -> None:
    for path in ("/nothing", "/async-tasks/", "/async-tasks/ours/", "/async-tasks/ours/nothing", "/docs"):
        for who in ("admin", None):
            is_problem(api.get(path, who), "not-found", 404)
    for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE"):
        answer = api.ask(method, LIST)
        assert "GET" in is_problem(answer, "method-not-allowed", 405)
        assert answer.headers["allow"] == "GET"
    assert api.ask("OPTIONS", LIST).status_code == 405


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b'"x"', b"null", b"\xff\xfe", b"{}" * 2, b'{"a":1,}'])
def test_bodies_that_are_none(api: Api, body: bytes) -> None:
    for path in (f"{LIST}/ours/rerun", f"{LIST}/purge"):
        if body in (b"", b"null") and path.endswith("/rerun"):
            continue  # an empty one means the defaults; null does to FastAPI 0.133, later releases refuse it
        is_problem(
            api.ask("POST", path, headers={"Content-Type": "application/json"}, content=body),
            "invalid-parameter",
            422,
            "body",
        )


@pytest.mark.every_database
def test_a_database_that_is_away(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Never an empty list; its address and the reason are in the log alone."""
    url = {
        "sqlite": "sqlite:////nowhere/secret.db",
        "postgresql": "postgresql+psycopg://user:hunter2@127.0.0.1:9/secret",
        "mysql": "mysql+pymysql://user:hunter2@127.0.0.1:9/secret",
    }[store.engine.dialect.name]
    with api_over(store, asynctask_url=url) as api:
        for path in (
            LIST,
            f"{LIST}/stats",
            f"{LIST}/ours",
            f"{LIST}/ours/attempts",
            f"{LIST}/ours/workflow",
            "/health",
        ):
            answer = api.get(path)
            detail = is_problem(answer, "database-unavailable", 503)
            assert "secret" not in detail
            assert answer.headers["retry-after"] == "5"
            assert ("The directory of the database's file" in detail) == ("sqlite" in url)
        for path, body in ((f"{LIST}/ours/rerun", {}), (f"{LIST}/purge", {"olderThan": "1d"})):
            is_problem(api.post(path, **body), "database-unavailable", 503)
        assert api.get("/openapi.json").status_code == 200, "it needs none"
    assert "secret" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_database_without_tables_and_when_it_has_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The server need not be restarted."""
    made = Store(Settings(url=f"sqlite:///{tmp_path / 'rows.db'}"))
    with api_over(made) as api:
        is_problem(api.get(LIST), "database-unavailable", 503)
        assert "There is no database file" in caplog.text
        made.engine.connect().close()
        assert "celery -A APP asynctask upgrade" in is_problem(api.get(LIST), "database-unavailable", 503)
        assert "has no tables" in caplog.text
        made.prepare()
        assert api.ids() == []
    made.close()


@pytest.mark.every_database
def test_a_database_that_comes_back(store: Store, api: Api) -> None:
    """Tables that disappear while the server runs, and come back."""
    assert len(api.ids()) == 2
    with store.engine.begin() as connection:
        connection.execute(text("ALTER TABLE async_task RENAME TO elsewhere"))
    try:
        is_problem(api.get(LIST), "database-unavailable", 503)
        is_problem(api.get("/async-tasks/stats"), "database-unavailable", 503)
    finally:
        with store.engine.begin() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO async_task"))
    assert len(api.ids()) == 2


@pytest.mark.every_database
def test_a_query_that_takes_too_long(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_asynctask.web.service.QUERY_SECONDS", 0.2)
    slow = {
        "postgresql": "SELECT pg_sleep(3600)",
        "mysql": "SELECT SLEEP(3600)",
        "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
    }[store.engine.dialect.name]

    def page(_reader: Any, session: Any, *_: Any, **__: Any) -> Any:
        session.execute(text(slow))
        raise AssertionError("it was not stopped")

    monkeypatch.setattr(tasks, "page", page)
    with api_over(store) as api:
        begun = dt.datetime.now(dt.timezone.utc)
        is_problem(api.get(LIST), "database-unavailable", 503)
        assert dt.datetime.now(dt.timezone.utc) - begun < dt.timedelta(seconds=patience(5))
        assert api.ok("/health")["schemaVersion"], "the next one is answered"


def test_an_error_of_ours(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def page(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret")

    monkeypatch.setattr(tasks, "page", page)
    assert "secret" not in is_problem(api.get(LIST), "internal-error", 500)


def test_types_of_problems_never_change() -> None:
    assert TITLES.keys() == {
        "invalid-parameter", "unauthenticated", "forbidden", "cross-site", "not-found", "method-not-allowed", "refused",
        "database-unavailable", "broker-unavailable", "internal-error", "busy", "too-large", "headers-too-large",
        "invalid-request", "timeout", "audit-unavailable", "too-many-requests", "credentials-unavailable",
    }  # fmt: skip
