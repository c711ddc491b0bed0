"""Signing in to the console and out of it: what the cookie is worth, and what ends it."""

from __future__ import annotations

import datetime as dt
import json
import logging
import re
import time
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from httpx import Response
from sqlalchemy import func, select
from sqlalchemy.event import listen
from sqlalchemy.exc import OperationalError

from celery_asynctask.core.time import now, time_of
from celery_asynctask.operations.credentials import Credentials
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.tables import async_task_audit, async_task_session, async_task_token
from celery_asynctask.web import attempts, sessions
from celery_asynctask.web.share import SIGN_INS
from tests.integration.http.client import OURS, TOKENS, Api, api_over, grant, is_problem, tell
from tests.tokens import cookie_of, session_of, token_of

pytestmark = pytest.mark.usefixtures("two_tenants")
NOW = time_of(now())
HTTPS = {"Origin": "https://ops.example", "Host": "ops.example", "Sec-Fetch-Site": "same-origin"}


def sign_in(api: Api, token: str, headers: Any = (), **fields: str) -> Response:
    return api.ask("POST", "/console/sign-in", None, headers, data={"token": token, **fields})


def sign_out(api: Api, cookie: str) -> Response:
    return api.ask("POST", "/console/sign-out", None, {"Cookie": cookie})


def page(api: Api, cookie: str, headers: Any = ()) -> Response:
    return api.ask("GET", "/console/tasks", None, {"Cookie": cookie, **dict(headers)})


def signed_in(api: Api, who: str = "ours") -> str:
    """The header Cookie of a browser that has signed in."""
    return sign_in(api, token_of(who)).headers["set-cookie"].partition(";")[0]


def settled(api: Api) -> None:
    """Wait until all is written that no request waits for."""
    api.app.state.asynctask.authenticator._background.close()


def rows(store: Store, statement: Any) -> list[Any]:
    with store.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(statement)]


def without(writer: Any, table: str) -> None:
    """Let the writer's statements for a table fail, as for a user without rights."""

    def refuse(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if table in statement:
            raise OperationalError(statement, {}, Exception(f"permission denied for table {table}"))

    listen(writer.engine, "before_cursor_execute", refuse)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is asked for each request whether its session ended."""
    monkeypatch.setattr(sessions, "LOOK_SECONDS", 0.0)


def test_a_token_is_exchanged_for_a_session(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = sign_in(api, token_of("ours"), back="/console/tasks?search=since:1d")
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/tasks?search=since:1d")
    cookie, *parts = answer.headers["set-cookie"].split("; ")
    assert set(parts) == {"HttpOnly", "SameSite=lax", "Path=/console", f"Max-Age={30 * 86400}"}
    assert cookie.startswith("asynctask_session=1.")
    for secret in (token_of("ours"), TOKENS["ours"]["sha256"]):
        assert secret not in cookie + caplog.text
    shown = page(api, cookie)
    assert shown.status_code == 200
    assert "Sign out" in shown.text
    assert "theirs" not in shown.text


def test_the_api_takes_no_session(api: Api) -> None:
    cookie = signed_in(api, "admin")
    value = cookie.partition("=")[2]
    is_problem(api.ask("GET", "/async-tasks", None, {"Cookie": cookie}), "unauthenticated", 401)
    is_problem(api.ask("GET", "/async-tasks", None, {"Authorization": f"Bearer {value}"}), "unauthenticated", 401)


def test_a_token_in_a_cookie_is_worth_nothing_and_removed(api: Api) -> None:
    """As earlier releases kept it."""
    answer = page(api, f"asynctask_token={token_of('admin')}")
    assert answer.status_code == 401
    assert 'asynctask_token=""' in answer.headers["set-cookie"]
    assert page(api, f"asynctask_session={token_of('admin')}").status_code == 401


@pytest.mark.parametrize(
    "token",
    ["", "hunter2", f"{token_of('ours')}x", token_of("ours")[:-1], token_of("nobody-knows"), "\u20ac", "x" * 9999],
)
def test_a_wrong_token_signs_nobody_in(api: Api, token: str) -> None:
    answer = sign_in(api, token, back="/console/tasks")
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert 'value="/console/tasks"' in answer.text


def test_a_token_that_somebody_made_up_is_refused_with_what_to_do(store: Store) -> None:
    """Though its hash is configured: what a person makes up can be guessed from it."""
    made_up = {**grant("x"), "sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}  # of hello
    with api_over(store, asynctask_tokens={"x": made_up}) as api:
        assert "celery -A APP asynctask token" in sign_in(api, "hello").text
        answer = api.get("/async-tasks", None, {"Authorization": "Bearer hello"})
        assert "celery -A APP asynctask token" in is_problem(answer, "unauthenticated", 401)


# -- the end of a session


@pytest.mark.every_database
@pytest.mark.usefixtures("later")
def test_signing_out_ends_it_everywhere(api: Api, store: Store) -> None:
    cookie, other = signed_in(api), signed_in(api)
    with api_over(store) as elsewhere:
        assert page(elsewhere, cookie).status_code == 200
        answer = sign_out(api, cookie)
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in")
        assert "Max-Age=0" in answer.headers["set-cookie"]
        for server in (api, elsewhere):
            assert page(server, cookie).status_code == 401
            assert "Sign in again" not in page(server, other).text, "another browser stays signed in"
        assert page(elsewhere, other).status_code == 200
        assert sign_out(elsewhere, cookie).status_code == 303, "twice"
    [(session, expires_at)] = rows(store, select(async_task_session))
    assert session == cookie.split(".")[2]
    assert expires_at > NOW + dt.timedelta(days=29)


@pytest.mark.every_database
def test_sessions_that_have_expired_are_forgotten(api: Api, store: Store) -> None:
    with store.engine.begin() as connection:
        old = {"session": "old", "expires_at": NOW - dt.timedelta(seconds=1)}
        connection.execute(async_task_session.insert().values(old))
    sign_out(api, signed_in(api))
    assert [session for session, _ in rows(store, select(async_task_session))] != ["old"]
    assert rows(store, select(func.count()).select_from(async_task_session)) == [(1,)]


def test_where_it_cannot_be_written_the_page_says_so(api: Api) -> None:
    cookie = signed_in(api)
    without(api.app.state.asynctask.authenticator._credentials._writer, "async_task_session")
    answer = sign_out(api, cookie)
    assert answer.status_code == 200
    assert "other server processes do not know it" in answer.text
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert page(api, cookie).status_code == 401, "this one knows"


def test_a_forged_cookie_signs_nobody_out(api: Api, store: Store) -> None:
    cookie = signed_in(api)
    forged = cookie[:-2] + ("AA" if not cookie.endswith("AA") else "BB")
    assert sign_out(api, forged).status_code == 303
    assert rows(store, select(async_task_session)) == []
    assert page(api, cookie).status_code == 200
    answer = page(api, forged)
    assert answer.status_code == 401
    assert "Max-Age=0" in answer.headers["set-cookie"], "the browser does not send it again and again"


def test_a_session_ends_with_its_token(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removed, replaced or expired; other rights count at once."""
    tokens: dict[str, Any] = {"admin": grant("admin")}
    monkeypatch.setattr("celery_asynctask.web.tokens.SECONDS", 0.0)
    with api_over(store, asynctask_tokens=lambda: tokens) as api:
        cookie = cookie_of("admin")
        assert "/tasks/theirs" in page(api, cookie).text
        tokens = {"admin": grant("admin", [OURS])}
        assert "/tasks/theirs" not in page(api, cookie).text
        for later in ({}, {"admin": grant("other")}, {"other": grant("admin")}):
            tokens = later
            assert page(api, cookie).status_code == 401
        tokens = {"admin": grant("admin", expires=NOW + dt.timedelta(days=1))}
        assert page(api, cookie).status_code == 200
        tokens = {"admin": grant("admin", expires=NOW - dt.timedelta(days=1))}
        assert page(api, cookie).status_code == 401
        answer = api.get("/async-tasks", "admin")
        assert "This token expired at 20" in is_problem(answer, "unauthenticated", 401)
        assert "This token expired" in sign_in(api, token_of("admin")).text


def test_a_token_of_a_creator_sees_what_that_one_created(store: Store) -> None:
    """Over the API and in the console."""
    for task_id, creator in (("of-ada", "ada"), ("of-7", 7)):
        tell(store, task_id, OURS, **{"created_by_key" if creator == "ada" else "created_by": creator})
    tokens = {"ada": grant("ada", created_by=["ada"]), "7": grant("7", [OURS], created_by=[7])}
    with api_over(store, asynctask_tokens=tokens) as api:
        assert api.ids("ada") == ["of-ada"]
        assert api.ids("7") == ["of-7"]
        shown = page(api, cookie_of("ada")).text
        assert "/tasks/of-ada" in shown
        assert "/tasks/of-7" not in shown


def test_a_cookie_lives_no_longer_than_its_token(store: Store) -> None:
    with api_over(store, asynctask_tokens={"a": grant("a", expires=NOW + dt.timedelta(hours=1))}) as api:
        parts = sign_in(api, token_of("a")).headers["set-cookie"].split("; ")
        [age] = [int(one.removeprefix("Max-Age=")) for one in parts if one.startswith("Max-Age=")]
        assert 0 < age <= 3600


def test_a_session_lasts_thirty_days(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    cookie = signed_in(api)
    monkeypatch.setattr("celery_asynctask.web.authenticator.now", lambda: now() + 30 * 86400 * 10**6 - 60 * 10**6)
    assert page(api, cookie).status_code == 200
    monkeypatch.setattr("celery_asynctask.web.authenticator.now", lambda: now() + 30 * 86400 * 10**6)
    assert page(api, cookie).status_code == 401


# -- https


@pytest.mark.parametrize(
    ("headers", "trusted", "secure"),
    [
        ({}, (), False),
        (HTTPS, (), True),
        ({**HTTPS, "Origin": "http://ops.example"}, (), False),
        ({"X-Forwarded-Proto": "https"}, (), False),
        ({"X-Forwarded-Proto": "https"}, ("127.0.0.1",), True),
        ({"X-Forwarded-Proto": "http"}, ("127.0.0.1",), False),
    ],
)
def test_over_https_the_cookie_is_for_https_alone(
    store: Store, headers: dict[str, str], trusted: tuple[str, ...], secure: bool
) -> None:
    """Behind a proxy that speaks TLS the server itself sees plain HTTP; the reader's browser knows."""
    with api_over(store, asynctask_trusted_proxies=trusted) as api:
        cookie, *parts = sign_in(api, token_of("ours"), headers).headers["set-cookie"].split("; ")
        assert ("Secure" in parts) is secure
        assert cookie.startswith("__Secure-asynctask_session=") is secure
        assert page(api, cookie, {"Host": "ops.example"}).status_code == 200
        out = api.ask("POST", "/console/sign-out", None, {**headers, "Cookie": cookie})
        assert ("Secure" in out.headers["set-cookie"]) is secure, "else browsers would keep it"


# -- what is recorded


@pytest.mark.every_database
def test_the_audit_has_who_signed_in_and_out(api: Api, store: Store) -> None:
    cookie = signed_in(api)
    sign_out(api, cookie)
    sign_in(api, token_of("nobody-knows"))
    sign_in(api, token_of("nobody-knows"))
    page(api, cookie_of("theirs")[:-2] + "AA")
    api.app.state.asynctask.authenticator._attempts.close()
    settled(api)
    table = async_task_audit.c
    found = rows(store, select(table.action, table.actor, table.origin, table.outcome, table.detail).order_by(table.id))
    assert found == [
        ("sign-in", "ours", "127.0.0.1", "done", None),
        ("sign-out", "ours", "127.0.0.1", "done", None),
        ("sign-in", "(unknown)", "127.0.0.1", "refused", "wrong token"),
        ("sign-in", "(unknown)", "127.0.0.1", "refused", "2 failed sign-ins: wrong token"),
    ]


def test_where_the_audit_cannot_be_written_a_sign_in_goes_on(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    without(api.app.state.asynctask.audit._writer, "async_task_audit")
    assert page(api, signed_in(api)).status_code == 200
    settled(api)
    assert "Not written: done sign-in in the audit: of 'ours' from '127.0.0.1'. The audit cannot" in caplog.text


@pytest.mark.every_database
def test_the_last_use_of_a_token_is_stored_once_a_minute(
    api: Api, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    used = Credentials.used

    def counted(self: Credentials, uses: Any) -> None:
        written.extend(uses)
        used(self, uses)

    monkeypatch.setattr(Credentials, "used", counted)
    for _ in range(3):
        api.ok("/async-tasks", "ours")
    page(api, cookie_of("theirs"))
    api.get("/async-tasks", "nobody-knows")
    settled(api)
    found = rows(store, select(async_task_token).order_by(async_task_token.c.name))
    assert [(key, name) for key, name, _ in found] == [(TOKENS[who]["sha256"][:16], who) for who in ("ours", "theirs")]
    assert all(at >= NOW - dt.timedelta(seconds=1) for *_, at in found)
    assert len(written) == 2
    with api_over(store) as elsewhere:
        elsewhere.ok("/async-tasks", "ours")
        settled(elsewhere)
    assert rows(store, select(func.count()).select_from(async_task_token)) == [(2,)]


def test_what_is_written_of_tokens_makes_no_database(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    made = Store(Settings(url=f"sqlite:///{path}"))
    made.prepare()
    with api_over(made) as api:
        api.ok("/async-tasks")
        settled(api)
        path.unlink()
        sign_out(api, cookie_of("admin"))
    assert not path.exists()
    made.close()


# -- delays


def test_many_wrong_tokens_wait_and_a_right_one_does_not(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("celery_asynctask.web.attempts.anyio.sleep", sleep)
    for _ in range(4):
        sign_in(api, token_of("nobody-knows"))
        api.get("/async-tasks", "nobody-knows")
    assert slept == [0.5, 1.0, 2.0], "from the sixth on"
    assert page(api, signed_in(api)).status_code == 200
    api.ok("/async-tasks", "ours")
    assert len(slept) == 3, "from the same address"
    monkeypatch.setattr(attempts, "MAX_DELAYED", 0)
    answer = api.get("/async-tasks", "nobody-knows")
    is_problem(answer, "too-many-requests", 429)
    assert answer.headers["retry-after"] == "5"
    answer = sign_in(api, token_of("nobody-knows"))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
    assert ">Token</label>" in answer.text
    assert page(api, cookie_of("theirs")[:-2] + "AA").status_code == 429
    api.ok("/async-tasks", "ours")


def test_one_token_signs_in_so_often_a_minute(api: Api, store: Store) -> None:
    began = time.monotonic()
    statuses = [sign_in(api, token_of("ours")).status_code for _ in range(SIGN_INS.burst + 5)]
    assert statuses[: SIGN_INS.burst] == [303] * SIGN_INS.burst
    refused = sign_in(api, token_of("ours"))
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert "At most 60 sign-ins a minute" in refused.text
    assert sign_in(api, token_of("theirs")).status_code == 303
    assert api.get("/async-tasks", "ours").status_code == 200
    settled(api)
    of_ours = select(func.count()).where(async_task_audit.c.actor == "ours", async_task_audit.c.action == "sign-in")
    assert rows(store, of_ours)[0][0] <= SIGN_INS.burst + 1 + time.monotonic() - began, "one a second more"


def test_a_session_that_ended_is_no_attempt(api: Api) -> None:
    """A page that is left open sends it again and again."""
    cookie = signed_in(api)
    sign_out(api, cookie)
    for _ in range(20):
        assert page(api, cookie).status_code == 401
    assert api.app.state.asynctask.authenticator._attempts._delays._counts == {}


# -- the user of this host


@pytest.fixture
def local(store: Store) -> Iterator[Api]:
    with api_over(store, local=True, asynctask_tokens=None) as made:
        yield made


def test_a_code_signs_in_once(local: Api) -> None:
    run = local.app.state.asynctask.authenticator.local
    code = run.new_code()
    form = local.ask("GET", f"/console/sign-in?code={code}", None)
    assert form.status_code == 200, "a previewer of links uses nothing up"
    assert ">Code</label>" in form.text
    assert "celery -A APP asynctask code" in form.text
    answer = sign_in(local, code)
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"].partition(";")[0]
    shown = page(local, cookie)
    assert "/tasks/ours" in shown.text
    assert "/tasks/theirs" in shown.text
    assert "kwargs" in local.ask("GET", "/console/tasks/ours", None, {"Cookie": cookie}).text, "values, too"
    for wrong in (code, "", "x", run.new_code()[:-1], run.secret.hex()):
        refused = sign_in(local, wrong)
        assert refused.status_code == 401
        assert "A code is valid once" in refused.text.replace("a code", "A code")
        assert "set-cookie" not in refused.headers
    assert sign_in(local, run.new_code()).status_code == 303
    sign_out(local, cookie)
    assert page(local, cookie).status_code == 401


def test_programs_of_the_user_have_a_token_and_others_have_none(local: Api) -> None:
    run = local.app.state.asynctask.authenticator.local
    bearer = {"Authorization": f"Bearer {run.bearer}"}
    assert len(local.get("/async-tasks", None, bearer).json()["results"]) == 2
    detail = is_problem(local.get("/async-tasks", None), "unauthenticated", 401)
    assert "celery -A APP asynctask code" in detail
    is_problem(local.get("/async-tasks", "admin"), "unauthenticated", 401)
    is_problem(local.post("/async-tasks/purge", None, bearer, olderThan="1d"), "forbidden", 403)
    assert local.ask("GET", "/console/", None).status_code == 401
    assert sign_in(local, run.bearer).status_code == 303, "a person may use it, too"


def test_another_name_of_this_host_is_refused_with_a_token_too(local: Api) -> None:
    """A page of another site may send a browser here by a name of its own."""
    run = local.app.state.asynctask.authenticator.local
    headers = {"Authorization": f"Bearer {run.bearer}", "Host": "evil.example"}
    is_problem(local.get("/async-tasks", None, headers), "forbidden", 403)
    code = run.new_code()
    assert sign_in(local, code, {"Host": "evil.example"}).status_code == 403
    assert sign_in(local, code).status_code == 303, "it is not used up"


def test_each_run_has_credentials_of_its_own(local: Api, store: Store) -> None:
    run = local.app.state.asynctask.authenticator.local
    cookie = sign_in(local, run.new_code()).headers["set-cookie"].partition(";")[0]
    with api_over(store, local=True, asynctask_tokens=None) as other:
        assert page(other, cookie).status_code == 401
        assert sign_in(other, run.new_code()).status_code == 401
        assert sign_in(other, run.bearer).status_code == 401


def test_with_tokens_there_are_no_codes(store: Store) -> None:
    with api_over(store, local=True) as api:
        assert api.app.state.asynctask.authenticator.local is None
        assert ">Token</label>" in api.ask("GET", "/console/sign-in", None).text
        assert len(api.ids()) == 2


# -- tokens in a file


def test_without_a_readable_file_it_is_the_server_s_fault(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tokens.json"
    with api_over(store, asynctask_tokens=str(path)) as api, caplog.at_level(logging.CRITICAL):
        is_problem(api.get("/async-tasks"), "credentials-unavailable", 503)
        assert page(api, cookie_of("admin")).status_code == 503
        assert sign_in(api, token_of("admin")).status_code == 503
        assert api.ask("GET", "/console/sign-in", None).status_code in (200, 503)
        path.write_text(json.dumps(TOKENS), encoding="utf-8")
        path.chmod(0o600)
        api.app.state.asynctask.authenticator.tokens._until = 0.0
        assert len(api.ids()) == 2
        assert re.search("/tasks/ours", page(api, f"asynctask_session={session_of('admin')}").text)


def test_the_cookie_is_one_that_browsers_keep(api: Api) -> None:
    """Its form, as the standard library reads it."""
    cookie = SimpleCookie(sign_in(api, token_of("ours")).headers["set-cookie"])
    assert set(cookie) == {"asynctask_session"}
    assert len(cookie["asynctask_session"].value) < 300
