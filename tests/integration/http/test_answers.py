"""How the HTTP API answers: problems of every kind, headers, ETags that are true, numbers as exact as they are."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request
from httpx import Response
from sqlalchemy import text

from celery_asynctask.core.event import Kind
from celery_asynctask.http import tasks
from celery_asynctask.operations.erase import Erasure
from celery_asynctask.operations.session import Writer
from celery_asynctask.queries import Reader
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.web import answer as answering
from celery_asynctask.web.answer import MOST_KEPT, Answers
from celery_asynctask.web.problem import TITLES
from tests.histories import HISTORIES, Delivery, about, lines, published
from tests.integration.http.client import OURS, THEIRS, Api, api_over, is_problem, statements, tell
from tests.integration.operations.test_bundle import bundle_of, import_into
from tests.integration.purge import work
from tests.pace import patience

LIST = "/async-tasks"


@pytest.fixture
def api(store: Store) -> Iterator[Api]:
    tell(store, "ours", OURS)
    tell(store, "theirs", THEIRS)
    with api_over(store) as made:
        yield made


def again(api: Api, path: str, tag: str, who: str = "admin", **parameters: Any) -> Response:
    """Asked for once more by who has that."""
    return api.get(path, who, {"If-None-Match": tag}, **parameters)


def tag_of(api: Api, path: str, who: str = "admin", **parameters: Any) -> str:
    answer = api.get(path, who, **parameters)
    assert answer.status_code == 200, answer.text
    return answer.headers["etag"]


# -- problems


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
        is_problem(
            api.ask("POST", path, headers={"Content-Type": "application/json"}, content=body),
            "invalid-parameter",
            422,
            "body",
        )


@pytest.mark.every_database
def test_a_database_that_is_away(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Never an empty list; where it is, and why it does not answer, is for the log."""
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
            said = is_problem(answer, "database-unavailable", 503)
            assert "secret" not in said
            assert answer.headers["retry-after"] == "5"
        for path, body in ((f"{LIST}/ours/rerun", {}), (f"{LIST}/purge", {"olderThan": "1d"})):
            is_problem(api.post(path, **body), "database-unavailable", 503)
        assert api.get("/openapi.json").status_code == 200, "it needs none"
    assert "secret" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_database_without_tables_and_when_it_has_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It need not be started again."""
    made = Store(Settings(url=f"sqlite:///{tmp_path / 'rows.db'}"))
    with api_over(made) as api:
        is_problem(api.get(LIST), "database-unavailable", 503)
        assert "There is no database file" in caplog.text
        made.engine.connect().close()
        is_problem(api.get(LIST), "database-unavailable", 503)
        assert "has no tables" in caplog.text
        made.prepare()
        assert api.ids() == []
    made.close()


@pytest.mark.every_database
def test_a_database_that_comes_back(store: Store, api: Api) -> None:
    """Tables that are gone in the middle, and there again."""
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
        "database-unavailable", "broker-unavailable", "internal-error", "busy", "too-large",
    }  # fmt: skip


# -- ETags

READ = [LIST, f"{LIST}/ours", f"{LIST}/ours/attempts", f"{LIST}/ours/workflow", f"{LIST}/stats"]


@pytest.mark.usefixtures("one_minute")
@pytest.mark.parametrize("path", READ)
def test_who_has_it_is_told_so(api: Api, path: str) -> None:
    tag = tag_of(api, path)
    assert re.fullmatch(r'"[0-9a-f]{32}"', tag)
    for asked in (tag, f"W/{tag}", f'"other", {tag}', f'{tag},"other"', f'W/"other",W/{tag}', "*"):
        answer = again(api, path, asked)
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag), asked
    for asked in ('"other"', tag.strip('"'), tag[:-1], f'"x{tag[1:]}', "", "W/"):
        answer = again(api, path, asked)
        assert (answer.status_code, answer.headers["etag"]) == (200, tag), asked


def test_stars_of_what_there_is_not(api: Api) -> None:
    is_problem(again(api, f"{LIST}/nothing", "*"), "not-found", 404)
    is_problem(again(api, LIST, "*", cursor="x"), "invalid-parameter", 422, "cursor")


@pytest.mark.usefixtures("one_minute")
@pytest.mark.parametrize("path", READ)
def test_an_idle_poll_costs_one_read(api: Api, path: str) -> None:
    for who in ("admin", "ours"):
        tag = tag_of(api, path, who)
        assert again(api, path, tag, who).status_code == 304, "who asks so is expected to ask again"
        with statements(api) as sent:
            assert again(api, path, tag, who).status_code == 304
        sent = [one for one in sent if one != "BEGIN"]
        assert len(sent) == 1, sent
        assert "async_task_revision" in sent[0]


def run(task_id: str, *events: Any) -> list[bytes]:
    return lines(about(list(events), task_id))


def erase(store: Store) -> None:
    writer = Writer(store.settings)
    assert sum(one.tasks for one in Erasure(writer, OURS).run()) == 1
    writer.close()


def purge(store: Store) -> None:
    writer = Writer(store.settings)
    assert work(writer, {"id:ours": "1d"}).run(lambda _: None).tasks == 1
    writer.close()


def bring(store: Store) -> None:
    """A bundle that has a task which is not there."""
    tell(store, "imported", OURS)
    reader = Reader(store.settings.url)
    told = bundle_of(reader, "id:imported")
    reader.close()
    with store.engine.begin() as connection:
        connection.execute(text("DELETE FROM async_task WHERE celery_task_id = 'imported'"))
    import_into(store.settings.url, told)


_second = Delivery(20, retries=1)
_lost = {"inferred": True, "error_type": "WorkerLostError", "error_message": "gone"}
CHANGES: dict[str, Callable[[Store], Any]] = {
    "a task": lambda store: tell(store, "new", OURS),
    "a status": lambda store: store.write(run("ours", _second.ended(Kind.FAILED, 30, error_type="ValueError"))),
    "an attempt": lambda store: store.write(run("ours", _second.started(21))),
    "a note": lambda store: store.write(run("ours", Delivery(2).noted(4, {"done": 1}))),
    "LOST": lambda store: store.write(run("ours", _second.started(21), _second.ended(Kind.LOST, 99, **_lost))),
    "an erasure": erase,
    "a purge": purge,
    "an import": bring,
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("who", ["admin", "ours"])
def test_whatever_changes_it_is_no_304(store: Store, api: Api, what: str, who: str) -> None:
    paths = [LIST, f"{LIST}/ours", f"{LIST}/ours/attempts"]
    before = {path: api.get(path, who) for path in paths}
    for path, old in before.items():
        assert again(api, path, old.headers["etag"], who).status_code == 304, "it is kept"
    CHANGES[what](store)
    changed = 0
    for path, old in before.items():
        now, asked = api.get(path, who), again(api, path, old.headers["etag"], who)
        if now.content == old.content:
            assert asked.status_code == 304
        else:
            changed += 1
            assert (asked.status_code, asked.content) == (now.status_code, now.content)
            assert asked.headers.get("etag") != old.headers["etag"]
    assert changed, f"{what} is seen"


def test_the_tag_of_one_customer_tells_nothing_of_another(store: Store, api: Api) -> None:
    """It would tell that there is one, and when it is at work."""
    paths = [LIST, f"{LIST}/ours", f"{LIST}/ours/attempts", f"{LIST}/ours/workflow"]
    before = {path: tag_of(api, path, "ours") for path in paths}
    hidden = {path: tag_of(api, path) for path in paths}
    tell(store, "more", THEIRS)
    store.write(run("theirs", _second.started(21)))
    for path, tag in before.items():
        assert tag_of(api, path, "ours") == tag
        assert again(api, path, tag, "ours").status_code == 304
    assert tag_of(api, LIST) != hidden[LIST]


def test_callers_who_see_different_things_share_nothing(api: Api) -> None:
    """With the tag of the one, the other is not told that it has the answer."""
    tags = {who: tag_of(api, LIST, who) for who in ("admin", "reader", "ours", "ours-read", "theirs", "nobody")}
    assert len(set(tags.values())) == len(tags)
    for who in tags:
        for other, tag in tags.items():
            answer = again(api, LIST, tag, who)
            assert answer.status_code == (304 if who == other else 200), (who, other)


def test_a_search_that_counts_from_now_is_made_again(api: Api) -> None:
    """As time goes by it finds something else, though nothing has changed."""
    for search, made in (("since:2d", True), ("since:today", True), ("since:2020-01-01Z", False), ("name:*", False)):
        tag = tag_of(api, LIST, search=search)
        again(api, LIST, tag, search=search)
        with statements(api) as sent:
            assert again(api, LIST, tag, search=search).status_code == 304
        assert any("async_task.created_at" in one for one in sent) is made, search


def test_not_more_are_kept_than_are_to_be(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    tags = api.app.state.asynctask.answers._tags
    assert tags.most == MOST_KEPT
    monkeypatch.setattr(tags, "most", 3)
    for limit in range(1, 9):
        again(api, LIST, '"other"', limit=limit)
    assert len(tags) == 3


class Asked:
    """Answers of a store whose revision is said here, and what was made for them."""

    def __init__(self, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
        self.revision: Callable[[], int] = lambda: 8
        self.made: list[str] = []
        self._reader = reader
        self._answers = Answers()
        monkeypatch.setattr(answering, "revision", lambda _: self.revision())

    def __call__(self, key: str, tag: str = '"other"', make: Callable[[], Any] = lambda: None) -> str:
        """The tag of the answer to who has that with ``tag``."""
        request = Request({"type": "http", "headers": [(b"if-none-match", tag.encode())]})
        made = self._answers.answer(request, self._reader, key, lambda _: self._make(key, make), Reader.session)
        return made.headers["etag"]

    def _make(self, key: str, make: Callable[[], Any]) -> str:
        self.made.append(key)
        make()
        return key

    def is_made(self, key: str, tag: str) -> bool:
        """Whether the answer was made for who has it."""
        self.made.clear()
        assert self(key, tag) == tag
        return self.made == [key]


@pytest.fixture
def asking(one_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    reader = Reader(one_store.settings.url)
    yield Asked(reader, monkeypatch)
    reader.close()


def test_who_read_an_older_revision_forgets_nothing_of_the_newer(asking: Asked) -> None:
    tags: list[str] = []

    def is_overtaken() -> int:
        asking.revision = lambda: 8
        tags.extend(asking(key) for key in ("a", "b"))
        return 7

    asking.revision = is_overtaken
    asking("b")
    assert [asking.is_made(key, tag) for key, tag in zip(("a", "b"), tags, strict=True)] == [False, False]


def test_a_database_that_was_set_back_has_other_answers_at_the_same_revisions(asking: Asked) -> None:
    tag = asking("a")
    asking.revision = lambda: 7
    asking("b")
    asking.revision = lambda: 8
    assert asking.is_made("a", tag)

    def set_back() -> None:
        asking.revision = lambda: 7
        asking("b")

    tag = asking("c", make=set_back)
    asking.revision = lambda: 8
    assert asking.is_made("c", tag)


def test_where_nobody_counts_it_is_made_each_time(store: Store, api: Api) -> None:
    """Somebody has emptied the table: then what was kept is not believed."""
    tag = tag_of(api, LIST)
    again(api, LIST, tag)
    with store.engine.begin() as connection:
        [number] = connection.execute(text("SELECT revision FROM async_task_revision")).scalars()
        connection.execute(text("DELETE FROM async_task_revision"))
    try:
        tell(store, "new", OURS)
        assert again(api, LIST, tag).status_code == 200
        tag = tag_of(api, LIST)
        assert again(api, LIST, tag).status_code == 304
    finally:
        with store.engine.begin() as connection:
            connection.execute(text("INSERT INTO async_task_revision (id, revision) VALUES (1, :n)"), {"n": number})


def test_what_is_not_read_has_no_tag(api: Api) -> None:
    for answer in (api.get("/health"), api.get("/openapi.json"), api.post(f"{LIST}/purge", olderThan="1d")):
        assert (answer.status_code, "etag" in answer.headers) == (200, False)


# -- values

EXACT = [
    2**53 + 1, -(2**53) - 1, 2**63, 2**64 + 1, 10**30 + 1, 10**308 + 1, -(10**400) - 1, 0.1, 0.30000000000000004,
    1.7976931348623157e308, 5e-324, 1e-7, 123456.789,
]  # fmt: skip


@pytest.mark.every_database
def test_numbers_are_as_exact_as_they_were(store: Store, api: Api) -> None:
    run = Delivery(2)
    store.write(
        lines(
            about([run.started(3, args=EXACT, kwargs={"n": EXACT}), run.ended(Kind.SUCCEEDED, 4, result=EXACT)], "big")
        )
    )
    for answer in (api.get(f"{LIST}/big"), api.get(LIST, celeryTaskId="big")):
        shown = json.loads(answer.content, parse_float=Decimal, parse_int=Decimal)
        [task] = shown.get("results", [shown])
        expected = [Decimal(json.dumps(one)) for one in EXACT]
        assert task["taskArgs"] == task["result"] == task["taskKwargs"]["n"] == expected


NUMBERS = "[1e400, -1.5e-400, 0.1234567890123456789012345678901234567890, 1.10, 12345678901234567890.5]"


@pytest.mark.every_database
def test_numbers_that_no_float_has(store: Store, api: Api) -> None:
    """As another program may have written them."""
    with store.engine.begin() as connection:
        change = text("UPDATE async_task SET task_args = :value WHERE celery_task_id = 'ours'")
        if store.engine.dialect.name == "postgresql":
            change = text("UPDATE async_task SET task_args = CAST(:value AS JSONB) WHERE celery_task_id = 'ours'")
        connection.execute(change, {"value": NUMBERS})
    raw = api.get(f"{LIST}/ours").content
    shown = json.loads(raw, parse_float=Decimal, parse_int=Decimal)["taskArgs"]
    assert shown == json.loads(NUMBERS, parse_float=Decimal, parse_int=Decimal)
    if store.engine.dialect.name != "postgresql":
        assert NUMBERS.encode() in raw, "to the letter"


ODD: list[Any] = [
    "é 😀 \u2028 \x7f", "\\ \" </script> \r\n\t\x01", None, True, False, "", {}, [], {"": {"é": [None]}}, "null", 0,
    -0.0,
]  # fmt: skip


@pytest.mark.every_database
def test_values_of_every_kind(store: Store, api: Api) -> None:
    run = Delivery(2)
    store.write(lines(about([run.started(3, args=ODD, kwargs={}), run.ended(Kind.SUCCEEDED, 4, result="x")], "odd")))
    shown = api.ok(f"{LIST}/odd")
    assert shown["taskArgs"] == ODD
    assert (shown["taskKwargs"], shown["result"], shown["content"]) == ({}, "x", None)


@pytest.mark.every_database
def test_a_history_of_each_kind_is_shown(store: Store, api: Api) -> None:
    """Whatever happens to a task: its row, its attempts and its workflow are answered."""
    for name, history in HISTORIES.items():
        store.write(lines(about(history(), f"history-{name}")))
    listed = api.ok(LIST, limit=1000, celeryTaskId="history-")["results"]
    assert len(listed) == len(HISTORIES)
    for task in listed:
        assert api.ok(f"{LIST}/{task['celeryTaskId']}") == task
        for below in ("attempts", "workflow"):
            assert api.ok(f"{LIST}/{task['id']}/{below}")["complete"] is True
    assert published()["name"] in {task["name"] for task in listed}
