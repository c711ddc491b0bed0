"""The console's page of workers and health: processes, events, backlog, database; on each kind of database."""

from __future__ import annotations

import datetime as dt
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from celery_asynctask.console import workers
from celery_asynctask.core.event import Event
from celery_asynctask.errors import JournalError
from celery_asynctask.journal import Journal
from celery_asynctask.store import Store
from celery_asynctask.store.tables import SCHEMA_VERSION
from celery_asynctask.web import health, service
from tests.histories import SOURCE, Delivery, lines, published
from tests.integration.draining import MakeDrain, append
from tests.integration.http.client import Api, api_over, statements
from tests.integration.oracle import START
from tests.integration.queries.test_processes import LOST, process, run

HOSTILE = "<script>alert(1)</script>\u202e"


def now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


@pytest.fixture
def api(store: Store, tmp_path: Path) -> Iterator[Api]:
    with api_over(store, asynctask_journal_dir=str(tmp_path / "journal")) as made:
        yield made


@pytest.fixture(autouse=True)
def _always_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "KEPT_SECONDS", 0)


def page(api: Api, who: str = "admin", status: int = 200, **parameters: Any) -> str:
    answer = api.get("/console/workers", who, **parameters)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return answer.text


def cells(text: str, row: str) -> list[str]:
    """The texts of a row's cells."""
    [row_html] = re.findall(rf'<tr id="{row}">(.*?)</tr>', text, re.S)
    each = re.findall(r"<td[^>]*>(.*?)</td>", row_html, re.S)
    return [html.unescape(" ".join(re.sub(r"<[^>]*>", " ", one).split())) for one in each]


def rows(text: str) -> list[str]:
    return re.findall(r'<tr id="p-([^"]*)"', text)


@pytest.mark.every_database
def test_processes(store: Store, api: Api) -> None:
    seen = now()
    process(store, "alive", last_seen_at=seen, pid=17)
    process(store, "silent", last_seen_at=seen - dt.timedelta(minutes=5))
    process(store, "gone", last_seen_at=seen, ended_at=seen)
    run(store, "running", "STARTED", {"source": "alive"}, name="shop.report")
    run(store, "lost", "LOST", {"source": "gone", **LOST})
    text = page(api)
    assert rows(text) == ["alive", "silent", "gone"]
    running = "1 task shop.report since 2026-01-31 12:00:00 , running"
    assert cells(text, "p-alive")[:5] == ["web1 17", "● alive", running, "", "child"]
    assert 'href="/console/tasks/running"' in text
    assert f'data-since="{START:%Y-%m-%dT%H:%M:%S}.000000Z"' in text
    assert cells(text, "p-silent")[1] == "◌ silent"
    assert cells(text, "p-gone")[1:4] == ["○ gone", "", "1 task shop.charge since 2026-01-31 12:00:00"]


@pytest.mark.every_database
def test_the_equation(store: Store, api: Api) -> None:
    process(store, "whole", last_seen_at=now(), ended_at=now(), stored=1234, last_number=1234)
    lacks = {"last_number": 9, "stored": 4, "quarantined": 2, "dropped": {"journal_full": 3}}
    process(store, "lacks", last_seen_at=now(), ended_at=now(), **lacks)
    text = page(api)
    assert cells(text, "e-whole")[3:] == ["1,234", "1,234", "0", "0", "0", "0"]
    assert cells(text, "e-lacks")[3:] == ["12", "4", "0", "2", "3 journal full 3", "3"]
    tiles = "Accepted 1,246 Stored 1,238 In the journal 0 In quarantine 2 Dropped 3 journal full 3 Missing 3"
    assert tiles in " ".join(re.sub(r"<[^>]*>", " ", text).split())
    assert "Not complete: of 1,246 events of 2 processes, 3 missing (web1)" in text
    assert "Missing: written, and gone before they were stored" in text
    assert "Only processes that have recorded something are listed." in text


def test_files_in_the_journal(store: Store, api: Api, journal: Journal, make_drain: MakeDrain) -> None:
    append(journal, *(cast("Event", {**published(), "id": f"task-{number}"}) for number in range(3)))
    text = page(api)
    [new] = rows(text)
    assert cells(text, f"p-{new}")[1] == "nothing stored yet"
    assert cells(text, f"e-{new}")[3:] == ["3", "0", "3 no recorder running", "0", "0", "0"]
    assert "No recorder running</b>" in text
    assert "3 events, oldest" in text
    make_drain().work()
    text = page(api)
    assert rows(text) == [new]
    assert cells(text, f"e-{new}")[3:] == ["3", "3", "0", "0", "0", "0"]
    assert "<dt>Backlog here</dt><dd>0</dd>" in text
    assert "Complete: 3 events of 1 process." in text


def test_a_process_is_there_once(
    store: Store, api: Api, journal: Journal, make_drain: MakeDrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger is some seconds old: none of its events was stored then."""
    monkeypatch.setattr(service, "KEPT_SECONDS", 60)
    append(journal, published())
    [new] = rows(page(api))
    make_drain().work()
    text = page(api)
    assert rows(text) == [new]
    assert "nothing stored yet" not in text


@pytest.mark.every_database
def test_journals_that_are_not_seen(store: Store, api: Api) -> None:
    process(store, "old", last_seen_at=now())
    process(store, "far", last_seen_at=now(), numbered=5)
    text = page(api)
    assert cells(text, "e-old")[5] == "unknown"
    assert cells(text, "e-far")[3:6] == ["5", "3", "2"]
    assert "Complete: 8 events of 2 processes, of which 2 are on their way to the database." in text
    assert "no journal" in text


@pytest.mark.every_database
def test_of_whom_nobody_knows_what_they_did_last(store: Store, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = now() - dt.timedelta(minutes=5)
    process(store, "silent", last_seen_at=seen, numbered=5)
    process(store, "hostile", last_seen_at=seen, numbered=3, host=HOSTILE)
    process(store, "given-up", last_seen_at=seen, numbered=4, given_up_at=now(), host="web2")
    text = page(api)
    told = " ".join(re.sub(r"<[^>]*>", " ", text).split())
    assert "Not known: what 2 processes of" in told
    assert f"web1: 1 process, not heard since {seen:%Y-%m-%d %H:%M:%S}" in told
    assert f"Given up: web2: 1 process, not heard since {seen:%Y-%m-%d %H:%M:%S}" in told
    assert "verify --accept HOST" in told
    assert "Given up 1" in told
    assert HOSTILE not in text
    assert cells(text, "e-silent")[5] == "2 not heard since"
    assert cells(text, "e-given-up")[3:] == ["4", "3", "0", "0", "0", "0 1 given up"]
    assert 'class="notice bad"><b>Not known' in text
    monkeypatch.setattr(workers, "MAX_HOSTS", 1)
    assert "and 1 more hosts" in page(api)


@pytest.mark.parametrize("fault", [PermissionError(13, "not yours"), JournalError("The journal cannot be used.")])
def test_a_journal_that_cannot_be_read(
    store: Store, api: Api, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_directory: Path) -> Any:
        raise fault

    monkeypatch.setattr(health, "survey_of", refuse)
    process(store, "a", last_seen_at=now())
    text = page(api)
    assert "user cannot read the journal on this host" in text
    assert cells(text, "e-a")[4] == "3"


def test_the_database_is_not_held_while_the_journal_is_read(
    store: Store, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    page(api)  # the first request makes connections
    pool: Any = api.app.state.asynctask.reader.engine.pool
    held: list[int] = []

    def look(directory: Path) -> None:
        held.append(pool.checkedout())

    monkeypatch.setattr(health, "survey_of", look)
    page(api)
    assert held == [0]


def test_the_ledger_is_kept(store: Store, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []
    monkeypatch.setattr(service, "KEPT_SECONDS", 60)
    monkeypatch.setattr(health, "survey_of", looked.append)
    process(store, "a", last_seen_at=now())
    page(api)
    process(store, "b", last_seen_at=now())
    text = page(api)
    assert len(looked) == 1
    assert cells(text, "e-a")[4] == "3"
    assert cells(text, "e-b")[3:] == ["in a few seconds"]


def test_those_that_are_gone_are_bounded(store: Store, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MAX_GONE", 2)
    monkeypatch.setattr(workers, "ALL_GONE", 3)
    for number in range(5):
        at = START + dt.timedelta(minutes=number)
        process(store, f"gone-{number}", last_seen_at=at, ended_at=at)
    process(store, "alive", last_seen_at=now())
    process(store, "idle", ended_at=START, segment=0, position=0, last_number=0, stored=0, last_seen_at=START)
    text = page(api)
    assert rows(text) == ["alive", "gone-4", "gone-3"]
    assert "Showing 3 of 7 processes." in text
    assert 'href="/console/workers?all=1"' in text
    text = page(api, all="1")
    assert rows(text) == ["alive", "gone-4", "gone-3", "gone-2"]
    assert 'href="/console/workers?all=1"' not in text
    page(api, status=422, all="2")


def test_recorder(store: Store, api: Api) -> None:
    assert "never" in page(api)
    process(store, "a", last_seen_at=now() - dt.timedelta(hours=1))
    assert "No recorder has written for over 90 seconds" in page(api)
    process(store, "b", last_seen_at=now())
    assert "No recorder has written" not in page(api)


def test_what_is_kept(store: Store, api: Api) -> None:
    text = page(api)
    assert f"<dt>Schema</dt><dd>{SCHEMA_VERSION}</dd>" in text
    assert re.search(r"<dt>Size</dt><dd>[\d.,]+ [kM]?B", text)
    assert "Everything is kept forever" in text
    with api_over(store, asynctask_retention={"status:SUCCESS": "30d", "customer:42": None}) as other:
        text = page(other)
    assert "<code>status:SUCCESS</code></dt><dd>30 days</dd>" in text
    assert "<code>customer:42</code></dt><dd>forever</dd>" in text
    with api_over(store, asynctask_retention={"no:such": "30d"}) as other:
        assert "has the rule &#39;no:such&#39;" in page(other)


def test_a_customer_sees_no_process(store: Store, api: Api) -> None:
    process(store, "secret", host="secret.example", last_seen_at=now())
    run(store, "ours", "STARTED", {"source": "secret"}, customer=42)
    with statements(api) as sent:
        text = page(api, "ours")
    assert "Processes belong to no customer" in text
    assert "secret" not in text
    assert not any("async_task_source" in statement for statement in sent)
    assert "secret.example" in page(api, "reader")
    assert api.get("/console/workers", "ours-none").status_code == 403


def test_where_there_is_nothing(store: Store, api: Api) -> None:
    text = page(api)
    assert "No processes yet" in text
    assert "Nothing to check" in text
    assert rows(text) == []


def test_bounded_runs_are_said(store: Store, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_asynctask.queries.processes.MAX_RUNNING", 1)
    monkeypatch.setattr("celery_asynctask.queries.processes.MAX_LOST", 1)
    process(store, "a", last_seen_at=now())
    for number in range(2):
        run(store, f"running-{number}", "STARTED", {"source": "a"})
        run(store, f"lost-{number}", "LOST", {"source": "a", **LOST})
    text = page(api)
    assert "tasks are running; those created before" in text
    assert "tasks are lost; those created before" in text


def test_hostile_texts(store: Store, api: Api) -> None:
    process(store, "a", host=HOSTILE, last_seen_at=now(), dropped={HOSTILE: 1})
    run(store, "running", "STARTED", {"source": "a"}, name=HOSTILE)
    text = page(api)
    assert "<script>alert" not in text
    assert "\u202e" not in text
    assert text.count("&lt;script&gt;alert") >= 3


def test_what_a_worker_leaves(store: Store, api: Api) -> None:
    """Written by way of the store, as by a recorder."""
    process(store, SOURCE, last_seen_at=now())
    store.write(lines([published(), Delivery(2).received(), Delivery(2).started(3)]))
    assert cells(page(api), f"p-{SOURCE}")[2].startswith("1 task shop.charge since")
