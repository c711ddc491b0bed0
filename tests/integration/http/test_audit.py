"""The audit over HTTP: actions by the API and the console, what is refused, and who may read it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import func, select

from celery_asynctask import uninstall
from celery_asynctask.console.audit import ROWS
from celery_asynctask.operations.audit import Action, Entry
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.tables import async_task_audit
from celery_asynctask.web.memory import REFUSALS
from celery_asynctask.web.service import Service
from tests.integration.audit import add_entries, columns, entries, unwritable
from tests.integration.console.pages import look, sent_form, words
from tests.integration.http.client import OURS, TOKENS, Api, api_over, grant, is_problem, tell
from tests.integration.rows import rows

RERUN, PURGE = "/async-tasks/old/rerun", "/async-tasks/purge"
AUDITORS = {
    "auditor": grant("auditor", rights=("audit",)),
    "reading-auditor": grant("reading-auditor", rights=("read", "audit")),
    "ours-auditor": grant("ours-auditor", [OURS], ("read", "audit")),
}


@pytest.fixture
def api(store: Store, shop: Celery) -> Iterator[Api]:
    tell(store, "old", OURS)
    with api_over(store, shop, asynctask_tokens={**TOKENS, **AUDITORS}) as made:
        yield made
    uninstall(shop)


def confirm(api: Api, who: str = "admin", path: str = "/tasks/old/rerun", **fields: str) -> Any:
    """A rerun on the page of the console."""
    return sent_form(api, path, who, **fields)


# -- actions


@pytest.mark.every_database
def test_reruns_of_the_api_and_of_the_console(store: Store, api: Api) -> None:
    new = api.post(RERUN, "ours").json()["celeryTaskId"]
    assert confirm(api, again="on").status_code == 303
    shown = columns(store, "actor", "origin", "action", "target", "outcome", "detail")
    assert shown[:2] == [
        ("ours", "127.0.0.1", "rerun", "old", "begun", None),
        ("ours", "127.0.0.1", "rerun", "old", "done", f"as {new}"),
    ]
    assert [entry[:5] for entry in shown[2:]] == [
        ("admin", "127.0.0.1", "rerun", "old", outcome) for outcome in ("begun", "done")
    ]
    first, second = entries(store)[:2]
    assert first.operation == second.operation != entries(store)[2].operation


def test_a_rerun_that_is_not_sent(store: Store, shop: Celery, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ConnectionResetError("secret")

    monkeypatch.setattr(shop.tasks["shop.charge"], "apply_async", fail)
    is_problem(api.post(RERUN), "broker-unavailable", 503)
    assert columns(store, "outcome", "detail") == [("begun", None), ("failed", "broker-unavailable")]


@pytest.mark.every_database
def test_questions_that_not_every_database_understands(store: Store, api: Api) -> None:
    api.app.state.asynctask.audit.write(Entry(Action.RERUN, "a\nb\0" + "é" * 300, "here"))
    assert len(api.ok("/audit", "auditor", actor="a\nb\0" + "é" * 300)["results"]) == 1
    assert look(api, "/audit", "reading-auditor", actor="\0")
    for since in ("9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"):
        assert len(api.ok("/audit", "auditor", since=since)["results"]) == (since < "1")


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
def test_a_link_of_another_site_exports_nothing(store: Store, api: Api, suffix: str) -> None:
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        headers = {"Sec-Fetch-Site": site}
        assert api.ask("GET", f"/console/tasks.{suffix}", "ours", headers).status_code == status
        assert api.ask("GET", "/console/tasks", "ours", headers).status_code == 200
    assert columns(store, "action", "outcome") == [("export", "done")] * 2


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
def test_files_of_the_console(store: Store, api: Api, suffix: str) -> None:
    tell(store, "young", OURS)
    assert (
        api.get(f"/console/tasks.{suffix}", "ours", search="kwargs.card:hunter2", status="SUCCESS").status_code == 200
    )
    assert api.get(f"/console/tasks.{suffix}", "ours", limit=25).status_code == 200
    assert columns(store, "actor", "action", "target", "outcome", "detail") == [
        ("ours", "export", "kwargs.card:… status:SUCCESS", "done", f"0 tasks as {suffix}"),
        ("ours", "export", "*", "done", f"2 tasks as {suffix}"),
    ]


def test_what_changes_nothing_has_no_entry(store: Store, api: Api) -> None:
    assert api.post(RERUN, dryRun=True).status_code == 200
    assert api.get("/console/tasks/old/rerun").status_code == 200
    for path in ("/async-tasks", "/async-tasks/old", "/console/tasks", "/console/tasks/old", "/health", "/audit"):
        api.get(path)
    assert api.post(PURGE, olderThan="1d").json()["due"] == 1
    is_problem(api.post("/async-tasks/none/rerun"), "not-found", 404)
    assert entries(store) == []


def test_without_its_entry_nothing_is_done(store: Store, api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """Callers learn nothing of the database; and what is not refused for good may be tried again."""
    with unwritable():
        answers = [
            api.post(RERUN),
            api.post(PURGE, olderThan="1d", dryRun=False),
        ]
        pages = [confirm(api), api.get("/console/tasks.csv"), api.get("/console/tasks.ndjson")]
        assert api.get("/async-tasks").status_code == api.get("/console/tasks").status_code == 200
    for answer in answers:
        assert "database" not in is_problem(answer, "audit-unavailable", 503)
        assert answer.headers["retry-after"] == "5"
    assert [page.status_code for page in pages] == [503, 503, 503]
    assert all("this is audited, and the audit cannot be written" in page.text for page in pages)
    assert caplog.text.count("The audit cannot be written. The database is away. Start it.") == 5
    assert (set(rows(store)), entries(store)) == ({"old"}, [])
    assert api.post(RERUN).status_code == 201, "it was not sent before"


def test_a_server_of_a_foreign_record(store: Store, shop: Celery, one_store: Store) -> None:
    """Its entries are in the app's own."""
    shop.conf.update(asynctask_url=store.settings.url)
    foreign = Settings.from_app(shop).at(one_store.settings.url)
    with closing(Service(shop, foreign)) as service:
        service.audit.write(Entry(Action.EXPORT, "ada", "10.0.0.1", "*"))
    assert entries(one_store) == []
    assert columns(store, "target") == [(f"* in {one_store.settings.url}",)]


# -- what is refused


def test_what_is_refused_has_an_entry(store: Store, api: Api) -> None:
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    is_problem(api.post(RERUN, "ours-read"), "forbidden", 403)
    is_problem(api.post(PURGE, "ours-rerun", olderThan="1d", dryRun=False), "forbidden", 403)
    is_problem(api.post(PURGE, "ours-purge", olderThan="1d", search="result.a:1"), "forbidden", 403, "search")
    is_problem(api.post(RERUN, "ours", elsewhere), "cross-site", 403)
    number = rows(store)["old"].id
    assert confirm(api, "ours-read", f"/task/{number}/rerun").status_code == 403
    assert api.post(RERUN, "admin").status_code == 201
    is_problem(api.post(RERUN, "both"), "refused", 409)
    assert confirm(api, "both").status_code == 409
    refused = [
        entry for entry in columns(store, "actor", "action", "target", "outcome", "detail") if entry[3] == "refused"
    ]
    assert refused[:5] == [
        ("ours-read", "rerun", "old", "refused", "forbidden"),
        ("ours-rerun", "purge", None, "refused", "forbidden"),
        ("ours-purge", "purge", None, "refused", "forbidden"),
        ("ours", "rerun", "old", "refused", "cross-site"),
        ("ours-read", "rerun", str(number), "refused", "forbidden (2 in a minute)"),
    ]
    assert {entry[:4] for entry in refused[5:]} == {("both", "rerun", "old", "refused")}
    assert refused[5][4] in ("sent_before", "just_sent")
    assert len(refused) == 7


def test_a_flood_does_not_fill_it(store: Store, api: Api) -> None:
    for _ in range(45):
        api.post(RERUN, "ours-read")
    details = [entry.detail for entry in entries(store)]
    assert len(details) == REFUSALS + 3
    assert details[-1] == "forbidden (40 in a minute)"
    api.post(RERUN, "reader")
    assert entries(store)[-1].detail == "forbidden"


def test_a_refusal_does_not_need_it(store: Store, api: Api, caplog: pytest.LogCaptureFixture) -> None:
    with unwritable():
        is_problem(api.post(RERUN, "ours-read"), "forbidden", 403)
    assert "The audit cannot be written." in caplog.text


# -- reading


@pytest.mark.every_database
def test_pages_of_it(store: Store, api: Api) -> None:
    add_entries(store, [9, 3, 2, 1])
    api.post(RERUN, "ours")
    first = api.ok("/audit", "auditor", limit=2)
    assert [entry["outcome"] for entry in first["results"]] == ["done", "begun"]
    assert list(first["results"][0]) == [
        "id", "at", "actor", "origin", "action", "target", "outcome", "detail", "operation"
    ]  # fmt: skip
    rest = api.ok("/audit", "auditor", cursor=first["next"])
    assert ([entry["actor"] for entry in rest["results"]], rest["next"]) == (["ada"] * 4, None)
    oldest = rest["results"][-1]["at"]
    assert len(api.ok("/audit", "auditor", since=oldest, actor="ada", action="rerun")["results"]) == 4
    assert len(api.ok("/audit", "auditor", since=rest["results"][0]["at"])["results"]) == 3
    assert api.ok("/audit", "auditor", action="purge") == {"results": [], "next": None}


def test_who_may_read_it(api: Api) -> None:
    """Entries belong to no customer."""
    assert api.get("/audit", "auditor").status_code == 200
    for who in ("both", "reader", "ours", "ours-none"):
        assert "the right 'audit'" in is_problem(api.get("/audit", who), "forbidden", 403)
    detail = is_problem(api.get("/audit", "ours-auditor"), "forbidden", 403)
    assert detail == "Entries belong to no customer: only callers who see all tasks see them."
    is_problem(api.get("/audit", None), "unauthenticated", 401)
    is_problem(api.get("/async-tasks", "auditor"), "forbidden", 403)
    is_problem(api.ask("DELETE", "/audit", "auditor"), "method-not-allowed", 405)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("actors", "a"), ("limit", "0"), ("limit", "1001"), ("cursor", "x"), ("cursor", "0"), ("cursor", "1" * 19),
        ("action", "steal"), ("since", "yesterday"), ("actor", ""),
    ],
)  # fmt: skip
def test_parameters_that_cannot_be(api: Api, name: str, value: str) -> None:
    is_problem(api.get("/audit", "auditor", **{name: value}), "invalid-parameter", 422, name)


def test_nothing_of_ours_changes_entries(store: Store, api: Api) -> None:
    """Erasing a customer, and a purge of everything, leave them."""
    add_entries(store, [4000])
    api.post(PURGE, olderThan="1d", dryRun=False, unfinished=True)
    with store.engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(async_task_audit)) == 3


# -- the page of the console


def test_its_page(store: Store, api: Api) -> None:
    add_entries(store, [3] * (ROWS + 1))
    api.post(RERUN, "ours")
    api.post(PURGE, "ours-read", olderThan="<script>")
    page = look(api, "/audit", "reading-auditor")
    assert 'aria-current="page">Audit' in page
    assert page.count("<td>rerun</td>") == ROWS - 1
    assert words(page).count("refused") == 1
    [older] = re.findall(r'href="/console/audit\?before=(\d+)"[^>]*>Next page', page)
    rest = look(api, "/audit", "reading-auditor", before=older)
    assert rest.count("<td>rerun</td>") == 4
    assert "Next page" not in rest
    assert "First page" in rest
    found = words(look(api, "/audit", "reading-auditor", actor="ours-read", action="purge"))
    assert ("forbidden" in found, "begun is" not in found) == (True, True)
    assert "No entries match." in look(api, "/audit", "reading-auditor", actor='"><script>')


def test_who_sees_its_page(api: Api) -> None:
    assert "Entries belong to no customer" in look(api, "/audit", "ours-auditor")
    for who in ("ours-auditor", "reader"):
        assert "/console/audit" not in look(api, "/tasks", who)
    assert "/console/audit" in look(api, "/tasks", "reading-auditor")
    assert look(api, "/audit", "reader", 403)
    assert look(api, "/audit", "reading-auditor", 422, before="x")
    assert look(api, "/audit", "reading-auditor", 422, action="x")
    assert look(api, "/audit", "reading-auditor", 422, since="x")
