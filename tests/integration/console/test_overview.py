"""The overview, the task types and one of them: numbers, links, and what each caller sees."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from celery_asynctask.console import names, overview
from celery_asynctask.core.reasons import NotSent
from celery_asynctask.journal import Journal
from celery_asynctask.queries.search.filter import term
from celery_asynctask.queries.statistics import overview as overview_query
from celery_asynctask.queries.statistics.series import series
from celery_asynctask.store import Position, SourceUpdate, Store
from celery_asynctask.web import service
from celery_asynctask.web.service import Caller
from tests.histories import START, published
from tests.integration.draining import append
from tests.integration.http.client import OURS, THEIRS, Api, api_over, statements
from tests.integration.oracle import add, row

NOW = dt.datetime(2026, 2, 1, 12, 30, tzinfo=dt.timezone.utc)
MINUTE = dt.timedelta(minutes=1)
HOSTILE = "<script>alert(1)</script>\"'\u202e&amp;"
ODD = (
    "",
    " ",
    "..",
    ".",
    "a/b/../c",
    "two words",
    'it\'s "quoted"',
    "back\\slash",
    "a?b=c&d#e%2F",
    "*",
    "[a]",
    "日本.語",
)


class Html(HTMLParser):
    """Links, tags and text of a page; like a browser, it raises nothing."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "a":
            self.links.append((dict(attrs).get("href") or "", ""))
            self._inside = "a"

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._inside = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._inside == "a":
            href, text = self.links[-1]
            self.links[-1] = href, text + data

    def to(self, text: str) -> str:
        """The address of the first link with this text, or else of the first that contains it."""
        return next(
            href
            for exactly in (True, False)
            for href, label in self.links
            if label == text or (not exactly and text in label)
        )


@pytest.fixture
def api(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setattr(Caller, "this_minute", NOW)
    with api_over(store, asynctask_journal_dir=str(tmp_path / "journal")) as made:
        yield made


def page(api: Api, path: str, who: str = "admin", status: int = 200, **parameters: Any) -> Html:
    """A page. Its ids are unique, live regions have one, and no style or script is inline."""
    more = {"params": parameters} if parameters else {}
    answer = api.ask("GET", f"/console{path}", who, **more)
    assert answer.status_code == status, answer.text
    document = Html(answer.text)
    ids = [about["id"] for _, about in document.tags if "id" in about]
    assert len(ids) == len(set(ids))
    assert all(about.get("id") for _, about in document.tags if "data-live" in about)
    assert not any("style" in about or any(name.startswith("on") for name in about) for _, about in document.tags)
    assert all(about.get("src") for tag, about in document.tags if tag == "script")
    assert sum(tag == "h1" for tag, _ in document.tags) == 1
    return document


def query(href: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(href).query)


def ended(task_id: str, minutes: float, run: float = 1, status: str = "SUCCESS", **more: Any) -> dict[str, Any]:
    """A task created ``minutes`` ago, started a second later, and ended ``run`` seconds after that."""
    created = NOW - minutes * MINUTE
    started = created + MINUTE / 60
    completed = started + run * MINUTE / 60
    times = {"created_at": created, "started_at": started, "completed_at": completed}
    return row(task_id, **{"error_type": None, "error_message": None, **times, "status": status, **more})


@pytest.fixture
def some(store: Store) -> None:
    failed: dict[str, Any] = {"error_type": "KeyError", "error_message": HOSTILE}
    add(
        store,
        [
            ended("fine", 5, customer=OURS),
            ended("slow", 70, 40, name=HOSTILE, customer=OURS),
            ended("broken", 10, status="FAILURE", customer=OURS, **failed),
            ended("old", 60 * 30, status="FAILURE", customer=OURS, **failed),
            ended("gone", 20, status="LOST", name="shop.refund", customer=THEIRS),
            {**ended("runs", 3, status="STARTED", customer=OURS), "completed_at": None},
            {**ended("waits", 1, status="PENDING", customer=THEIRS), "started_at": None, "completed_at": None},
        ],
    )


def test_an_empty_store_greets_a_newcomer(api: Api) -> None:
    document = page(api, "/")
    for text in ("Nothing is recorded yet", "Your first task", "RecordedTask", "asynctask_url", "doctor"):
        assert text in document.text
    assert "No tasks created in the last 24 hours." in page(api, "/names").text


def test_an_empty_store_shows_a_customer_no_processes(api: Api) -> None:
    document = page(api, "/", "ours")
    assert "No tasks of your customers" in document.text
    assert "process" not in document.text.lower()


@pytest.mark.every_database
def test_from_each_count_to_its_tasks(api: Api, some: None) -> None:
    document = page(api, "/")
    assert query(document.to("1 now")) == {"status": ["STARTED"]}
    assert query(document.to("2 in the last hour")) == {
        "search": ["since:1h"],
        "status": ["FAILURE", "LOST", "REJECTED"],
    }
    assert query(document.to("shop.charge 1")) == {"search": ['name:"shop.charge"'], "status": ["STARTED"]}
    assert query(document.to("1 in total")) == {"status": ["LOST"]}
    assert "of 5 tasks created in that hour" in document.text
    for text in ("PENDING 1", "RECEIVED 0", "RETRY 0", "Last hour: 5", "40 % of 5"):
        assert text in " ".join(document.text.split()), text


@pytest.mark.every_database
def test_a_lost_task_is_open_for_a_day_unless_it_was_rerun(api: Api, store: Store) -> None:
    """It counts by when it was lost, whenever it was created; the total links to all."""
    add(store, [ended("long-ago", 60 * 30, status="LOST")])
    assert lost_tile(api) == ("0 in the last 24 h", "1 in total", False)
    add(store, [ended("late", 60 * 30, 60 * 60 * 7, status="LOST"), ended("gone", 20, status="LOST")])
    assert lost_tile(api) == ("2 in the last 24 h", "3 in total", True)
    document = page(api, "/")
    assert query(document.to("2 in the last 24 h")) == {"search": ["completed:>=1d"], "status": ["LOST"]}
    rerun: dict[str, Any] = {"root_task_id": "again", "content": {"rerun_of": "gone"}}
    add(store, [ended("again", 10, **rerun)])
    assert lost_tile(api) == ("2 in the last 24 h", "1 rerun since · 3 in total", True)
    add(store, [ended("again-2", 10, **{**rerun, "root_task_id": "again-2", "content": {"rerun_of": "late"}})])
    assert lost_tile(api) == ("2 in the last 24 h", "2 rerun since · 3 in total", False)


def test_where_nothing_is_lost(api: Api, store: Store) -> None:
    add(store, [ended("fine", 5)])
    assert lost_tile(api) == ("0 in the last 24 h", "No tasks lost", False)


def lost_tile(api: Api) -> tuple[str, str, bool]:
    """The tile's number, the text below it, and whether it is an alarm."""
    text = api.ask("GET", "/console/").text
    tile = text[text.index("<h2>Lost</h2>") :]
    tile = tile[: tile.index("</section>")]
    number, below = (" ".join(re.sub(r"<[^>]+>", "", one).split()) for one in re.findall(r"<p.*?</p>", tile, re.S))
    return number, below.partition(" · newest")[0], "s-lost" in tile


def test_a_failure_is_one_click_away_and_says_why(api: Api, some: None) -> None:
    document = page(api, "/")
    links = [href for href, _ in document.links]
    links = [link.partition("?customer=")[0] for link in links]
    assert {f"/console/tasks/{one}" for one in ("broken", "old", "gone", "runs")} <= set(links)
    assert links.index("/console/tasks/broken") < links.index("/console/tasks/old")
    assert "KeyError: <script>alert(1)</script>" in document.text
    assert "the outcome is unknown" in document.text
    assert "\u202e" not in document.text
    assert any(about.get("data-since") for _, about in document.tags)


@pytest.mark.parametrize("path", ["/", "/name?name=shop.charge", "/tasks"])
def test_a_task_that_was_never_sent_names_the_failure_before_it(api: Api, store: Store, path: str) -> None:
    """Without ids, which would push the cause out of view; and the first failure, not the steps in between."""
    between = NotSent("shop.ship", "id-2", str(NotSent("shop.pack", "id-1", "no stock")))
    error = {"error_type": "ValueError", "error_message": str(between), "started_at": None}
    own = {**error, "started_at": NOW, "error_message": str(between)}
    add(store, [{**ended("unsent", 5, status="FAILURE"), **error}, {**ended("ran", 5, status="FAILURE"), **own}])
    text = page(api, path).text
    assert "Not sent: shop.pack ended with ValueError: no stock" in text
    assert "ValueError: Not sent: upstream task shop.ship [id-2]" in text, "an error of its own that says the same"
    assert text.count("shop.ship") == 1


def tell(store: Store, numbered: int, stored: int) -> None:
    """A process that wrote ``numbered`` events, of which ``stored`` are stored."""
    source = {"source": "a", "host": "h", "pid": 1, "role": "child", "at": START, "journal": "j"}
    store.write([], [SourceUpdate(source, Position(last_number=numbered, stored=stored))])
    store.note_ended("j", [], dt.timedelta(0))


def test_whether_the_record_is_complete(api: Api, store: Store, some: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "KEPT_SECONDS", 0)
    tell(store, 12, 12)
    document = page(api, "/")
    assert document.text.count("Complete: 12 events of 1 process.") == 1
    assert urlsplit(document.to("Details")).path == "/console/workers"
    tell(store, 20, 15)
    document = page(api, "/")
    assert "Not complete: of 20 events of 1 process, 5 missing (h)." in document.text


def test_a_customer_sees_only_their_own(api: Api, store: Store, some: None) -> None:
    tell(store, 20, 15)
    document = page(api, "/", "theirs")
    text = document.text.lower()
    assert "/console/tasks/gone" in [href for href, _ in document.links]
    assert "complete" not in text
    assert "events" not in text
    assert "keyerror" not in text
    assert "shop.refund" in page(api, "/names", "theirs").text
    assert "script" not in page(api, "/names", "theirs").text
    page(api, "/name", "theirs", 404, name=HOSTILE)
    assert "/console/tasks/fine" not in str(page(api, "/name", "theirs", name="shop.charge").links)


def test_a_caller_that_has_a_page_gets_not_modified(api: Api, some: None) -> None:
    for path in ("/", "/names", "/name?name=shop.charge"):
        again = {"If-None-Match": api.ask("GET", f"/console{path}").headers["etag"]}
        assert api.ask("GET", f"/console{path}", headers=again).status_code == 304
        with statements(api) as sent:
            assert api.ask("GET", f"/console{path}", headers=again).status_code == 304
        assert sum("async_task_revision" in one for one in sent) == 1
        assert not any("created_at" in one for one in sent)


def test_another_verdict_is_another_page(
    api: Api, some: None, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the database has not changed."""
    monkeypatch.setattr(service, "KEPT_SECONDS", 0)
    again = {"If-None-Match": api.ask("GET", "/console/").headers["etag"]}
    assert api.ask("GET", "/console/", headers=again).status_code == 304
    append(journal, published())
    answer = api.ask("GET", "/console/", headers=again)
    assert (answer.status_code, "Not complete: of 1 event" in answer.text) == (200, True)


def test_names(api: Api, some: None) -> None:
    document = page(api, "/names")
    assert [label for href, label in document.links if "/name?" in href] == [
        "shop.charge",
        HOSTILE.replace("\u202e", "\N{REPLACEMENT CHARACTER}"),
        "shop.refund",
    ]
    assert query(document.to("4")) == {"search": ['since:1d name:"shop.charge"']}
    assert {"search": [f"since:1d {term('name', HOSTILE)}"]} in [query(href) for href, _ in document.links]
    assert "Last 24 hours" in document.text


@pytest.mark.every_database
@pytest.mark.parametrize("order", names.ORDERS)
def test_each_order_of_names(api: Api, some: None, order: str) -> None:
    document = page(api, "/names", order=order)
    shown = [label for href, label in document.links if "/name?" in href]
    assert len(shown) == 3
    assert [about for tag, about in document.tags if tag == "th" and "aria-sort" in about]
    first = {"name": HOSTILE[:8], "rate": "shop.refund", "run-p95": HOSTILE[:8]}.get(order)
    assert first is None or shown[0].startswith(first)


@pytest.mark.every_database
def test_a_search_of_names(api: Api, some: None) -> None:
    document = page(api, "/names", search="name:shop.* status:LOST")
    assert [label for href, label in document.links if "/name?" in href] == ["shop.refund"]
    assert query(document.to("1"))["search"] == ['name:shop.* status:LOST since:1d name:"shop.refund"']
    assert "No tasks match in the last 24 hours" in page(api, "/names", search="name:none.such").text
    refused = page(api, "/names", status=422, search="nokey:1")
    assert "no key 'nokey'" in refused.text
    assert ("input", "nokey:1") in [(tag, about.get("value")) for tag, about in refused.tags]
    page(api, "/names", "reader", 403, search="kwargs.a:1")
    page(api, "/names", status=422, order="size")
    page(api, "/names", status=422, limit="5")


def test_the_bound_of_a_search_is_shown(api: Api, some: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MAX_SCANNED", 2)
    document = page(api, "/names")
    assert "Of the newest 2 tasks, back to" in document.text
    monkeypatch.setattr(overview, "MAX_SCANNED", 48)
    document = page(api, "/")
    assert "sampled from the newest 2 tasks per hour." in document.text
    assert "Counts stop" not in document.text
    assert "Last hour: 5" in document.text
    monkeypatch.setattr(overview, "series", partial(series, max_counted=4))
    document = page(api, "/")
    assert "Counts stop at 4 tasks per hour." in document.text
    assert "Last hour: 4 or more" in document.text
    assert "counts by name" not in document.text
    for module in (overview, overview_query):
        monkeypatch.setattr(module, "MAX_RUNNING", 1)
    document = page(api, "/")
    assert "The counts by name cover 1 running tasks." in document.text
    assert "Of the 1 running tasks created first." in document.text


def test_the_database_is_not_queried_on_the_event_loop(api: Api, some: None, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Caller.__dict__["reader"].func

    def reader(caller: Caller) -> Any:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        return make(caller)

    monkeypatch.setattr(Caller, "reader", property(reader))
    for path in ("/", "/names", "/name?name=shop.charge"):
        page(api, path)
        page(api, path, "theirs")


def test_common_terms_are_added_to_what_was_typed(api: Api, some: None) -> None:
    document = page(api, "/names", search="name:shop.*", order="name")
    assert query(document.to("Last hour")) == {"search": ["name:shop.* since:1h"], "order": ["name"]}
    document = page(api, "/names", search="name:shop.* since:1h")
    assert query(document.to("Last hour")) == {"search": ["name:shop.* since:1h"]}
    assert query(page(api, "/names").to("Last day")) == {"search": ["since:1d"]}


def test_an_hour_of_names_is_the_same_within_a_minute(api: Api, some: None) -> None:
    path = "/names?search=since:1h"
    assert "shop.refund" in page(api, path).text
    again = {"If-None-Match": api.ask("GET", f"/console{path}").headers["etag"]}
    for _ in range(2):
        assert api.ask("GET", f"/console{path}", headers=again).status_code == 304


@pytest.mark.parametrize("name", ["", " "])
def test_a_task_without_a_name_can_be_clicked(api: Api, store: Store, name: str) -> None:
    runs = {**ended("runs", 3, status="STARTED", name=name), "completed_at": None}
    add(store, [ended("broken", 5, name=name, status="FAILURE"), ended("gone", 5, name=name, status="LOST"), runs])
    labels = [labels for _, labels in page(api, "/").links]
    assert labels.count("(no name)") == 4
    assert "(no name) 1" in labels
    assert all(one.strip() for one in labels)


@pytest.mark.every_database
def test_one_name(api: Api, some: None) -> None:
    document = page(api, "/name", name="shop.charge")
    links = [href for href, _ in document.links]
    assert f"/console/tasks/fine?customer={OURS}" in links, "another customer may use the id, too"
    links = [link.partition("?customer=")[0] for link in links]
    assert {f"/console/tasks/{one}" for one in ("fine", "broken", "old", "runs", "waits")} <= set(links)
    assert "/console/tasks/gone" not in links
    assert "1, 25 %" in document.text
    assert query(document.to("Failures"))["search"] == ['name:"shop.charge"']


@pytest.mark.every_database
@pytest.mark.parametrize("name", ODD)
def test_any_name_has_a_page(api: Api, store: Store, name: str) -> None:
    add(store, [ended("one", 5, name=name), ended("other", 5, name="other", status="FAILURE")])
    shown = name if name.strip() else "(no name)"
    document = page(api, page(api, "/names").to(shown).removeprefix("/console"))
    links = [to for to, _ in document.links]
    assert "/console/tasks/one" in links
    assert "/console/tasks/other" not in links
    [task] = [to for to, text in page(api, document.to("All tasks").removeprefix("/console")).links if "/tasks/" in to]
    assert task == "/console/tasks/one"


def test_a_name_that_is_not_there(api: Api) -> None:
    assert "no.such" in page(api, "/name", status=404, name="no.such").text
    page(api, "/name", status=404)
    page(api, "/name", status=422, name="a\0b")
    page(api, "/name", status=422, name="x" * 3000)
    page(api, "/name", status=422, of="a")
