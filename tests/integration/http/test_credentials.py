"""Callers without a token: by the user's function, or on this host without credentials; no token is logged."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from fastapi import HTTPException, Request

from celery_asynctask.errors import SettingsError
from celery_asynctask.http import Access, Right, create_app
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.integration.http.client import OURS, RIGHTS, THEIRS, TOKENS, api_over, is_problem
from tests.integration.tenants import FOREIGN, MINE, VALUES, ask, routes
from tests.tokens import token_of

# -- the user's function


async def by_cookie(request: Request) -> Access | None:
    """The function of an application with sessions."""
    who = request.cookies.get("who")
    return None if who is None else Access(customers={int(who)}, rights=set(RIGHTS), name=f"user {who}")


def by_header(request: Request) -> Access | None:
    who = request.headers.get("x-who")
    return None if who is None else Access(customers=[int(who)], rights=["read"])  # type: ignore[arg-type]


def test_a_function_says_who_it_is(one_store: Store) -> None:
    """Where it returns None, a token counts."""
    with api_over(one_store, asynctask_access=by_cookie) as api:
        cookie = {"Cookie": f"who={OURS}"}
        assert [one["celeryTaskId"] for one in api.get("/async-tasks", None, cookie).json()["results"]] == [MINE]
        is_problem(api.get(f"/async-tasks/{FOREIGN}", None, cookie), "not-found", 404)
        is_problem(api.get("/async-tasks", None), "unauthenticated", 401)
        assert len(api.ids()) == 3
        is_problem(api.post("/async-tasks/purge", None, {**cookie, "Origin": "https://evil"}), "cross-site", 403)
    with api_over(one_store, asynctask_access=f"{__name__}.by_header", asynctask_tokens=None) as api:
        shown = api.get(f"/async-tasks/{FOREIGN}", None, {"X-Who": str(THEIRS)}).json()
        assert shown["customer"] == THEIRS
        assert VALUES & shown.keys() == set()
        is_problem(api.get("/async-tasks", None), "unauthenticated", 401)
        is_problem(api.get("/async-tasks"), "unauthenticated", 401)


async def by_header_of_no_number(_request: Request) -> Access:
    return Access(customers=[float("nan")])  # type: ignore[list-item]


def refuse(_request: Request) -> Access:
    raise HTTPException(403, "Your account is closed")


@pytest.mark.parametrize(
    "says",
    [
        lambda _: True,
        lambda _: {"customers": None},
        lambda _: "admin",
        lambda _: frozenset(RIGHTS),
        lambda _: Access,
        lambda _: 1 / 0,
        lambda _: {[]},
    ],
)
def test_a_function_that_fails_opens_nothing(one_store: Store, says: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Not even for the holder of a token: what it would have returned is not known."""
    with api_over(one_store, asynctask_access=says) as api, caplog.at_level(logging.CRITICAL):
        for route in routes(MINE):
            is_problem(ask(api, route, "admin"), "internal-error", 500)


@pytest.mark.parametrize(
    "says",
    [
        lambda _: Access(customers={2**70}),
        lambda _: Access(customers={None}),  # type: ignore[arg-type]
        lambda _: Access(customers={""}),
        lambda _: Access(customers="*"),
        lambda _: Access(customers=range(20_000)),
        lambda _: Access(None, created_by={2**70}),
        lambda _: Access(rights={"everything"}),
        lambda _: Access(name=None),  # type: ignore[arg-type]
        by_header_of_no_number,
    ],
)
def test_an_id_that_is_none_is_a_refusal(one_store: Store, says: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It is as likely what a user has as a bug; the log says what it is. A token does not help: who it is, is not
    known."""
    with api_over(one_store, asynctask_access=says) as api:
        for route in routes(MINE):
            is_problem(ask(api, route, "admin"), "forbidden", 403)
        assert api.get("/console/", "admin").status_code == 403
    lines = [one.getMessage() for one in caplog.records]
    assert len(lines) == len(routes(MINE)) + 1
    assert all(line.startswith("asynctask_access: an Access was refused: ") and len(line) < 300 for line in lines)


def test_a_function_may_refuse_in_its_own_words(one_store: Store) -> None:
    with api_over(one_store, asynctask_access=refuse) as api:
        assert "Your account is closed" in is_problem(api.get("/async-tasks"), "forbidden", 403)


def test_a_function_that_is_not_there(one_store: Store) -> None:
    celery = Celery("api", broker="memory://", set_as_current=False)
    for path in ("no.such.module.function", f"{__name__}.no_such"):
        with pytest.raises(SettingsError, match="asynctask_access"):
            create_app(celery, settings=Settings(access=path))


def test_by_default_an_access_reads_of_nobody() -> None:
    assert Access() == Access(customers=set(), rights={Right.READ}, name="")
    assert Access(customers=None).customers is None


# -- on this host, without credentials


def test_on_this_host_it_may_be_read(one_store: Store) -> None:
    with api_over(one_store, loopback=True, asynctask_tokens=None) as api:
        for host in ("localhost", "localhost:5556", "LocalHost:5556", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:80"):
            shown = api.get("/async-tasks", None, {"Host": host}).json()["results"]
            assert len(shown) == 3
            assert shown[0].keys() >= VALUES
        for route in routes(MINE):
            answer = ask(api, route, None)
            if route[3] == "read":
                assert answer.status_code == 200
            else:
                is_problem(answer, "forbidden", 403)
        detail = is_problem(api.get("/async-tasks"), "unauthenticated", 401)
        assert "asynctask_tokens" in detail, "it was sent a token and knows none"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:5556"},
        {"Host": "localhost.evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": "evil.example:localhost"},
        {"Host": ""},
        {"Host": "[::1].evil.example"},
        {"Host": "192.168.0.1"},
        {"Host": "0.0.0.0"},
        {"Forwarded": "for=10.0.0.1"},
        {"X-Forwarded-For": "10.0.0.1"},
        {"X-Forwarded-Host": "record.example"},
        {"X-Forwarded-Proto": "https"},
        {"X-Forwarded-Port": "443"},
        {"X-Forwarded-Prefix": "/record"},
        {"X-Real-IP": "10.0.0.1"},
        {"CF-Connecting-IP": "10.0.0.1"},
        {"CF-Ray": "1"},
        {"True-Client-IP": "10.0.0.1"},
        {"X-Client-IP": "10.0.0.1"},
        {"Fastly-Client-IP": "10.0.0.1"},
        {"X-Cluster-Client-IP": "10.0.0.1"},
        {"X-Envoy-External-Address": "10.0.0.1"},
        {"X-Original-URI": "/"},
        {"X-Original-Forwarded-For": "10.0.0.1"},
        {"Via": "1.1 proxy"},
    ],
)
def test_what_comes_from_elsewhere_may_not(one_store: Store, headers: dict[str, str]) -> None:
    """By a name of another site for this host, or by way of a proxy."""
    with api_over(one_store, loopback=True, asynctask_tokens=None) as api:
        for route in routes(MINE):
            detail = is_problem(ask(api, route, None, headers), "forbidden", 403)
            assert "asynctask_tokens" in detail


@pytest.mark.parametrize("settings", [{"asynctask_tokens": TOKENS}, {"asynctask_access": by_cookie}])
def test_with_credentials_this_host_is_as_any_other(one_store: Store, settings: dict[str, Any]) -> None:
    with api_over(one_store, loopback=True, **{"asynctask_tokens": None, **settings}) as api:
        is_problem(api.get("/async-tasks", None), "unauthenticated", 401)


def test_closed_where_nothing_is_configured(one_store: Store) -> None:
    """As in an application that it is mounted in, on any host."""
    with api_over(one_store, asynctask_tokens=None) as api:
        for route in routes(MINE):
            assert "asynctask_tokens" in is_problem(ask(api, route, None), "unauthenticated", 401)


# -- tokens


def test_no_token_is_ever_logged(one_store: Store, caplog: pytest.LogCaptureFixture) -> None:
    wrong = f"asynctask_{uuid.uuid4().hex}"

    def fail(_request: Request) -> Access | None:
        raise RuntimeError("no session")

    with caplog.at_level(logging.DEBUG):
        with api_over(one_store) as api:
            api.get("/async-tasks")
            texts = api.get("/async-tasks", None, {"Authorization": f"Bearer {wrong}"}).text
        # Not before that server has written when the token was used, which could make an empty file.
        Path(one_store.settings.url.removeprefix("sqlite:///")).unlink()
        with api_over(one_store, asynctask_access=fail) as api:
            texts += api.get("/async-tasks").text
        with api_over(one_store) as api:
            texts += api.get("/async-tasks").text
    assert "There is no database file" in caplog.text, "the log is seen"
    for secret in (wrong, token_of("admin"), TOKENS["admin"]["sha256"]):
        assert secret not in caplog.text + texts
