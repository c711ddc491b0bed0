"""The console's page of errors: the causes of a search, and the link from each to its tasks, on each database."""

from __future__ import annotations

import csv
import datetime as dt
import html
import io
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from celery_asynctask.console import errors
from celery_asynctask.console.errors import search_of
from celery_asynctask.queries.failures.groups import Failure, grouped
from celery_asynctask.queries.search.filter import MAX_LENGTH, parse, quoted
from celery_asynctask.store import Store
from tests.histories import lines
from tests.integration.http.client import OURS, THEIRS, Api, api_over
from tests.integration.oracle import START, add, row
from tests.workflows import NOTIFY, SHIP, order

MINUTE = dt.timedelta(minutes=1)
HOSTILE = "<script>alert(1)</script>\u202egpj.exe"


@pytest.fixture
def api(store: Store) -> Iterator[Api]:
    with api_over(store) as made:
        yield made


def failed(task_id: str, number: int = 0, **more: Any) -> dict[str, Any]:
    at = START + number * MINUTE
    error = {"error_type": "ValueError", "error_message": f"order {number} is gone", "customer": OURS}
    return row(task_id, **{"status": "FAILURE", "created_at": at, "completed_at": at + MINUTE, **error, **more})


def page(api: Api, who: str = "admin", status: int = 200, **parameters: Any) -> str:
    answer = api.get("/console/errors", who, **parameters)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return answer.text


def causes(text: str) -> list[tuple[int, str, str]]:
    """Number of tasks, exception, and link to the tasks, by cause."""
    rows = re.findall(r'<tr id="g-.*?</tr>', text, re.S)
    return [
        (
            int(re.search(r'<td class="number">(\d+)', one)[1]),  # type: ignore[index]
            html.unescape(re.search(r"<b>(.*?)</b>", one)[1]),  # type: ignore[index]
            html.unescape(re.search(r'href="([^"]*/tasks\?[^"]*)"', one)[1]),  # type: ignore[index]
        )
        for one in rows
    ]


def tasks(api: Api, url: str) -> list[str]:
    """The tasks of a list, from its CSV file."""
    query: Any = parse_qs(urlsplit(url).query)
    answer = api.get("/console/tasks.csv", **query, limit="200")
    assert answer.status_code == 200, answer.text
    return sorted(one["celery_task_id"] for one in csv.DictReader(io.StringIO(answer.text)))


@pytest.mark.every_database
def test_from_a_cause_to_its_tasks(store: Store, api: Api) -> None:
    store.write(lines(order()))
    add(
        store,
        [
            failed("gone-1", 1),
            failed("gone-2", 2, customer=THEIRS, name="shop.refund"),
            failed("other-1", 1, error_message="order 1 is paid\n  twice"),
            failed("other-2", 2, error_message="order 2 is paid twice"),
            failed("rejected", status="REJECTED", error_type=None, error_message=None),
            failed("retried", 1, status="RETRY", completed_at=None),
        ],
    )
    add(store, [row("fine")])
    text = page(api)
    tasks_by_cause = {
        (count, error, message): tasks(api, url)
        for (count, error, url), message in zip(causes(text), re.findall(r"</b> ([^<]*)<br>", text), strict=True)
    }
    assert tasks_by_cause == {
        (2, "ValueError", "no stock"): [SHIP, NOTIFY] if SHIP < NOTIFY else [NOTIFY, SHIP],
        (2, "ValueError", "order # is gone"): ["gone-1", "gone-2"],
        (2, "ValueError", "order # is paid twice"): ["other-1", "other-2"],
        (1, "REJECTED", ""): ["rejected"],
    }
    assert "<code>app/shop/tasks.py:88 ship</code>" in text
    assert "1 never sent" in text
    assert f'href="/console/tasks/{SHIP}"' in text
    assert "7 failures, 4 causes" in text


def test_a_search_is_kept_on_the_way(store: Store, api: Api) -> None:
    add(store, [failed("ours", 1), failed("theirs", 1, customer=THEIRS), failed("late", 9, status="REVOKED")])
    [(count, _, url)] = causes(page(api, search=f"customer:{THEIRS}"))
    assert (count, tasks(api, url)) == (1, ["theirs"])
    [(count, _, url)] = causes(page(api, search="status:REVOKED"))
    assert (count, tasks(api, url)) == (1, ["late"])


def test_tasks_that_a_customer_sees(store: Store, api: Api) -> None:
    add(
        store,
        [failed("ours", 1), failed("theirs", 2, customer=THEIRS, error_type="Secret"), failed("no", customer=None)],
    )
    text = page(api, "ours")
    assert [(count, error) for count, error, _ in causes(text)] == [(1, "ValueError")]
    assert "Secret" not in text
    assert causes(page(api, "nobody")) == []
    assert page(api, "ours-none", 403)


@pytest.mark.every_database
def test_orders(store: Store, api: Api) -> None:
    add(
        store,
        [
            failed("a", 1),
            failed("b", 2),
            failed("c", 9, error_type="Old"),
            failed("d", 0, error_type="Old"),
            failed("e", 0, error_type="Old"),
            failed("f", 5, error_type="New"),
        ],
    )
    ways = {sort: [error for _, error, _ in causes(page(api, sort=sort))] for sort in ("", "count", "last", "first")}
    assert ways == {
        "": ["Old", "ValueError", "New"],
        "count": ["Old", "ValueError", "New"],
        "last": ["Old", "New", "ValueError"],
        "first": ["New", "ValueError", "Old"],
    }


def test_the_bound_of_a_search_is_shown(store: Store, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store, [failed(f"id-{number}", number) for number in range(5)])
    monkeypatch.setattr(errors, "SCANNED", (3, 10_000))
    text = page(api)
    assert "Only the newest 3 failures were searched" in text
    assert 'datetime="2026-01-31T12:02:00.000000Z"' in text
    assert 'href="/console/errors?most=10000"' in text
    assert [count for count, _, _ in causes(text)] == [3]
    all_failures = page(api, most="10000")
    assert "failures were searched" not in all_failures
    assert [count for count, _, _ in causes(all_failures)] == [5]
    nothing = page(api, search="message:nowhere")
    assert "No matches among the newest 3 failures" in nothing


def test_more_causes_than_are_shown(store: Store, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "CAUSES", (2, 1000))
    add(store, [failed(f"id-{number}", error_type=f"Error{chr(65 + number)}") for number in range(5)])
    text = page(api)
    assert len(causes(text)) == 2
    assert "3 more causes, 3 failures" in text
    assert 'href="/console/errors?causes=1000"' in text
    assert len(causes(page(api, causes="1000"))) == 5


def test_empty_refused_and_forbidden(store: Store, api: Api) -> None:
    assert "No failures recorded" in page(api)
    assert "No failures match." in page(api, search="name:nothing")
    refused = page(api, status=422, search="no:such <b>")
    assert 'value="no:such &lt;b&gt;"' in refused
    assert 'aria-invalid="true"' in refused
    assert "has no key" in refused
    assert "No failures" not in refused
    assert "payloads" in page(api, "ours-failures", 403, search="kwargs.a:1")
    assert "errors" in page(api, "reader", 403)
    for wrong in ({"sort": "x"}, {"most": "17"}, {"causes": "-1"}, {"no": "1"}):
        page(api, status=422, **wrong)
    assert "sort must be one of count, last, first, or left out; &#39;x&#39; is not." in page(api, status=422, sort="x")


def test_it_is_computed_once(store: Store, api: Api) -> None:
    add(store, [failed("a")])
    tag = api.get("/console/errors").headers["etag"]
    assert api.get("/console/errors", headers={"If-None-Match": tag}).status_code == 304
    add(store, [failed("b")])
    assert page(api).count('<tr id="g-') == 1


def test_hostile_texts(store: Store, api: Api) -> None:
    names = {
        "name": f'"{HOSTILE},*\\',
        "error_type": f"{HOSTILE}\"'\\*? a:b,c",
        "error_message": f"{HOSTILE} {{7}}\x1b[2J",
    }
    add(store, [failed("a", 1, **names), failed("b", 2, **names), failed("other", 2, error_type="x")])
    text = page(api)
    assert "<script>alert" not in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    [(count, _, url), _] = causes(text)
    assert (count, tasks(api, url)) == (2, ["a", "b"])


def cause(*names: str, search: str = "", **more: Any) -> str:
    one = Failure("id", "shop.charge", START, START, "", "ValueError", "order 7", None)._replace(**more)
    [group] = grouped([one._replace(name=name) for name in names or ("shop.charge",)]).groups
    text = search_of(group, search, START)
    parse(text, START)
    assert len(text) <= MAX_LENGTH
    return text


def test_the_search_for_a_cause() -> None:
    when = "since:2026-01-31T12:00:00.000000Z until:2026-01-31T12:00:00.000001Z"
    assert cause(search=" customer:1 ") == f'customer:1 error:"ValueError" {when} message:"order" name:"shop.charge"'
    assert cause(message="") == f'error:"ValueError" {when} name:"shop.charge"'
    assert cause(error_type="LOST", message="7") == f'status:LOST error:none {when} name:"shop.charge"'
    assert cause(message='a "b" <7> \\') == f'error:"ValueError" {when} message:"a"*"<"*">"*"\\\\" name:"shop.charge"'


def test_the_search_for_a_cause_is_never_too_long() -> None:
    assert "name:" not in cause(*(f"name-{number}" for number in range(30)))
    assert "name:" not in cause(*(f"{number}-{'x' * 250}" for number in range(20)))
    long = cause(search=f"name:{'x' * 1900}")
    assert "message:" in long or "error:" in long
    assert cause(search=f"name:{'x' * 2043}") == 'error:"ValueError"'
    assert cause(search=" ".join(["retries:1"] * 32)) == 'error:"ValueError"'


@pytest.mark.parametrize("text", ['"', "\\", '\\"', "none", "*", ">5", "a b", "", "a..b", ",", "-x"])
def test_a_quoted_text_means_itself(text: str) -> None:
    [term] = parse(f"error:{quoted(text)}", START).terms
    [value] = term.values
    assert value.operator == "="
    assert re.sub(r"\[(.)\]", r"\1", value.value) == text
