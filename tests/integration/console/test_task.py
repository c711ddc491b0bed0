"""The console's page of a task, and its values as files; on each kind of database."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

import pytest
from celery import Celery
from sqlalchemy import insert, select, text, update

from celery_asynctask.console import task
from celery_asynctask.core.event import Event
from celery_asynctask.queries import task as task_query
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt, AsyncTaskSource
from tests.histories import SOURCE, Delivery, about, lines, published
from tests.integration.console.pages import look, sent_form, words
from tests.integration.http.client import OURS, THEIRS, Api, api_over, statements, tell
from tests.integration.oracle import START as AT
from tests.integration.oracle import add, row
from tests.workflows import CHARGE, CHECKOUT, NOTIFY, SHIP, TRACEBACK, order

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}\u202e"


# -- the page


@pytest.mark.every_database
def test_a_task_that_failed(store: Store, api: Api) -> None:
    store.write(lines(order()))
    page = look(api, f"/tasks/{SHIP}")
    read = words(page)
    for piece in (
        "✖ FAILURE",
        "It failed with ValueError: no stock.",
        "Raised at app/shop/tasks.py:88 ship.",
        "Traceback of attempt 1: ValueError",
        "… 1 other frame",
        "celery@one",
        "Root ✔ SUCCESS shop.checkout",
        "Parent ✔ SUCCESS shop.charge",
        "5 tasks in this workflow: ✔ SUCCESS 3 , ✖ FAILURE 2",
        "Children (1)",
    ):
        assert piece in read, piece
    assert f'href="/console/tasks/{SHIP}/workflow"' in page
    assert page.count("trace_task") == 1, "only among all frames"


def test_a_task_that_was_not_sent_leads_to_why(store: Store, api: Api) -> None:
    store.write(lines(order()))
    read = words(look(api, f"/tasks/{NOTIFY}"))
    assert "It was never sent, because a task before it in its workflow did not succeed." in read
    assert "Cause: ✖ FAILURE shop.ship" in read
    why = read[read.index("It was never sent") : read.index("Full error")]
    assert why.count("shop.ship") == 1
    assert why.index("Cause:") < why.index("It failed with ValueError: no stock.")
    assert "Never started." in read


def test_attempts_side_by_side(store: Store, api: Api) -> None:
    store.write(lines(order()))
    page = look(api, f"/tasks/{CHARGE}")
    table = page[page.index("<tbody>") : page.index("</tbody>")]
    assert [words(f"<main>{one}</main>")[:13] for one in table.split("</tr>")[:2]] == [
        "1 ↻ retried 2", "2 ✔ succeeded",
    ]  # fmt: skip
    assert "TimeoutError" in table
    assert "201 ms" in table, "to its ETA"


def many(count: int) -> list[dict[str, Any]]:
    own = {"name": "shop.charge", "retries": 0, "redelivered": False, "end_key": "", "customer_key": ""}
    return [
        {"celery_task_id": "many", "run_key": f"{number:020}", "worker": f"w-{number}", **own, "traceback": TRACEBACK}
        for number in range(1, count + 1)
    ]


def test_many_attempts_come_in_pages(store: Store, api: Api) -> None:
    add(store, [row("many", status="FAILURE", completed_at=AT)])
    with store.engine.begin() as connection:
        connection.execute(insert(AsyncTaskAttempt), many(45))

    def numbers(page: str) -> list[int]:
        return [int(one) for one in re.findall(r"<td>w-(\d+)</td>", page)]

    page = look(api, "/tasks/many")
    assert numbers(page) == list(range(26, 46))
    assert "Attempts 26 to 45 of 45." in words(page)
    assert 'href="/console/tasks/many?attempts=6"' in page
    assert "Later attempts" not in page
    page = look(api, "/tasks/many", attempts=6)
    assert numbers(page) == list(range(6, 26))
    assert 'href="/console/tasks/many?attempts=26"' in page
    assert 'href="/console/tasks/many?attempts=1"' in page
    assert numbers(look(api, "/tasks/many", attempts=1)) == list(range(1, 21))
    for wrong in ("0", "46", "x", "-1", "²", "9" * 30):
        assert "a number from 1 to 45" in look(api, "/tasks/many", status=422, attempts=wrong)


def test_a_task_that_runs_says_since_when_and_how_far_it_is(store: Store, api: Api) -> None:
    run = Delivery(2)
    noted = run.noted(5, {"progress": {"done": 3, "total": 12, "message": "rows"}})
    store.write(lines(about([published(), run.started(3), noted], "runs")))
    page = look(api, "/tasks/runs")
    assert 'data-since="2025-06-15T15:06:40.003000Z"' in page
    assert "Progress 25 % 3 of 12 (25 %) rows" in words(page)
    assert re.search(r"Running since 2025-06-15 15:06:40 UTC \(for \d+ d \d\d h\)", words(page))
    assert "rows" not in words(look(api, "/tasks/runs", "reader"))
    again = api.get("/console/tasks/runs")
    same = api.get("/console/tasks/runs", headers={"If-None-Match": again.headers["etag"]})
    assert same.status_code in (200, 304)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3, "a few seconds"), (10, "10 s"), (59.9, "50 s"), (60, "1 m"), (119, "1 m"), (156, "2 m"), (3600, "1 h 00 m")],
)
def test_an_age_is_as_exact_as_it_is_written(seconds: float, words: str) -> None:
    """The page stays the same for some seconds: "2 m 00 s ago" would lie."""
    assert task._age(dt.timedelta(seconds=seconds)) == words


@pytest.mark.parametrize(
    ("status", "result"),
    [
        ("SUCCESS", "No result: it returned None, or results of this task are not recorded."),
        ("FAILURE", "No result: it did not succeed."),
        ("STARTED", "No result yet."),
    ],
)
def test_a_result_that_is_not_there_says_why(store: Store, api: Api, status: str, result: str) -> None:
    add(store, [row("mine", status=status, completed_at=None if status == "STARTED" else AT)])
    assert f"result {result}" in words(look(api, "/tasks/mine"))


def test_one_word_where_there_is_nothing_and_one_where_there_will_be(store: Store, api: Api) -> None:
    add(store, [row("waits", status="PENDING")])
    add(store, [row("never", status="REVOKED", completed_at=AT)])
    read = words(look(api, "/tasks/waits"))
    for piece in ("Customer none", "Created by none", "Started not yet", "Run not yet", "Worker not yet"):
        assert piece in read, piece
    read = words(look(api, "/tasks/never"))
    for piece in ("Started never", "Wait none", "Run none", "Worker none"):
        assert piece in read, piece


def test_where_nothing_happens_the_page_stays_the_same(store: Store, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(store, "mine", OURS)
    monkeypatch.setattr(task, "TICK", 60)
    tags = {api.get("/console/tasks/mine").headers["etag"] for _ in range(2)}
    assert len(tags) == 1


# -- finding it


def test_another_name_of_a_task_leads_to_its_page(store: Store, api: Api) -> None:
    add(store, [row("5f0c2a11-1111"), row("5f0c2b22-2222"), row("7"), row("a/b")])
    assert "5f0c2a11-1111" in look(api, "/tasks/5f0c2a11-1111")
    with store.engine.connect() as connection:
        ids = {one[0]: one[1] for one in connection.execute(select(AsyncTask.celery_task_id, AsyncTask.id)).all()}
    for other in ("5f0c2a", "5F0C2A", str(ids["5f0c2a11-1111"])):
        answer = api.get(f"/console/tasks/{other}")
        assert (answer.status_code, answer.headers["location"]) == (302, "/console/tasks/5f0c2a11-1111")
    assert api.get("/console/tasks/5f0c2a", attempts="1").headers["location"].endswith("1111?attempts=1")
    assert "Several task ids begin with 5f0c2" in look(api, "/tasks/5f0c2", status=404)
    assert "No task has the id nothing" in look(api, "/tasks/nothing", status=404)
    assert "is not a task id" in look(api, "/tasks/%00", status=404)
    assert "<code>7</code>" in look(api, "/tasks/7"), "the id itself comes first"
    for path, query in ((f"/tasks/{ids['a/b']}", {}), ("/task", {"id": "a/b"})):
        answer = api.get(f"/console{path}", **query)
        assert (answer.status_code, answer.headers["location"]) == (302, f"/console/task/{ids['a/b']}")
    assert "<code>a/b</code>" in look(api, f"/task/{ids['a/b']}"), "its id cannot be in a path"
    answer = api.get(f"/console/task/{ids['7']}")
    assert (answer.status_code, answer.headers["location"]) == (302, "/console/tasks/7")
    for number in ("0", "9" * 18, "9" * 5000, "x", "-1"):
        assert "No task has the row number" in look(api, f"/task/{number}", status=404)
    assert "no parameter" in look(api, "/tasks/7", status=422, other="1")


def test_tasks_whose_ids_are_numbers_have_pages_of_their_own(store: Store, api: Api) -> None:
    """A task whose id cannot be in a path has its row number there, which is the Celery id of another."""
    add(store, [row("a/b", task_args=["of the row"])])
    with store.engine.connect() as connection:
        number = connection.scalar(select(AsyncTask.id))
    add(store, [row(str(number), task_args=["of the id"])])
    with store.engine.connect() as connection:
        numbers = {one[0]: one[1] for one in connection.execute(select(AsyncTask.celery_task_id, AsyncTask.id)).all()}
    for where, task_id, value in (
        (f"/tasks/{number}", str(number), "of the id"),
        (f"/task/{number}", "a/b", "of the row"),
    ):
        page = look(api, where)
        assert f"<code>{task_id}</code>" in page
        assert f'href="/console{where}/workflow"' in page
        assert f'href="/console{where}/values/args.json"' in page
        assert value in api.get(f"/console{where}/values/args.json").text
        assert f'id="r-{numbers[task_id]}"' in look(api, f"{where}/workflow")
    assert api.get("/console/task", id="a/b").headers["location"] == f"/console/task/{number}"


def test_a_link_to_a_task_that_is_gone_leads_to_no_other(store: Store, api: Api) -> None:
    """Its Celery id is the row number of another."""
    add(store, [row("here")])
    with store.engine.begin() as connection:
        number = connection.scalar(select(AsyncTask.id))
        connection.execute(update(AsyncTask).values(content={"rerun_of": str(number)}))
    [link] = re.findall(r'Rerun of</dt><dd><a href="/console([^"]+)"', look(api, "/tasks/here"))
    assert f"No task has the id {number}" in look(api, "/task", status=404, **dict(parse_qsl(urlsplit(link).query)))
    assert urlsplit(link).path == "/task"


def test_unseen_tasks_do_not_exist(store: Store, api: Api) -> None:
    tell(store, "mine", OURS)
    for path in ("/tasks/mine", "/tasks/min", "/tasks/mine/rerun"):
        look(api, path, "theirs", 404)
    look(api, "/tasks/mine/rerun/sent", "theirs", 404, id="x")
    assert api.get("/console/tasks/mine/values/args.json", "theirs").status_code == 404
    assert sent_form(api, "/tasks/mine/rerun", "theirs").status_code == 404


def test_the_workflow_of_others_is_not_seen(store: Store, api: Api) -> None:
    """Nor the processes, which belong to all."""
    events = [{**one, "customer": OURS if one["id"] == SHIP else THEIRS} for one in order()]
    store.write(lines(cast("list[Event]", events)))
    read = words(look(api, f"/tasks/{SHIP}", "ours"))
    assert f"Parent {CHARGE} not recorded, or not visible to you" in read
    assert "shop.checkout" not in read
    assert "tasks in this workflow" not in read


def test_processes_are_for_callers_who_see_all(store: Store, api: Api) -> None:
    run = Delivery(2)
    store.write(lines(about([published(customer=OURS), run.started(3, customer=OURS)], "runs")))
    unnoted = "The process that ran it is not recorded."
    assert unnoted in words(look(api, "/tasks/runs"))
    assert unnoted not in words(look(api, "/tasks/runs", "ours"))
    source = {"journal": "j", "role": "child", "segment": 1, "position": 1, "last_number": 1, "stored": 1}
    known = {"source": SOURCE, "host": "node-17", "pid": 4711, "started_at": AT, "last_seen_at": AT, "quarantined": 0}
    with store.engine.begin() as connection:
        connection.execute(insert(AsyncTaskSource), [{**source, **known}])
    assert "node-17. That process was last seen alive" in words(look(api, "/tasks/runs")).replace(" of node", " node")
    read = words(look(api, "/tasks/runs", "ours"))
    assert "node-17" not in read
    assert "last seen alive" not in read


def test_what_waits_says_nothing_of_the_queues_of_others(store: Store, api: Api) -> None:
    store.write(lines(about([published(customer=OURS)], "waits")))
    assert "check that a worker reads its queue." in words(look(api, "/tasks/waits"))
    assert "No task created before it" not in words(look(api, "/tasks/waits", "ours"))


def test_hosts_that_nobody_hears_are_named_to_those_who_see_all(store: Store, api: Api) -> None:
    tell(store, "mine", OURS)
    columns = {"host": "web9", "pid": 7, "role": "child", "started_at": AT, "journal": "j", "last_seen_at": AT}
    numbers = {"segment": 1, "position": 9, "last_number": 3, "stored": 3, "quarantined": 0, "numbered": 3}
    with store.engine.begin() as connection:
        connection.execute(insert(AsyncTaskSource), {"source": "s", **columns, **numbers})
        connection.execute(update(AsyncTask).values(created_at=AT, status="PENDING", completed_at=None))
    assert "web9 has not been heard since" in words(look(api, "/tasks/mine"))
    assert "web9" not in look(api, "/tasks/mine", "ours")


# -- values


def stored(store: Store, document: str) -> None:
    """A task whose args are this text in the database: Python would change it."""
    value = "CAST(:document AS JSONB)" if store.engine.dialect.name == "postgresql" else ":document"
    add(store, [row("mine", customer=OURS, status="SUCCESS", completed_at=AT)])
    with store.engine.begin() as connection:
        connection.execute(text(f"UPDATE async_task SET task_args = {value}"), {"document": document})


@pytest.mark.every_database
def test_numbers_keep_their_digits(store: Store, api: Api) -> None:
    stored(store, "[123456789012345678901234567890, 9007199254740993, 0.1]")
    page = look(api, "/tasks/mine")
    for number in ("9007199254740993", "0.1"):
        assert f'<span class="num">{number}</span>' in page
    if store.engine.dialect.name in ("postgresql", "sqlite"):  # MySQL makes a float of it
        assert "123456789012345678901234567890" in page


def test_what_is_missing_is_said_beside_the_name(store: Store, api: Api) -> None:
    tell(store, "mine", OURS, kwargs={"password": {"$asynctask": "redacted"}})
    page = look(api, "/tasks/mine")
    assert "kwargs (1 redacted)" in words(page)
    assert "content No content." in words(page)


def test_a_value_as_a_file(store: Store, api: Api) -> None:
    tell(store, "mine", OURS)
    answer = api.get("/console/tasks/mine/values/args.json")
    assert (answer.status_code, answer.json()) == (200, [7, "é"])
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-disposition"] == 'attachment; filename="args.json"'
    look(api, "/tasks/mine/values/content.json", status=404)
    look(api, "/tasks/mine/values/other.json", status=404)
    look(api, "/tasks/mine/values/args.json", "reader", 403)


def test_without_the_right_there_are_no_values(store: Store, api: Api) -> None:
    tell(store, "mine", OURS, content={"secret": 1, "rerun_of": "secret"})
    with_right, without = (look(api, "/tasks/mine", who) for who in ("ours", "ours-read"))
    assert "secret" in with_right
    assert "EUR" in with_right
    for piece in ("secret", "EUR", "paid", "values/"):
        assert piece not in without
    assert "you do not have the payloads right" in words(without)


def test_links(store: Store, shop: Celery) -> None:
    add(store, [row("shop", name=HOSTILE, trace_id=TRACE, span_id=SPAN)])
    settings = {
        "asynctask_trace_url": "https://traces/{trace_id}?span={span_id}",
        "asynctask_links": {
            "<Logs>": "https://logs/?q={name}&from={start}",
            "Customer": "https://shop/{customer}",
        },
    }
    with api_over(store, shop, **settings) as api:
        page = look(api, "/tasks/shop")
    assert f'href="https://traces/{TRACE}?span={SPAN}"' in page
    assert 'href="https://logs/?q=%3Cscript%3E' in page
    assert f"&amp;from={int(AT.timestamp() * 1000)}" in page
    assert "&lt;Logs&gt;" in page
    assert "https://shop/" not in page, "it is of no customer"


# -- hostile


@pytest.mark.every_database
def test_hostile_content_is_text(store: Store, api: Api) -> None:
    deep: Any = HOSTILE
    for _ in range(25 if store.engine.dialect.name == "mysql" else 50):  # MariaDB takes no more than 32 levels
        deep = {HOSTILE: deep}
    long = HOSTILE * (1_000_000 // len(HOSTILE))
    everything = {
        "name": HOSTILE,
        "customer": OURS,
        "created_by_name": HOSTILE,
        "error_type": HOSTILE,
        "error_message": HOSTILE * 600,
        "root_task_id": HOSTILE,
        "parent_task_id": HOSTILE,
        "trace_id": "<b>{{ 1 }}",
        "span_id": "<b>",
        "task_args": [long, deep],
        "task_kwargs": {HOSTILE: "a\u0001b"},
        "result": {"$asynctask": "object", "type": HOSTILE, "repr": HOSTILE},
        "content": {"progress": {"done": 1, "total": 2, "message": long}, "rerun_of": HOSTILE, "rerun_by": HOSTILE},
        "status": "FAILURE",
        "completed_at": AT,
    }
    add(store, [row("mine", **everything)])
    add(store, [row("child", name=HOSTILE, parent_task_id="mine")])
    run = {
        "run_key": "0",
        "name": HOSTILE,
        "retries": 0,
        "redelivered": True,
        "end_key": "",
        "customer_key": "",
        "celery_task_id": "mine",
    }
    texts = {"worker": HOSTILE, "queue": HOSTILE, "outcome": "<b>", "error_type": HOSTILE, "error_message": HOSTILE}
    traceback = f'  File "{HOSTILE}", line 1, in <b>\n' * 500
    with store.engine.begin() as connection:
        connection.execute(insert(AsyncTaskAttempt), [{**run, **texts, "traceback": traceback}])
    for who in ("ours", "ours-read"):
        page = look(api, "/tasks/mine", who)
        assert len(page) < 1_000_000
        for piece in ("<script>a", "<img src=x", "<b>{{", "\u202e", "\x01", "onerror=alert(1)>\n"):
            assert piece not in page
        assert len(re.findall(r"<script", page)) == 1
    assert "more characters" in look(api, "/tasks/mine", "ours")


# -- the workflow around it


def test_the_workflow_is_counted_up_to_a_bound(store: Store, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_query, "MAX_COUNTED", 4)
    monkeypatch.setattr(task_query, "MAX_CHILDREN", 2)
    monkeypatch.setattr(task, "MAX_COUNTED", 4)
    add(store, [row("top", root_task_id="top")])
    add(store, [row(f"child-{number}", root_task_id="top", parent_task_id="top") for number in range(9)])
    page = look(api, "/tasks/top")
    assert "4 or more tasks in this workflow" in words(page)
    assert "Children (4 or more)" in words(page)
    assert page.count("child-") == 4, "two, each with its id"
    assert "/console/tasks?search=parent%3A%22top%22&amp;ordering=createdAt" in page


@pytest.mark.every_database
def test_a_page_takes_few_statements(store: Store, api: Api) -> None:
    store.write(lines(order()))
    look(api, f"/tasks/{CHECKOUT}")
    with statements(api) as sent:
        look(api, f"/tasks/{CHECKOUT}")
    assert len([one for one in sent if "async_task" in one]) <= 8, sent
