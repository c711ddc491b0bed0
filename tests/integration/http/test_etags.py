"""ETags of the HTTP API: an idle poll costs next to nothing, and no changed answer gets a 304."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import Request
from httpx import Response
from sqlalchemy import text

from celery_asynctask.core.event import Kind
from celery_asynctask.operations.erase import Erasure
from celery_asynctask.operations.session import Writer
from celery_asynctask.queries import Reader
from celery_asynctask.store import Store
from celery_asynctask.web import answer as answering
from celery_asynctask.web.answer import MAX_CACHED, Answers
from celery_asynctask.web.service import Caller
from tests.histories import Delivery, about, lines, variant
from tests.integration.bundles import bundle_of, import_into
from tests.integration.http.client import OURS, THEIRS, Api, is_problem, statements, tell
from tests.integration.purge import work

LIST = "/async-tasks"

pytestmark = pytest.mark.usefixtures("two_tenants")

READ = [LIST, f"{LIST}/ours", f"{LIST}/ours/attempts", f"{LIST}/ours/workflow", f"{LIST}/stats"]


def again(api: Api, path: str, tag: str, who: str = "admin", **parameters: Any) -> Response:
    """Repeated by a client that has the answer."""
    return api.get(path, who, {"If-None-Match": tag}, **parameters)


def tag_of(api: Api, path: str, who: str = "admin", **parameters: Any) -> str:
    answer = api.get(path, who, **parameters)
    assert answer.status_code == 200, answer.text
    return answer.headers["etag"]


@pytest.mark.usefixtures("one_minute")
@pytest.mark.parametrize("path", READ)
def test_a_caller_that_has_it_gets_not_modified(api: Api, path: str) -> None:
    tag = tag_of(api, path)
    assert re.fullmatch(r'"[0-9a-f]{32}"', tag)
    for if_none_match in (tag, f"W/{tag}", f'"other", {tag}', f'{tag},"other"', f'W/"other",W/{tag}', "*"):
        answer = again(api, path, if_none_match)
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag), if_none_match
    for if_none_match in ('"other"', tag.strip('"'), tag[:-1], f'"x{tag[1:]}', "", "W/"):
        answer = again(api, path, if_none_match)
        assert (answer.status_code, answer.headers["etag"]) == (200, tag), if_none_match


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
    """A bundle with a task that is not stored."""
    tell(store, "imported", OURS)
    reader = Reader(store.settings.url)
    bundle = bundle_of(reader, "id:imported")
    reader.close()
    with store.engine.begin() as connection:
        connection.execute(text("DELETE FROM async_task WHERE celery_task_id = 'imported'"))
    import_into(store.settings.url, bundle)


_second = Delivery(20, retries=1, customer=OURS)
_lost = {"inferred": True, "error_type": "WorkerLostError", "error_message": "gone"}
CHANGES: dict[str, Callable[[Store], Any]] = {
    "a task": lambda store: tell(store, "new", OURS),
    "a status": lambda store: store.write(run("ours", _second.ended(Kind.FAILED, 30, error_type="ValueError"))),
    "an attempt": lambda store: store.write(run("ours", _second.started(21))),
    "a note": lambda store: store.write(run("ours", Delivery(2, customer=OURS).noted(4, {"done": 1}))),
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
        now, polled = api.get(path, who), again(api, path, old.headers["etag"], who)
        if now.content == old.content:
            assert polled.status_code == 304
        else:
            changed += 1
            assert (polled.status_code, polled.content) == (now.status_code, now.content)
            assert polled.headers.get("etag") != old.headers["etag"]
    assert changed, f"{what} is seen"


def test_the_tag_of_one_customer_tells_nothing_of_another(store: Store, api: Api) -> None:
    """It would reveal that there is one, and when it works."""
    paths = [LIST, f"{LIST}/ours", f"{LIST}/ours/attempts", f"{LIST}/ours/workflow"]
    before = {path: tag_of(api, path, "ours") for path in paths}
    hidden = {path: tag_of(api, path) for path in paths}
    tell(store, "more", THEIRS)
    store.write(run("theirs", variant(_second.started(21), customer=THEIRS)))
    for path, tag in before.items():
        assert tag_of(api, path, "ours") == tag
        assert again(api, path, tag, "ours").status_code == 304
    assert tag_of(api, LIST) != hidden[LIST]


def test_callers_who_see_different_things_share_nothing(api: Api) -> None:
    """The tag of one caller gets no 304 for the other."""
    tags = {who: tag_of(api, LIST, who) for who in ("admin", "reader", "ours", "ours-read", "theirs", "nobody")}
    assert len(set(tags.values())) == len(tags)
    for who in tags:
        for other, tag in tags.items():
            answer = again(api, LIST, tag, who)
            assert answer.status_code == (304 if who == other else 200), (who, other)


def test_a_search_that_counts_from_now_is_made_again(api: Api) -> None:
    """Later it finds other tasks, although no task has changed."""
    for search, made in (("since:2d", True), ("since:today", True), ("since:2020-01-01Z", False), ("name:*", False)):
        tag = tag_of(api, LIST, search=search)
        again(api, LIST, tag, search=search)
        with statements(api) as sent:
            assert again(api, LIST, tag, search=search).status_code == 304
        assert any("async_task.created_at" in one for one in sent) is made, search


def test_statistics_of_another_minute_are_others(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    path, now = f"{LIST}/stats", dt.datetime.now(dt.timezone.utc)
    monkeypatch.setattr(Caller, "this_minute", now)
    tag = tag_of(api, path)
    assert again(api, path, tag).status_code == 304
    monkeypatch.setattr(Caller, "this_minute", now + dt.timedelta(minutes=1))
    assert again(api, path, tag).status_code == 200


def test_not_more_are_kept_than_are_to_be(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    tags = api.app.state.asynctask.answers._tags
    assert tags.limit == MAX_CACHED
    monkeypatch.setattr(tags, "limit", 3)
    for limit in range(1, 9):
        again(api, LIST, '"other"', limit=limit)
    assert len(tags) == 3


class Asked:
    """Answers of a store whose revision the test sets, and what was made for them."""

    def __init__(self, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
        self.revision: Callable[[], int] = lambda: 8
        self.made: list[str] = []
        self._reader = reader
        self._answers = Answers()
        monkeypatch.setattr(answering, "revision", lambda _: self.revision())

    def __call__(self, key: str, tag: str = '"other"', make: Callable[[], Any] = lambda: None) -> str:
        """The tag of the answer to a client that has ``tag``."""
        request = Request({"type": "http", "headers": [(b"if-none-match", tag.encode())]})
        made = self._answers.answer(request, self._reader, key, lambda _: self._make(key, make), Reader.session)
        return made.headers["etag"]

    def _make(self, key: str, make: Callable[[], Any]) -> str:
        self.made.append(key)
        make()
        return key

    def is_made(self, key: str, tag: str) -> bool:
        """Whether the answer was made for a client that has it."""
        self.made.clear()
        assert self(key, tag) == tag
        return self.made == [key]


@pytest.fixture
def asking(one_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    reader = Reader(one_store.settings.url)
    yield Asked(reader, monkeypatch)
    reader.close()


def test_a_reader_of_an_older_revision_keeps_the_newer_values(asking: Asked) -> None:
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


def test_without_a_revision_it_is_computed_each_time(store: Store, api: Api) -> None:
    """The table was emptied: kept tags do not count then."""
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
