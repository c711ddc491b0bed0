"""Purges over HTTP: old tasks that the caller sees, audited."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete, func, select, update

from celery_asynctask.errors import StoreError
from celery_asynctask.http import actions
from celery_asynctask.operations import purge as purging
from celery_asynctask.operations import session as writing
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt
from tests.histories import HISTORIES, about, lines
from tests.integration.audit import columns, entries
from tests.integration.http.client import OURS, THEIRS, Api, is_problem, tell
from tests.integration.rows import rows

PATH = "/async-tasks/purge"


@pytest.fixture
def old(store: Store) -> Callable[[], dict[str, set[str]]]:
    """Old tasks of two customers and of none; those that are left."""
    for prefix, customer in (("ours", OURS), ("theirs", THEIRS), ("none", None)):
        for number in range(5):
            tell(store, f"{prefix}-{number}", customer)

    def left() -> dict[str, set[str]]:
        left: dict[str, set[str]] = {}
        for task_id in rows(store):
            left.setdefault(task_id.rpartition("-")[0], set()).add(task_id)
        return left

    return left


def attempts(store: Store) -> int:
    with store.engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(AsyncTaskAttempt)) or 0


def test_a_purge_only_counts_unless_confirmed(store: Store, api: Api, old: Callable[[], Any]) -> None:
    assert api.post(PATH, "ours", olderThan="1d").json() == {"due": 5, "tasks": 0, "attempts": 0, "complete": True}
    assert api.post(PATH, "ours", olderThan="90y").json() == {"due": 0, "tasks": 0, "attempts": 0, "complete": True}
    assert len(rows(store)) == 15


def test_counting_deletes_nothing_else(store: Store, api: Api) -> None:
    """A purge deletes attempts without a task; a dry run does not."""
    tell(store, "gone", OURS)
    with store.engine.begin() as connection:
        connection.execute(delete(AsyncTask))
    assert api.post(PATH, olderThan="1d").json() == {"due": 0, "tasks": 0, "attempts": 0, "complete": True}
    assert attempts(store) == 1
    api.post(PATH, olderThan="1d", dryRun=False)
    assert attempts(store) == 0


@pytest.mark.every_database
def test_a_purge_deletes_ones_own(store: Store, api: Api, old: Callable[[], Any]) -> None:
    done = api.post(PATH, "ours-purge", olderThan="1d", search="id:ours-*", dryRun=False).json()
    assert done == {"due": None, "tasks": 5, "attempts": 5, "complete": True}
    assert {name: len(left) for name, left in old().items()} == {"theirs": 5, "none": 5}
    assert attempts(store) == 10
    for search in ("", "customer:none", f"customer:{THEIRS}", "-customer:1", "*"):
        done = api.post(PATH, "ours-purge", olderThan="1d", search=search, dryRun=False).json()
        assert done == {"due": None, "tasks": 0, "attempts": 0, "complete": True}, search
    assert len(rows(store)) == 10
    done = api.post(PATH, "nobody", olderThan="1d", dryRun=False).json()
    assert done["tasks"] == 0
    assert api.post(PATH, olderThan="1d", dryRun=False).json()["tasks"] == 10


def test_what_is_not_over_stays_unless_it_is_meant(store: Store, api: Api) -> None:
    store.write(lines(about(HISTORIES["success"]()[:1], "waits")))
    assert api.post(PATH, olderThan="1d", dryRun=False).json()["tasks"] == 0
    assert api.post(PATH, olderThan="1d", dryRun=False, unfinished=True).json()["tasks"] == 1
    assert rows(store) == {}


def test_a_request_deletes_so_many_at_most(
    store: Store, api: Api, old: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "MAX_PURGED", 4)
    monkeypatch.setattr(
        purging.Purge.__init__, "__kwdefaults__", {**(purging.Purge.__init__.__kwdefaults__ or {}), "batch": 2}
    )
    deleted = []
    while not (done := api.post(PATH, olderThan="1d", dryRun=False).json())["complete"]:
        deleted.append(done["tasks"])
    assert [*deleted, done["tasks"]] == [4, 4, 4, 3]
    assert rows(store) == {}


@pytest.mark.parametrize("who", ["admin", "both"])
def test_a_dry_run_looks_at_so_many_at_most(
    store: Store, api: Api, old: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Five tasks of each of two customers, the first ones too young."""
    with store.engine.begin() as connection:
        now = dt.datetime.now(dt.timezone.utc)
        connection.execute(update(AsyncTask).where(AsyncTask.celery_task_id == "ours-0").values(completed_at=now))
        connection.execute(delete(AsyncTask).where(AsyncTask.customer.is_(None)))
    for module in (writing, purging):
        monkeypatch.setattr(module, "WINDOW", 2)
    for limit, due, complete in ((3, 3, False), (4, 3, False), (10, 9, True), (11, 9, True)):
        monkeypatch.setattr(actions, "MAX_COUNTED", limit)
        assert api.post(PATH, who, olderThan="1d").json() == {
            "due": due, "tasks": 0, "attempts": 0, "complete": complete
        }  # fmt: skip
    assert len(rows(store)) == 10


def test_a_purge_is_audited_with_its_caller_and_count(store: Store, api: Api, old: Callable[[], Any]) -> None:
    """With the keys of the search, but not with values that may be secret."""
    api.post(PATH, "ours", olderThan="90d")
    assert entries(store) == []
    search = "-content.order:4711 id:ours-*"
    assert api.post(PATH, "ours", olderThan="90d", search=search, dryRun=False).json()["tasks"] == 5
    api.post(PATH, olderThan="1d", dryRun=False, unfinished=True)
    ours = "-content.order:… id:ours-* older than 90d; of customers 42"
    assert columns(store, "action", "actor", "origin", "target", "outcome", "detail") == [
        ("purge", "ours", "127.0.0.1", ours, "begun", None),
        ("purge", "ours", "127.0.0.1", ours, "done", "5 tasks, 5 attempts"),
        ("purge", "admin", "127.0.0.1", "* older than 1d; unfinished ones too", "begun", None),
        ("purge", "admin", "127.0.0.1", "* older than 1d; unfinished ones too", "done", "10 tasks, 10 attempts"),
    ]


@pytest.mark.every_database
def test_what_was_deleted_before_it_broke_off_is_on_record(
    store: Store, api: Api, old: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        purging.Purge.__init__, "__kwdefaults__", {**(purging.Purge.__init__.__kwdefaults__ or {}), "batch": 4}
    )
    real = writing.Writer.batch

    def batch(self: writing.Writer, work: Any) -> Any:
        if len(rows(store)) < 8:
            raise StoreError("The database is away.")
        return real(self, work)

    monkeypatch.setattr(writing.Writer, "batch", batch)
    is_problem(api.post(PATH, olderThan="1d", dryRun=False), "database-unavailable", 503)
    assert columns(store, "outcome", "detail") == [("begun", None), ("failed", "8 tasks, 8 attempts; StoreError")]
    assert len(rows(store)) == 7


NOT_UNDERSTOOD: list[tuple[dict[str, Any], str]] = [
    ({}, "olderThan"),
    ({"olderThan": ""}, "olderThan"),
    ({"olderThan": "soon"}, "olderThan"),
    ({"olderThan": "-1d"}, "olderThan"),
    ({"olderThan": 5}, "olderThan"),
    ({"olderThan": "999999999y"}, "olderThan"),
    ({"olderThan": "1d", "search": "nokey:1"}, "search"),
    ({"olderThan": "1d", "search": None}, "search"),
    ({"olderThan": "1d", "dryRun": "maybe"}, "dryRun"),
    ({"olderThan": "1d", "dryrun": False}, "dryrun"),
    ({"olderThan": "1d", "older_than": "1d"}, "older_than"),
    ({"olderThan": "1d", "dry_run": False}, "dry_run"),
    ({"olderThan": "1d", "customer": 5}, "customer"),
]


def test_what_is_not_understood_deletes_nothing(store: Store, api: Api) -> None:
    tell(store, "old", OURS)
    for body, named in NOT_UNDERSTOOD:
        is_problem(api.ask("POST", PATH, json={"dryRun": False, **body}), "invalid-parameter", 422, named)
    is_problem(api.ask("POST", f"{PATH}?dryRun=false", json={"olderThan": "1d"}), "invalid-parameter", 422, "dryRun")
    assert len(rows(store)) == 1
