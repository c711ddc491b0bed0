"""The page of a workflow: its three views, its windows, and what a refresh costs; on each kind of database."""

from __future__ import annotations

import datetime as dt
import html
import re
from collections.abc import Iterator
from typing import Any

import pytest
from httpx import Response
from sqlalchemy import insert, update
from starlette.routing import Mount

from celery_asynctask.console import workflow as page
from celery_asynctask.console.page import floored
from celery_asynctask.core.event import Kind
from celery_asynctask.queries.workflow import members as queries
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt
from tests.histories import Delivery, event, lines, ms, published
from tests.integration.http.client import OURS, THEIRS, Api, api_over, statements
from tests.integration.oracle import START, add, row
from tests.unit.queries.test_tree import PLANNED, RAN, UNSENT
from tests.workflows import CHARGE, CHECKOUT, INVOICE, NOTIFY, SHIP, later_step, of, order, ran

SECOND = dt.timedelta(seconds=1)
VIEWS = ("tree", "waterfall", "table")


@pytest.fixture
def api(store: Store) -> Iterator[Api]:
    with api_over(store) as made:
        yield made


def fetched(api: Api, task_id: str, who: str | None = "admin", headers: Any = (), **query: Any) -> Response:
    return api.get(f"/console/tasks/{task_id}/workflow", who, headers, **query)


def shown(api: Api, task_id: str, who: str | None = "admin", /, **query: Any) -> str:
    answer = fetched(api, task_id, who, **query)
    assert answer.status_code == 200, answer.text
    return answer.text


def rows(text: str) -> list[str]:
    """The rows of the table."""
    return re.findall(r"<tr id=.*?</tr>", text, re.DOTALL)


def plain(text: str) -> str:
    """The text of a page, with the text alternatives of its pictures."""
    text = re.sub(r'<svg[^>]*aria-label="([^"]*)".*?</svg>', r" [\1] ", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def names(text: str) -> list[str]:
    """The tasks of the rows, in their order."""
    return [task_id for one in rows(text) for task_id in re.findall(r'<a href="/console/tasks/([^"/]+)">', one)[:1]]


def links(text: str, title: str) -> list[str]:
    anchors = re.findall(r'<a [^>]*href="([^"]*)"[^>]*>([^<]*)</a>', text)
    return [html.unescape(where) for where, label in anchors if label == title]


def follow(api: Api, link: str) -> str:
    answer = api.ask("GET", link)
    assert answer.status_code == 200, answer.text
    return answer.text


def wide(store: Store, count: int, **more: Any) -> None:
    """A task with many children; the last but one has failed."""
    many = [
        row(
            f"w-{number:05d}",
            **{
                "created_at": START + number * SECOND,
                "started_at": START + (number + 1) * SECOND,
                "completed_at": START + (number + 2) * SECOND,
                "status": "FAILURE" if number == count - 2 else "SUCCESS",
                "root_task_id": "w-00000",
                "parent_task_id": "w-00000" if number else None,
                "order_key": RAN,
                **more,
            },
        )
        for number in range(count)
    ]
    add(store, many)


@pytest.mark.every_database
def test_a_tree_from_any_member(store: Store, api: Api) -> None:
    store.write(lines(order()))
    for one in (CHECKOUT, CHARGE, SHIP, NOTIFY, INVOICE):
        text = shown(api, one)
        assert names(text) == [CHECKOUT, CHARGE, SHIP, NOTIFY, INVOICE]
        assert [row for row in rows(text) if "this task" in row] == [rows(text)[names(text).index(one)]]
    text = shown(api, SHIP)
    attributes = [re.findall(r'aria-(level|posinset|setsize)="(\d+)"', one) for one in rows(text)]
    assert [tuple(int(value) for _, value in one) for one in attributes] == [
        (1, 1, 1),
        (2, 1, 2),
        (3, 1, 1),
        (4, 1, 1),
        (2, 2, 2),
    ]
    assert ["aria-expanded" in one for one in rows(text)] == [True, True, True, False, False]
    assert 'role="treegrid"' in text
    cells = [plain(one) for one in rows(text)]
    assert cells[0] == "shop.checkout ◆ critical path ✔ SUCCESS 20 ms 100 ms"
    assert cells[1] == "shop.charge ◆ critical path ✔ SUCCESS 10 ms 360 ms 1"
    assert cells[2] == "shop.ship ◆ critical path ◀ this task ✖ FAILURE 20 ms 480 ms ValueError: no stock"
    assert cells[3] == "shop.notify ✖ FAILURE never sent Not sent: shop.ship ended with ValueError: no stock"
    words = plain(text)
    assert "✔ SUCCESS 3 ✖ FAILURE 2" in words
    assert "Tasks 5, 1 never sent" in words
    assert "Duration 1.0 s" in words


def test_the_waterfall_says_in_words_what_it_draws(store: Store, api: Api) -> None:
    store.write(lines([*order(), *of("later", later_step("shop.later", 130), CHECKOUT, CHECKOUT)]))
    text = shown(api, SHIP, view="waterfall")
    assert names(text) == [CHECKOUT, CHARGE, SHIP, NOTIFY, "later", INVOICE]
    drawn = re.findall(r'<svg class="bar"[^>]*role="img" aria-label="([^"]*)">(.*?)</svg>', text)
    assert [says for says, _ in drawn] == [
        "from 0 on: queued 20 ms, ran 100 ms",
        "from +130 ms on: queued 10 ms, failed after 60 ms, delayed 200 ms, queued 10 ms, ran 90 ms",
        "from +500 ms on: queued 20 ms, failed after 480 ms",
        "never sent",
        "not sent yet",
        "from +150 ms on: queued 10 ms, ran 20 ms",
    ]
    rects = [re.findall(r'<rect class="(\w+)"', inside) for _, inside in drawn]
    assert rects[1] == ["queued", "queued", "waiting", "ran", "failed", "path"], "critical"
    assert rects[3:] == [["unsent"], ["planned"], ["queued", "ran"]]
    path = re.search(r'<rect class="path" x="([\d.]+)" y="14" width="([\d.]+)"', drawn[1][1])
    assert path is not None
    assert [float(one) for one in path.groups()] == [130, 370], "below its bars alone"
    assert "<title>attempt 1 retried by TimeoutError: 60 ms, 2025-06-15T15:06:40.140000Z to " in drawn[1][1]
    assert re.findall(r"<text [^>]*>([^<]*)</text>", text)[:2] == ["0", "+200 ms"]
    assert " style=" not in text


def test_zoom_by_links(store: Store, api: Api) -> None:
    store.write(lines(order()))
    text = shown(api, SHIP, view="waterfall")
    (nearer,) = links(text, "Zoom in")
    assert nearer == f"/console/tasks/{SHIP}/workflow?view=waterfall&zoom=2&at=0.250000000"
    assert links(text, "Zoom out") == links(text, "Later →") == []
    text = follow(api, nearer)
    assert "Zoom 2: 500 ms from" in plain(text)
    assert re.findall(r'<rect class="(\w+)"', rows(text)[0]) == [], "it was before"
    (later,) = links(text, "Later →")
    assert "at=0.500000000" in later
    assert links(text, "Zoom out") == links(text, "Fit") == [f"/console/tasks/{SHIP}/workflow?view=waterfall"]
    assert "zoom=2&at=0.250000000" in links(text, "Table")[0], "one comes back to where one was"
    assert "zoom=16&at=0.133750000" in links(shown(api, INVOICE, view="waterfall"), "To this task")[0]


def test_the_table_has_every_attempt(store: Store, api: Api) -> None:
    store.write(lines(order()))
    text = shown(api, SHIP, view="table")
    assert names(text) == [CHECKOUT, CHARGE, CHARGE, SHIP, NOTIFY, INVOICE]
    cells = [plain(one) for one in rows(text)]
    assert cells[2] == (
        "shop.charge ◆ critical path 2 ✔ SUCCESS 2 2025-06-15 15:06:40 +199 ms +400 ms +410 ms +500 ms "
        "201 ms 10 ms 90 ms succeeded celery@one"
    )
    assert 'title="2025-06-15T15:06:40.199000Z">+199 ms<' in rows(text)[2]
    assert cells[1].endswith("60 ms retried TimeoutError celery@one")
    assert "never sent no attempt; created" in cells[4]


@pytest.mark.parametrize("view", VIEWS)
def test_only_failed_branches(store: Store, api: Api, view: str) -> None:
    store.write(lines([*order(), *of("well", ran("shop.well", 0, 1, 2), "well")]))
    text = shown(api, INVOICE, view=view, failed=1)
    assert list(dict.fromkeys(names(text))) == [CHECKOUT, CHARGE, SHIP, NOTIFY]
    assert "failed" not in links(text, "Only failed branches")[0]
    assert "Tasks 5" in plain(text), "it is said of the whole workflow"
    text = shown(api, "well", view=view, failed=1)
    assert rows(text) == []
    assert "No failures in this workflow." in text
    assert "failed" not in links(text, "Show all tasks")[0]


@pytest.mark.every_database
def test_windows(store: Store, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "ROWS", 4)
    wide(store, 11)
    assert names(shown(api, "w-00000")) == [f"w-{number:05d}" for number in range(4)]
    text = shown(api, "w-00006")
    assert names(text) == [f"w-{number:05d}" for number in range(4, 8)], "the window that has it"
    assert 'aria-posinset="4" aria-setsize="10"' in rows(text)[0]
    assert 'aria-rowcount="12"' in text
    assert 'aria-rowindex="6"' in rows(text)[0]
    assert "Continues below shop.charge of earlier rows." in plain(text)
    address = "/console/tasks/w-00006/workflow"
    assert links(text, "Rows 1-4") == [f"{address}?from=0"] * 2
    assert links(text, "Rows 9-11") == [f"{address}?from=8"] * 2
    (failure,) = links(text, "To the first failure")
    assert re.fullmatch(rf"{address}\?from=8#r-\d+", failure)
    assert links(text, "To this task") == []
    text = follow(api, failure)
    assert f'id="{failure.partition("#")[2]}"' in next(one for one in rows(text) if "FAILURE" in one)
    (back,) = links(text, "To this task")
    assert back.startswith(f"{address}#r-")
    assert links(text, "To the first failure")[0].startswith("#r-")
    assert names(shown(api, "w-00006", **{"from": 2})) == [f"w-{number:05d}" for number in range(2, 6)]
    assert names(shown(api, "w-00006", **{"from": 999})) == names(text), "the last there is"
    table = shown(api, "w-00006", view="table", **{"from": 8})
    assert f'id="{links(table, "To the first failure")[0].removeprefix("#")}"' in table


def test_without_failures_there_is_no_link_to_them(store: Store, api: Api) -> None:
    store.write(lines(of("well", ran("shop.well", 0, 1, 2), "well")))
    text = shown(api, "well")
    assert links(text, "To the first failure") == []
    assert "No parent and no children of this task are recorded." in text


@pytest.mark.parametrize("view", VIEWS)
def test_a_deep_chain(store: Store, api: Api, view: str) -> None:
    tasks = [{"root_task_id": "d-000", "order_key": RAN, "status": "SUCCESS", "completed_at": START}] * 30
    add(
        store,
        [
            row(f"d-{n:03d}", **{**one, "parent_task_id": f"d-{n - 1:03d}" if n else None})
            for n, one in enumerate(tasks)
        ],
    )
    text = shown(api, "d-029", view=view)
    assert names(text) == [f"d-{n:03d}" for n in range(30)]
    if view != "table":
        assert re.findall(r'<td class="l(\d+)">', text) == [str(min(n, 12)) for n in range(30)]
        assert "level 14" in text
        assert "level 13" not in text


def test_a_workflow_that_is_only_planned(store: Store, api: Api) -> None:
    add(store, [row("p", root_task_id="p", order_key=PLANNED)])
    for view in VIEWS:
        text = plain(shown(api, "p", view=view))
        assert "1 not sent yet" in text
        assert "Ended nothing has run" in text


def test_a_part_of_a_workflow_that_is_too_large(store: Store, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "MAX_MEMBERS", 5)
    monkeypatch.setattr(page, "MAX_MEMBERS", 5)
    wide(store, 9)
    text = shown(api, "w-00008")
    assert "This workflow is too large to show whole: these are its first 5 tasks at most" in plain(text)
    (search,) = links(text, "all tasks with this root")
    assert follow(api, search).count("<tr id=") == 9
    assert "w-00008" in names(text)


def test_of_a_task_with_many_attempts_the_last_ones(store: Store, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    wide(store, 2)
    attempt = {
        "celery_task_id": "w-00001",
        "name": "x",
        "redelivered": False,
        "end_key": "",
        "customer_key": "",
        "outcome": "retried",
    }
    with store.engine.begin() as connection:
        attempts = [
            {
                **attempt,
                "run_key": f"{n:03d}",
                "retries": n,
                "started_at": START + n * SECOND,
                "ended_at": START + (n + 1) * SECOND,
            }
            for n in range(40)
        ]
        connection.execute(insert(AsyncTaskAttempt), attempts)
    assert len(rows(shown(api, "w-00001", view="table"))) == 41
    monkeypatch.setattr(page, "MAX_SHOWN_RUNS", 20)
    text = shown(api, "w-00001", view="table")
    assert "The first 30 attempts are left out" in text
    assert [re.findall(r'id="a-\d+(-\d+)?"', one)[0] for one in rows(text)][1:] == [
        "",
        *(f"-{n}" for n in range(31, 41)),
    ]
    text = shown(api, "w-00001", view="waterfall")
    assert text.count('class="failed"') == 1 + 30
    assert "the first 10 attempts are left out" in text


def test_a_refresh_costs_one_read(store: Store, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it has ended; while a task is under way, the page stays the same for some seconds."""
    wide(store, 3)
    for view in VIEWS:
        tag = {"If-None-Match": fetched(api, "w-00001", view=view).headers["etag"]}
        assert fetched(api, "w-00001", headers=tag, view=view).status_code == 304
        with statements(api) as sent:
            monkeypatch.setattr(page, "floored", lambda _now, _pace: START + 90 * SECOND)
            assert fetched(api, "w-00001", headers=tag, view=view).status_code == 304
        assert len([one for one in sent if "FROM" in one]) == 1


def test_bars_grow_while_something_is_under_way(store: Store, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    wide(store, 2, status="STARTED", completed_at=None)
    now = START + 100 * SECOND
    paces = []

    def at(_now: dt.datetime, pace: int) -> dt.datetime:
        paces.append(pace)
        return now

    monkeypatch.setattr(page, "floored", at)
    answer = fetched(api, "w-00001", view="waterfall")
    assert "1 m 40 s so far" in answer.text
    tag = {"If-None-Match": answer.headers["etag"]}
    assert fetched(api, "w-00001", headers=tag, view="waterfall").status_code == 304
    now += 2 * SECOND
    answer = fetched(api, "w-00001", headers=tag, view="waterfall")
    assert (answer.status_code, "1 m 42 s so far" in answer.text) == (200, True)
    with store.engine.begin() as connection:
        connection.execute(update(AsyncTask).values(status="SUCCESS", completed_at=START + 9 * SECOND))
    answer = fetched(api, "w-00001", view="waterfall")
    assert "Duration 9.0 s" in plain(answer.text)
    assert set(paces) == {2}


def test_of_so_many_workflows_it_is_known_how_long_they_last(
    store: Store, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted: list[Any] = [one.app for one in api.app.routes if isinstance(one, Mount)]
    [paces] = (one.state.paces for one in mounted)
    assert paces.limit == 1000
    monkeypatch.setattr(paces, "limit", 2)
    wide(store, 4)
    for number in (1, 2, 3):
        fetched(api, f"w-0000{number}")
    assert [path for _, path in paces] == [f"/tasks/w-0000{number}/workflow" for number in (2, 3)]


def test_how_long_a_picture_lasts() -> None:
    at = dt.datetime(2026, 1, 31, 12, 0, 7, 123, tzinfo=dt.timezone.utc)
    assert floored(at, 2) == at.replace(second=6, microsecond=0)
    assert floored(at, 16) == at.replace(second=0, microsecond=0)
    known = page.Summary({}, 10, 0, 0, True, START, None, 60 * SECOND)
    assert page.pace_of(known) == 2
    assert page.pace_of(known._replace(tasks=10_000)) == 16
    assert page.pace_of(known._replace(took=dt.timedelta(days=1))) == 256
    assert page.pace_of(known._replace(under_way=False)) == 0


def test_others_tasks_are_not_there(store: Store, api: Api) -> None:
    mine = {"root_task_id": "root", "parent_task_id": "root", "customer": OURS, "order_key": RAN}
    tasks = [row("root", **{**mine, "parent_task_id": None}), row("mine", **mine)]
    add(store, [*tasks, row("foreign", **{**mine, "customer": THEIRS})])
    for view in VIEWS:
        assert set(names(shown(api, "mine", "ours", view=view))) == {"root", "mine"}
        assert set(names(shown(api, "foreign", "theirs", view=view))) == {"foreign"}
        assert fetched(api, "foreign", "ours", view=view).status_code == 404
    assert fetched(api, "nothing").status_code == 404
    assert fetched(api, "mine", None).status_code == 401
    number = re.findall(r'id="r-(\d+)"', shown(api, "mine", "ours"))[0]
    assert set(names(shown(api, number, "ours"))) == {"root", "mine"}, "by its own number"


@pytest.mark.parametrize(
    "query",
    [
        {"view": "bars"},
        {"failed": "yes"},
        {"from": "-1"},
        {"from": "1" * 7},
        {"from": "٣"},
        {"zoom": "3"},
        {"zoom": "2048"},
        {"at": "1.5"},
        {"at": "nan"},
        {"at": "-0.1"},
        {"unknown": "1"},
    ],
)
def test_what_is_not_understood(store: Store, api: Api, query: dict[str, str]) -> None:
    store.write(lines(order()))
    assert fetched(api, SHIP, **query).status_code == 422


HOSTILE = "</title><script>alert(1)</script>\"'&\u202e\u0000\x1b[31m"


@pytest.mark.parametrize("view", VIEWS)
def test_hostile_texts_are_inert(store: Store, api: Api, view: str) -> None:
    name = HOSTILE.replace("\x00", "")
    about = {"error_type": name[:100], "error_message": name + "x" * 10_000}
    error = row("h", name=name, root_task_id="h", status="FAILURE", completed_at=START, order_key=RAN, **about)
    add(store, [error])
    attempt = {
        "celery_task_id": "h",
        "name": name,
        "redelivered": False,
        "end_key": "",
        "customer_key": "",
        "run_key": "0",
        "retries": 0,
    }
    times = {"started_at": START, "ended_at": START + SECOND}
    with store.engine.begin() as connection:
        connection.execute(insert(AsyncTaskAttempt), [{**attempt, **times, "worker": name, "outcome": "failed"}])
    text = shown(api, "h", view=view)
    assert "<script>alert" not in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert len(text) < 20_000


def test_an_id_with_a_slash(store: Store, api: Api) -> None:
    told = [published(0), Delivery(1).started(2), Delivery(1).ended(Kind.SUCCEEDED, 9)]
    store.write(lines(of("import/2026", [*told], "import/2026")))
    assert len(rows(shown(api, "import/2026"))) == 1
    unsent = event(Kind.UNSENT, 9, asked=True, created=ms(1), args=[], kwargs={})
    store.write(lines(of("step", [unsent], "import/2026", "import/2026")))
    assert names(shown(api, "step", view="table"))[-1] == "step"
    assert UNSENT != RAN
