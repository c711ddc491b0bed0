"""The console's page of reruns: rights, preview and outcome; on each kind of database."""

from __future__ import annotations

import re
from unittest import mock

import pytest
from celery import Celery

from celery_asynctask import uninstall
from celery_asynctask.operations import rerun
from celery_asynctask.store import Store
from tests.histories import HISTORIES, about, lines
from tests.integration.console.pages import look, sent_form, words
from tests.integration.http.client import OURS, THEIRS, Api, api_over, tell
from tests.integration.rows import rows
from tests.workflows import SHIP, order


@pytest.mark.parametrize("who", ["ours", "ours-read"])
def test_only_callers_with_the_right_are_offered_a_rerun(store: Store, api: Api, who: str) -> None:
    tell(store, "mine", OURS)
    may = who == "ours"
    assert ("/tasks/mine/rerun" in look(api, "/tasks/mine", who)) == may
    look(api, "/tasks/mine/rerun", who, 200 if may else 403)
    if not may:
        assert sent_form(api, "/tasks/mine/rerun", who).status_code == 403
        look(api, "/tasks/mine/rerun/sent", who, 403, id="x")


def test_callers_without_the_right_to_read_see_no_page(store: Store, api: Api) -> None:
    """But may rerun it over the API."""
    tell(store, "mine", OURS)
    look(api, "/tasks/mine/rerun", "ours-rerun", 403)
    look(api, "/tasks/mine/rerun/sent", "ours-rerun", 403, id="x")
    assert sent_form(api, "/tasks/mine/rerun", "ours-rerun").status_code == 403
    assert api.post("/async-tasks/mine/rerun", "ours-rerun", dryRun=True).status_code == 200


@pytest.mark.every_database
def test_a_rerun_names_its_caller(store: Store, shop: Celery, api: Api) -> None:
    tell(store, "old", OURS, content={"order": 17})
    page = look(api, "/tasks/old/rerun", "ours")
    number = rows(store)["old"].id
    assert f'<form class="stack" method="post" action="/console/task/{number}/rerun?customer={OURS}">' in page
    assert "later steps" not in words(page), "it is in no workflow"
    for text in ("Rerun by ours", "Its last attempt had the routing key celery.", "EUR", "Rerun now"):
        assert text in words(page)
    answer = sent_form(api, "/tasks/old/rerun", "ours")
    assert answer.status_code == 303, answer.text
    match = re.fullmatch(r"/console(/tasks/old/rerun/sent)\?id=([0-9a-f-]{36})", answer.headers["location"])
    assert match is not None
    path, new = match[1], match[2]
    read = words(look(api, path, "ours", id=new))
    assert "Its row is not stored yet" in read or f"Rerun sent: {new} …" in read
    uninstall(shop)  # stores what is on its way
    assert f"Rerun sent: {new} … PENDING" in words(look(api, path, "ours", id=new))
    made = api.ok(f"/async-tasks/{new}")
    assert made["content"] == {"order": 17, "rerun_of": "old", "rerun_by": "ours"}
    assert "Rerun of old , by ours" in words(look(api, f"/tasks/{new}", "ours"))


def test_a_made_up_address_says_nothing_of_a_rerun(store: Store, api: Api) -> None:
    tell(store, "old", OURS)
    tell(store, "other", OURS)
    for new in ("other", "no-such"):
        assert "No rerun" in words(look(api, "/tasks/old/rerun/sent", id=new))
    look(api, "/tasks/old/rerun/sent", status=422, id="a\0b")
    look(api, "/tasks/old/rerun/sent", status=422)


@pytest.mark.parametrize("path", ["/tasks/{number}", "/task/{own}"])
def test_of_ids_that_are_numbers_the_task_of_the_page_is_sent(store: Store, shop: Celery, api: Api, path: str) -> None:
    """The Celery id of one is the row number of the other."""
    tell(store, "a/b", OURS, args=[1, "of the row"])
    number = rows(store)["a/b"].id
    tell(store, str(number), OURS, args=[2, "of the id"])
    path = path.format(number=number, own=number)
    meant, argument = (str(number), "of the id") if path.startswith("/tasks") else ("a/b", "of the row")
    page = look(api, path)
    assert f"<code>{meant}</code>" in page
    assert f'href="/console{path}/rerun"' in page
    page = look(api, f"{path}/rerun")
    assert argument in words(page)
    row = rows(store)[meant].id
    assert f'action="/console/task/{row}/rerun?customer={OURS}"' in page
    answer = sent_form(api, f"{path}/rerun")
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"].startswith(f"/console{path}/rerun/sent?id=")
    uninstall(shop)  # stores what is on its way
    [new] = rows(store).keys() - {"a/b", str(number)}
    assert rows(store)[new].content["rerun_of"] == meant
    assert "Rerun sent" in words(look(api, f"{path}/rerun/sent", id=new))


@pytest.mark.usefixtures("not_stored")
@pytest.mark.parametrize("customer", [OURS, None])
def test_what_was_shown_is_sent(store: Store, api: Api, customer: int | None) -> None:
    """And not a task of another customer that came with the same id meanwhile."""
    tell(store, "same", customer, args=[1, "first"])
    page = look(api, "/tasks/same/rerun")
    assert "first" in words(page)
    [action] = re.findall(r'method="post" action="/console([^"]*)"', page)
    tell(store, "same", THEIRS, args=[2, "second"])
    assert "second" in words(look(api, "/tasks/same/rerun"))
    with mock.patch.object(rerun, "send", return_value="new") as send:
        assert sent_form(api, action).status_code == 303
    assert send.call_args.args[1].args[1] == "first"


@pytest.mark.parametrize("customer", ["", "99", str(OURS)])
def test_a_customer_without_such_a_task(store: Store, api: Api, customer: str) -> None:
    """Neither the task of another customer, nor one that got the number of a row that was deleted."""
    tell(store, "theirs", THEIRS)
    paths = ("/tasks/theirs/rerun", f"/task/{rows(store)['theirs'].id}/rerun")
    for path in paths:
        assert "That customer has no task" in words(look(api, path, status=404, customer=customer))
        assert sent_form(api, f"{path}?customer={customer}").status_code == 404
    for path in paths:
        look(api, path, customer=str(THEIRS))


@pytest.mark.usefixtures("not_stored")
def test_a_second_click(store: Store, api: Api) -> None:
    tell(store, "old", OURS)
    assert sent_form(api, "/tasks/old/rerun").status_code == 303
    answer = sent_form(api, "/tasks/old/rerun")
    assert answer.status_code == 409
    assert "it was rerun a moment ago" in words(answer.text)
    page = look(api, "/tasks/old/rerun")
    assert "unless you tick “also if it was rerun before”" in words(page)
    assert "Rerun now" not in page
    page = look(api, "/tasks/old/rerun", again="1")
    assert '<input type="hidden" name="again" value="1">' in page
    assert sent_form(api, "/tasks/old/rerun", again="1").status_code == 303


def test_what_is_refused(store: Store, api: Api) -> None:
    tell(store, "redacted", OURS, kwargs={"password": {"$asynctask": "redacted"}})
    store.write(lines([*order(), *about(HISTORIES["success"]()[:3], "running")]))
    page = look(api, "/tasks/redacted/rerun")
    assert "Its kwargs are incomplete: password is redacted." in words(page)
    assert "Rerun now" not in page
    assert "Check again" not in page
    assert "its kwargs are incomplete" in words(sent_form(api, "/tasks/redacted/rerun").text)
    page = look(api, "/tasks/running/rerun")
    assert "It is still STARTED (unless you tick “also if it has not ended”)" in words(page)
    assert '<input type="checkbox" name="unfinished" value="1">' in page
    assert "not the later steps of its workflow" in words(look(api, f"/tasks/{SHIP}/rerun"))
    page = look(api, "/tasks/running/rerun", unfinished="1")
    assert "its work is done twice" in words(page)
    assert sent_form(api, "/tasks/running/rerun", unfinished="1").status_code == 303
    look(api, "/tasks/redacted/rerun", status=422, queue="x")


def test_another_site_sends_nothing(store: Store, shop: Celery, api: Api) -> None:
    tell(store, "old", OURS)
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://elsewhere.example"}):
        assert sent_form(api, "/tasks/old/rerun", headers=headers).status_code == 403
    uninstall(shop)
    assert len(api.ids()) == 1


def test_what_the_server_is_not_set_up_for(store: Store, shop: Celery) -> None:
    tell(store, "old", OURS)
    with api_over(store, shop, task_always_eager=True) as api:
        assert "not set up" in words(look(api, "/tasks/old/rerun", status=409))
        answer = sent_form(api, "/tasks/old/rerun")
        assert answer.status_code == 409
    with api_over(store, shop, task_always_eager=False, broker_url="redis://:secret@127.0.0.1:9/0") as api:
        answer = sent_form(api, "/tasks/old/rerun")
        assert answer.status_code == 503
        assert "redis" not in answer.text
