"""`/health`: the state of the record, and its ledger, made once for all callers within some seconds."""

from __future__ import annotations

import datetime as dt
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text, update

from celery_asynctask.errors import JournalError, StoreError
from celery_asynctask.journal import Directory, Journal
from celery_asynctask.journal.survey import Survey, survey_of
from celery_asynctask.store import Position, SourceUpdate, Store
from celery_asynctask.store.models import AsyncTaskSource
from celery_asynctask.store.tables import SCHEMA_VERSION
from celery_asynctask.web import health, memory, service
from celery_asynctask.web.memory import SingleFlightCache
from tests.histories import HISTORIES, START, lines, published
from tests.integration.http.client import Api, api_over, is_problem
from tests.pace import patience
from tests.waiting import wait_for

SECONDS = 20


@pytest.fixture
def api(store: Store, tmp_path: Path) -> Iterator[Api]:
    with api_over(store, asynctask_journal_dir=str(tmp_path / "journal")) as made:
        yield made


@pytest.mark.every_database
def test_health_of_a_record_that_is_whole(
    store: Store, api: Api, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "KEPT_SECONDS", 0)
    source = {"source": "a", "host": "h", "pid": 1, "role": "child", "at": START, "journal": "j"}
    store.write(lines(HISTORIES["success"]()), [SourceUpdate(source, Position(last_number=4, stored=4))])
    store.note_ended("j", [], dt.timedelta(0))
    shown = api.ok("/health")
    assert shown["schemaVersion"] == SCHEMA_VERSION
    assert shown["ledger"]["complete"] is True
    assert (shown["ledger"]["accepted"], shown["ledger"]["stored"], shown["ledger"]["processes"]) == (4, 4, 1)
    assert journal.append(lines([published()])[0])
    ledger = api.ok("/health")["ledger"]
    assert (ledger["accepted"], ledger["inJournal"], ledger["processes"]) == (5, 1, 2)


def test_health_of_a_journal_that_nobody_drains(
    store: Store, api: Api, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "KEPT_SECONDS", 0)
    assert journal.append(lines([published()])[0])
    names = ("inJournal", "abandoned", "missing", "complete")
    ledger = api.ok("/health")["ledger"]
    assert [ledger[name] for name in names] == [1, 1, 0, False]
    elected = Directory(journal.path, store.settings.store_id).elect()
    assert elected is not None
    ledger = api.ok("/health")["ledger"]
    os.close(elected)
    assert [ledger[name] for name in names] == [1, 0, 0, True]


@pytest.mark.every_database
def test_health_of_a_record_that_is_not(store: Store, api: Api) -> None:
    position = Position(last_number=9, stored=4, quarantined=2, dropped={"full": 3})
    source = {"source": "a", "host": "h", "pid": 1, "role": "child", "at": START, "journal": "j"}
    store.write([], [SourceUpdate(source, position)])
    store.note_ended("j", [], dt.timedelta(0))
    ledger = api.ok("/health")["ledger"]
    counts = {name: ledger[name] for name in ("complete", "stored", "quarantined", "dropped", "missing", "accepted")}
    assert counts == {
        "complete": False, "stored": 4, "quarantined": 2, "dropped": {"full": 3}, "missing": 3, "accepted": 12
    }  # fmt: skip
    assert "3" in ledger["sentence"]
    assert api.ok("/health", "ours") == {"schemaVersion": SCHEMA_VERSION, "ledger": None}, "not of its customers"


@pytest.mark.parametrize("fault", [PermissionError(13, "not yours"), JournalError("The journal cannot be used.")])
def test_health_where_the_journal_cannot_be_read(
    store: Store, api: Api, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is another user's: the answer has what the tables know."""

    def refuse(_directory: Path) -> Any:
        raise fault

    monkeypatch.setattr(health, "survey_of", refuse)
    source = {"source": "a", "host": "h", "pid": 1, "role": "child", "at": START, "journal": "j"}
    store.write([], [SourceUpdate(source, Position(last_number=4, stored=4))])
    ledger = api.ok("/health")["ledger"]
    assert (ledger["stored"], ledger["complete"], ledger["unknown"]) == (4, True, [])


@pytest.mark.every_database
def test_health_where_a_host_is_silent(store: Store, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "KEPT_SECONDS", 0)
    source = {"source": "a", "host": "h", "pid": 1, "role": "child", "at": START, "journal": "j"}
    store.write([], [SourceUpdate(source, Position(last_number=4, stored=4))])
    seen = dt.datetime(2026, 1, 31, 12, tzinfo=dt.timezone.utc)
    silent = update(AsyncTaskSource).values(last_seen_at=seen, numbered=6)
    with store.engine.begin() as connection:
        connection.execute(silent)
    ledger = api.ok("/health")["ledger"]
    assert (ledger["complete"], ledger["answer"], ledger["inJournal"]) == (None, "not known", 2)
    one = {"host": "h", "processes": 1, "since": "2026-01-31T12:00:00.000000Z", "tasks": 0}
    assert (ledger["unknown"], ledger["acceptedUnknown"]) == ([one], [])
    with store.engine.begin() as connection:
        connection.execute(silent.values(given_up_at=seen))
    ledger = api.ok("/health")["ledger"]
    assert (ledger["complete"], ledger["givenUp"], ledger["unknown"]) == (True, 2, [])
    assert [known["host"] for known in ledger["acceptedUnknown"]] == ["h"]


# -- made once


@pytest.fixture
def surveys(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every survey of the journal."""
    looked: list[Path] = []

    def look(directory: Path) -> Survey | None:
        looked.append(directory)
        return survey_of(directory)

    monkeypatch.setattr(health, "survey_of", look)
    return looked


def stored(store: Store, number: int) -> None:
    source = {"source": "a", "host": "h", "pid": 1, "role": "child", "at": START, "journal": "j"}
    store.write([], [SourceUpdate(source, Position(last_number=number, stored=number))])


def test_it_is_made_again_only_after_some_seconds(
    store: Store, api: Api, surveys: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(store, 4)
    assert [api.ok("/health", who)["ledger"]["stored"] for who in ("admin", "reader", "admin")] == [4, 4, 4]
    assert len(surveys) == 1
    stored(store, 5)
    assert api.ok("/health")["ledger"]["stored"] == 4
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + service.KEPT_SECONDS)
    monkeypatch.setattr(memory, "time", later)
    assert api.ok("/health")["ledger"]["stored"] == 5
    assert len(surveys) == 2


def test_it_is_of_one_server(store: Store, api: Api, surveys: list[Path], tmp_path: Path) -> None:
    api.ok("/health")
    with api_over(store, asynctask_journal_dir=str(tmp_path / "other")) as other:
        other.ok("/health")
    assert surveys == [tmp_path / "journal", tmp_path / "other"]


@pytest.mark.every_database
def test_a_ledger_that_is_kept_hides_no_outage(store: Store, api: Api) -> None:
    assert api.ok("/health")["ledger"]["complete"] is True
    with store.engine.begin() as connection:
        connection.execute(text("ALTER TABLE async_task_version RENAME TO away"))
    try:
        is_problem(api.get("/health"), "database-unavailable", 503)
    finally:
        with store.engine.begin() as connection:
            connection.execute(text("ALTER TABLE away RENAME TO async_task_version"))
    assert api.ok("/health")["ledger"]["complete"] is True


# -- what keeps it


class Slow:
    """Makes a value when the test allows it, or fails with an error."""

    def __init__(self) -> None:
        self.calls = 0
        self.may = threading.Event()
        self.error: Exception | None = None

    def __call__(self) -> int:
        self.calls += 1
        assert self.may.wait(patience(SECONDS))
        if self.error is not None:
            raise self.error
        return self.calls


def asked_by_many(kept: SingleFlightCache[int], slow: Slow) -> list[Any]:
    """The outcome of eight calls that are all under way before the value is made."""
    entered = threading.Barrier(8)

    def ask() -> int | Exception:
        entered.wait(patience(SECONDS))
        try:
            return kept.get(slow, 60)
        except StoreError as exc:
            return exc

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(ask) for _ in range(8)]
        wait_for(lambda: slow.calls, SECONDS, "the first call")
        waiting = kept._made
        assert waiting is not None
        wait_for(lambda: len(waiters(waiting)) == 7, SECONDS, "the others to wait for it")
        slow.may.set()
        return [one.result(patience(SECONDS)) for one in calls]


def waiters(made: Any) -> list[Any]:
    """Number of threads that wait for a future."""
    return list(made._condition._waiters)


def test_one_makes_it_for_all_who_ask_meanwhile() -> None:
    slow = Slow()
    assert asked_by_many(SingleFlightCache(), slow) == [1] * 8


def test_a_failure_reaches_those_who_waited_and_is_not_kept() -> None:
    slow, kept = Slow(), SingleFlightCache[int]()
    slow.error = StoreError("away")
    assert asked_by_many(kept, slow) == [slow.error] * 8
    slow.error = None
    make: Callable[[], int] = slow
    assert (kept.get(make, 60), kept.get(make, 60)) == (2, 2)
