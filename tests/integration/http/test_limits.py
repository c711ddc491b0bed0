"""Limits that protect the HTTP API, and the database that others share."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from httpx import ASGITransport, AsyncClient, Response
from sqlalchemy import text, update
from starlette.exceptions import HTTPException

from celery_asynctask import __version__
from celery_asynctask.http import tasks
from celery_asynctask.http.application import MAX_BODY, MAX_PARAMETERS, MAX_QUERY
from celery_asynctask.queries import Reader
from celery_asynctask.queries import reader as reader_module
from celery_asynctask.queries.search.filter import MAX_LENGTH
from celery_asynctask.queries.search.order import Cursor, Order, Place
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask
from celery_asynctask.store.tables import async_task_revision
from celery_asynctask.web import service
from celery_asynctask.web.cookies import MAX_COOKIES
from celery_asynctask.web.share import FILES, PURGES, RERUNS, Rate, Rates
from tests import services
from tests.integration.http.client import ADMIN, OURS, Api, api_over, is_problem, tell
from tests.integration.oracle import START, add, row
from tests.pace import patience
from tests.tokens import cookie_of, token_of

PAGE = sys.modules["celery_asynctask.queries.search.page"]
"""The module; in the package, the function has its name."""
LIST = "/async-tasks"
RERUN = "/async-tasks/x/rerun"


@pytest.fixture
def api(store: Store) -> Iterator[Api]:
    with api_over(store) as made:
        yield made


async def _chunks() -> AsyncIterator[bytes]:
    for _ in range(MAX_BODY // 1000 + 2):
        yield b" " * 1000


@pytest.mark.parametrize("who", [ADMIN, None])
def test_a_body_that_is_too_large_is_not_read(api: Api, who: str | None) -> None:
    for content in (b" " * (MAX_BODY + 1), _chunks()):
        answer = api.ask("POST", RERUN, who, content=content, headers={"Content-Type": "application/json"})
        is_problem(answer, "too-large", 413)
    for length in (f"{MAX_BODY + 1}", "9" * 5000):  # servers that others mount it in may pass on anything
        is_problem(api.ask("POST", RERUN, None, {"Content-Length": length}, content=b"{}"), "too-large", 413)
    assert api.ask("POST", RERUN, None, content=b" " * MAX_BODY).status_code in (401, 422)


def test_more_wait_than_there_is_room_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "THREADS", 1)
    monkeypatch.setattr(service, "MAX_WAITING", 2)
    free = threading.Event()

    def page(*_: Any, **__: Any) -> Any:
        assert free.wait(patience(30))
        raise RuntimeError

    async def statuses(api: Api) -> list[int]:
        async def one(client: AsyncClient) -> int:
            return (await client.get(LIST, headers={"Authorization": f"Bearer {token_of(ADMIN)}"})).status_code

        transport = ASGITransport(api.app, raise_app_exceptions=False)
        async with AsyncClient(transport=transport, base_url="http://localhost") as client:
            waiting = [asyncio.create_task(one(client)) for _ in range(8)]
            done: set[asyncio.Task[int]] = set()
            while len(done) < 5:
                done, _ = await asyncio.wait(waiting, timeout=patience(30), return_when=asyncio.FIRST_COMPLETED)
                assert done, "nobody was turned away"
                await asyncio.sleep(0)
            free.set()
            return sorted(await asyncio.gather(*waiting))

    with api_over(store) as api:
        monkeypatch.setattr(tasks, "page", page)
        assert api.loop.run_until_complete(statuses(api)) == [500] * 3 + [503] * 5
        monkeypatch.undo()
        assert api.ids() == [], "the next is answered"


def test_one_caller_does_not_hold_all_threads_and_places(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody's slow queries run and wait, others are answered at once."""
    free = threading.Event()
    running: list[bool] = []
    quick = PAGE.page

    def page(reader: Reader, *arguments: Any, **more: Any) -> Any:
        if reader.scope.is_all:
            running.append(True)
            assert free.wait(patience(30))
        return quick(reader, *arguments, **more)

    async def statuses(api: Api) -> tuple[list[int], int, list[int]]:
        async def one(client: AsyncClient, who: str) -> int:
            return (await client.get(LIST, headers={"Authorization": f"Bearer {token_of(who)}"})).status_code

        transport = ASGITransport(api.app, raise_app_exceptions=False)
        async with AsyncClient(transport=transport, base_url="http://localhost") as client:
            slow = [asyncio.create_task(one(client, ADMIN)) for _ in range(60)]
            refused = service.OWN_THREADS + service.OWN_WAITING
            done: set[asyncio.Task[int]] = set()
            while len(done) < 60 - refused:
                done, _ = await asyncio.wait(slow, timeout=patience(30), return_when=asyncio.FIRST_COMPLETED)
                assert done, "nobody was turned away"
                await asyncio.sleep(0)
            others = [await asyncio.wait_for(one(client, "ours"), patience(30)) for _ in range(5)]
            at_once = len(running)
            free.set()
            return others, at_once, sorted(await asyncio.gather(*slow))

    with api_over(store) as api:
        monkeypatch.setattr(tasks, "page", page)
        others, at_once, all_slow = api.loop.run_until_complete(statuses(api))
        assert others == [200] * 5
        assert at_once <= service.OWN_THREADS < service.THREADS
        assert all_slow == [200] * 54 + [429] * 6
        assert api.ids() == [], "the next is answered"


Action = tuple[Rate, str, str, dict[str, Any]]
"""A rate, and a request that counts towards it."""


def asked(api: Api, action: Action, who: str) -> Response:
    _, method, path, body = action
    return api.ask(method, path, who, **body)


def test_actions_have_a_rate(store: Store, shop: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each caller; the next one is told when to come back. What reads only has none."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(service, "Rates", lambda: Rates(lambda: clock.now))
    tell(store, "a", OURS)
    with api_over(store, shop) as api:
        actions: list[Action] = [
            (RERUNS, "POST", "/async-tasks/a/rerun", {"json": {"again": True}}),
            (RERUNS, "POST", "/console/tasks/a/rerun", {"data": {"again": "1"}}),
            (FILES, "GET", "/console/tasks.csv", {}),
            (PURGES, "POST", "/async-tasks/purge", {"json": {"olderThan": "1d"}}),
        ]
        for action, who in zip(actions, ("ours", "both", "ours", "ours"), strict=True):
            rate = action[0]
            statuses = [asked(api, action, who).status_code for _ in range(rate.burst + 1)]
            assert set(statuses[:-1]) <= {200, 201, 303}, statuses
            assert statuses[-1] == 429
            refused = asked(api, action, who)
            seconds = int(refused.headers["retry-after"])
            assert f"At most {rate.per_minute} {rate.what} a minute" in refused.text
            assert asked(api, action, ADMIN).status_code < 400, "others have their own"
            clock.now += seconds
            assert asked(api, action, who).status_code < 400
        for path in (LIST, "/console/tasks", "/async-tasks/a/attempts"):
            assert {api.get(path, "ours").status_code for _ in range(40)} == {200}
        for _ in range(40):
            api.post("/async-tasks/a/rerun", "theirs", dryRun=True)
        is_problem(api.post("/async-tasks/a/rerun", "theirs"), "not-found", 404)


@pytest.mark.parametrize(
    ("status", "headers"), [(303, {"Location": "/login"}), (429, {"Retry-After": "7"}), (503, {}), (418, {})]
)
def test_what_the_access_function_raises_is_the_answer(store: Store, status: int, headers: dict[str, str]) -> None:
    def access(_request: Any) -> None:
        raise HTTPException(status, "so", headers)

    with api_over(store, asynctask_access=access) as api:
        answer = api.get(LIST)
        assert (answer.status_code, answer.json()["type"], answer.json()["detail"]) == (status, "about:blank", "so")
        assert {name: answer.headers[name] for name in headers} == headers


def test_a_cursor_does_not_lift_the_bound(store: Store, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up cursor, or one from when there were few tasks."""
    monkeypatch.setattr(PAGE, "MAX_SCANNED", 5)
    add(store, [row(f"task-{number:02}", started_at=START) for number in range(10)])
    bounds = (None, Place(START.replace(year=1970), 0))
    cursors = [str(Cursor(Order("started_at"), START, 2**40, bound)) for bound in bounds]
    for cursor in cursors:
        assert len(api.ids(ordering="-startedAt", cursor=cursor)) == 10, "twice as many as at first"
    add(store, [row("one-more", started_at=START)])
    for cursor in cursors:
        detail = is_problem(api.get(LIST, ordering="-startedAt", cursor=cursor), "invalid-parameter", 422, "cursor")
        assert "Begin with the first page" in detail


@pytest.mark.every_database
@pytest.mark.parametrize("limit", [101, 1000])
def test_a_page_of_large_values_ends_early(store: Store, api: Api, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PAGE, "MAX_CHARACTERS", 3500)
    add(store, [row(f"task-{number:02}", result="x" * 1000) for number in range(20)])
    ids: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = api.ok(LIST, limit=limit, **cursor)
        assert len(page["results"]) <= 4
        ids += [one["celeryTaskId"] for one in page["results"]]
        if page["next"] is None:
            break
        assert page["complete"] is True
        cursor = {"cursor": page["next"]}
    assert sorted(ids) == [f"task-{number:02}" for number in range(20)]
    assert len(api.ids("reader", limit=1000)) == 20, "without values all have room"
    assert len(api.ids(limit=20)) == 20, "so few have room whatever they are"


def test_a_database_that_was_set_back(store: Store, api: Api) -> None:
    """Its revisions get the numbers of earlier ones, with other rows."""
    add(store, [row("task")])

    def revise(number: int, name: str) -> None:
        with store.engine.begin() as connection:
            connection.execute(update(async_task_revision).values(revision=number))
            connection.execute(update(AsyncTask).values(name=name))

    def poll(tag: str) -> Any:
        return api.get(LIST, headers={"If-None-Match": tag})

    revise(20, "before")
    tag = poll("none").headers["ETag"]
    assert poll(tag).status_code == 304
    revise(19, "restored")
    assert poll(tag).status_code == 200
    revise(20, "after")
    assert poll(tag).status_code == 200


@pytest.mark.databases("postgresql")
def test_nothing_is_set_for_a_session(store: Store) -> None:
    """Behind PgBouncer it is another client's next, perhaps a recorder's."""
    names = ("statement_timeout", "default_transaction_read_only", "default_transaction_isolation")
    reader = Reader(store.settings.url, seconds=7)
    with reader.session() as session:
        assert session.scalar(text("SHOW transaction_isolation")) == "repeatable read"
        assert session.scalar(text("SHOW transaction_read_only")) == "on"
        assert session.scalar(text("SHOW statement_timeout")) == "7s"
        backend = session.scalar(text("SELECT pg_backend_pid()"))
    with reader.connection(consistent=False) as alone:
        assert alone.scalar(text("SELECT pg_backend_pid()")) == backend
        assert alone.scalar(text("SHOW statement_timeout")) == "0"
    with store.engine.connect() as connection:
        expected = [connection.scalar(text(f"SHOW {name}")) for name in names]
    raw = reader.engine.raw_connection()
    cursor = raw.cursor()
    values = []
    for name in names:
        cursor.execute(f"SHOW {name}")
        values.append(cursor.fetchone()[0])  # type: ignore[index]
    raw.close()
    assert values == expected
    reader.close()


@pytest.mark.databases(*services.SERVERS)
def test_a_connection_that_the_database_ended_while_it_rested(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    who, kill = {
        "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend({})"),
        "mysql": ("SELECT CONNECTION_ID()", "KILL {}"),
    }[store.engine.dialect.name]
    monkeypatch.setattr(reader_module, "_IDLE_SECONDS", 0)
    reader = Reader(store.settings.url)
    with reader.session() as session:
        number = session.scalar(text(who))
    with store.engine.connect() as connection:
        connection.exec_driver_sql(kill.format(number))
    with reader.session() as session:
        assert session.scalar(text(who)) != number
    reader.close()


ROUTES = (
    *("/", "/ping", "/health", "/openapi.json", "/async-tasks", "/async-tasks/x", "/nowhere"),
    *("/console", "/console/", "/console/sign-in", "/console/tasks", "/console/tasks/x", "/console/nowhere"),
)


@pytest.mark.parametrize("character", ['\\"', "\\\\", "\\1", "\\1x"])
def test_cookies_cost_next_to_nothing(api: Api, character: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard library's way to take off the quotes takes time that grows with the square of their length."""
    steps = 0

    def unquote(value: str) -> str:
        nonlocal steps
        steps += value.count("\\") * len(value)
        return value

    monkeypatch.setattr("http.cookies._unquote", unquote)
    kept = cookie_of(ADMIN)
    for size in (60_000, MAX_COOKIES - 200, 2000, 500):
        large = ";".join(f'a{number}="{character * (size // len(character) // 5)}"' for number in range(5))
        for path in ROUTES:
            steps = 0
            answer = api.get(path, None, {"Cookie": f"{large}; {kept}"})
            assert steps <= 200_000, f"{steps} for {path}"
            if size > MAX_COOKIES:
                is_problem(answer, "headers-too-large", 431)
            else:
                assert answer.status_code == api.get(path, None, {"Cookie": kept}).status_code


@pytest.mark.parametrize("who", [ADMIN, None])
def test_a_query_that_is_too_large(api: Api, who: str | None) -> None:
    for query in ("a&" * MAX_PARAMETERS, "a" * (MAX_QUERY + 1)):
        for path in ROUTES:
            is_problem(api.ask("GET", f"{path}?{query}", who), "invalid-parameter", 422, "query")
        is_problem(api.ask("POST", f"{RERUN}?{query}", who), "invalid-parameter", 422, "query")
    longest = "\N{GRINNING FACE}" * (MAX_LENGTH - 2)
    assert api.ids(search=f'"{longest}"', status=["FAILURE", "LOST"]) == []


def test_a_balancer_needs_no_token(store: Store) -> None:
    """And learns nothing, not even whether there is a database."""
    with api_over(store, asynctask_url="postgresql+psycopg://127.0.0.1:9/none") as api:
        for method in ("GET", "HEAD"):
            answer = api.ask(method, "/ping", None)
            assert (answer.status_code, answer.content) == (204, b"")
        assert api.ask("POST", "/ping", None).status_code == 405


def test_the_version_is_for_known_callers(api: Api) -> None:
    for path in ("/console/", "/console/sign-in", "/console/nowhere"):
        assert __version__ not in api.get(path, None).text
    signed_in = {"Cookie": cookie_of(ADMIN)}
    assert f"celery-asynctask {__version__}" in api.get("/console/", None, signed_in).text


@pytest.mark.parametrize("path", ["/console/sign-in", "/async-tasks/purge", RERUN])
def test_a_client_that_leaves_before_its_body_is_whole(api: Api, path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is answered, and nothing logged."""
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": [(b"host", b"localhost")], "http_version": "1.1", "scheme": "http", "root_path": ""}
    api.loop.run_until_complete(api.app(scope, receive, send))
    assert not sent
    assert not caplog.records
