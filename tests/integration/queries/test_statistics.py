"""Statistics, groups of failures and the overview, compared with plain Python over all rows."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from celery_asynctask import AsyncTask, AsyncTaskAttempt, AsyncTaskSource, AsyncTaskStatus
from celery_asynctask.core.accounting import SILENT
from celery_asynctask.core.columns import VALUES
from celery_asynctask.core.event import Kind
from celery_asynctask.core.status import FAILED
from celery_asynctask.queries import Filter, Reader, parse
from celery_asynctask.queries.completeness import completeness
from celery_asynctask.queries.failures import groups
from celery_asynctask.queries.failures.groups import Failure, grouped
from celery_asynctask.queries.scope import Scope
from celery_asynctask.queries.statistics import overview
from celery_asynctask.queries.statistics.measures import PERCENTILES
from celery_asynctask.queries.statistics.names import DEFAULT_AGE, MAX_SCANNED, Statistics, statistics, with_time
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests import histories
from tests.asking import ask
from tests.benchmarks import kinds, rows, shop
from tests.integration.statements import statements_of

pytestmark = pytest.mark.every_database

TASKS = 4200
NOW = dt.datetime(2025, 6, 15, 12, tzinfo=dt.timezone.utc)
HOUR = dt.timedelta(hours=1)


class Shop(NamedTuple):
    """A store full of tasks, and all its rows."""

    reader: Reader
    tasks: Sequence[AsyncTask]
    """Newest first."""
    attempts: Sequence[AsyncTaskAttempt]
    sources: Sequence[AsyncTaskSource]


@pytest.fixture(scope="module")
def full(module_store: Store) -> Iterator[Shop]:
    url = module_store.settings.url
    rows.fill(url, TASKS, last=NOW.timestamp())
    reader = Reader(url)
    with Session(module_store.engine) as session:
        newest = select(AsyncTask).order_by(AsyncTask.created_at.desc(), AsyncTask.id.desc())
        in_order = select(AsyncTaskAttempt).order_by(AsyncTaskAttempt.celery_task_id, AsyncTaskAttempt.run_key)
        tasks = session.scalars(newest).all()
        yield Shop(reader, tasks, session.scalars(in_order).all(), session.scalars(select(AsyncTaskSource)).all())
    reader.close()


def search(text: str) -> Filter:
    return parse(text, NOW)


# -- statistics

Choice = Callable[[AsyncTask], bool]
SEARCHES: list[tuple[str, Choice]] = [
    ("", lambda task: True),
    ("since:1d", lambda task: task.created_at >= NOW - dt.timedelta(days=1)),
    ("name:billing.charge until:2d", lambda task: task.name == "billing.charge" and task.created_at < NOW - 48 * HOUR),
    ("customer:1,2", lambda task: task.customer in (1, 2)),
    ("name:billing.*", lambda task: task.name.startswith("billing.")),
    ("-status:SUCCESS", lambda task: task.status is not AsyncTaskStatus.SUCCESS),
    ("status:PENDING", lambda task: task.status is AsyncTaskStatus.PENDING),
    ("kwargs.currency:EUR", lambda task: task.task_kwargs.get("currency") == "EUR"),
    ("name:no.such", lambda task: False),
]


def measured(tasks: Sequence[AsyncTask]) -> dict[str, tuple[object, ...]]:
    """The expected statistics by name."""
    by_name = {}
    for name in {task.name for task in tasks}:
        ours = [task for task in tasks if task.name == name]
        waits = [task.started_at - task.created_at for task in ours if task.started_at]
        runs = [task.completed_at - task.started_at for task in ours if task.started_at and task.completed_at]
        failed = sum(task.status in FAILED for task in ours)
        by_name[name] = (len(ours), failed, sum(task.retries for task in ours), *map(nearest, (waits, runs)))
    return by_name


def nearest(lengths: list[dt.timedelta]) -> tuple[float | None, ...]:
    in_order = sorted(lengths)
    return tuple(
        in_order[math.ceil(percent * len(in_order) / 100) - 1].total_seconds() if in_order else None
        for percent in (50, 95, 99)
    )


def of(result: Statistics) -> dict[str, tuple[object, ...]]:
    return {one.name: (one.tasks, one.failed, one.retries, one.wait, one.run) for one in result.names}


@pytest.mark.parametrize(("text", "chosen"), SEARCHES, ids=[text or "all" for text, _ in SEARCHES])
def test_statistics(full: Shop, text: str, chosen: Choice) -> None:
    result = ask(statistics, full.reader, search(text), NOW)
    assert of(result) == measured([task for task in full.tasks if chosen(task)])
    assert result.looked_back_to is None
    assert list(result.names) == sorted(result.names, key=lambda one: (-one.tasks, one.name))


def test_the_rows_are_worth_counting(full: Shop) -> None:
    counts = Counter(task.status for task in full.tasks)
    assert len(full.tasks) == TASKS
    assert counts.keys() >= set(FAILED) | {AsyncTaskStatus.REVOKED, AsyncTaskStatus.PENDING, AsyncTaskStatus.STARTED}
    assert sum(task.retries for task in full.tasks) > 50
    assert sum(task.root_task_id == shop.WORKFLOW for task in full.tasks) == 1000
    assert len({task.name for task in full.tasks}) == len(kinds.SPECS)
    assert sum("Not sent" in (task.error_message or "") for task in full.tasks) > 5


@pytest.mark.parametrize("limit", [1, 500])
@pytest.mark.parametrize(("text", "chosen"), [SEARCHES[0], SEARCHES[4], SEARCHES[7]], ids=["all", "glob", "value"])
def test_statistics_of_the_newest(full: Shop, text: str, chosen: Choice, limit: int) -> None:
    """If rows are looked at one by one, rows that do not match count as well."""
    result = ask(statistics, full.reader, search(text), NOW, limit=limit)
    assert of(result) == measured([task for task in full.tasks[:limit] if chosen(task)])
    assert result.looked_back_to == full.tasks[limit - 1].created_at == result.since


def test_statistics_of_as_many_as_there_are_are_not_bounded(full: Shop) -> None:
    assert ask(statistics, full.reader, search(""), NOW, limit=TASKS).looked_back_to is None
    assert ask(statistics, full.reader, search(""), NOW, limit=TASKS - 1).looked_back_to == full.tasks[-2].created_at


def test_statistics_that_a_customer_may_see(full: Shop) -> None:
    reader = Reader(full.reader.url, scope=Scope.of([1, 3]))
    result = ask(statistics, reader, search(""), NOW)
    reader.close()
    assert of(result) == measured([task for task in full.tasks if task.customer in (1, 3)])


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("since:2d", NOW - 48 * HOUR, NOW),
        ("since:2d until:1d", NOW - 48 * HOUR, NOW - 24 * HOUR),
        ("created:2025-06-10..2025-06-12", NOW - 132 * HOUR, NOW - 60 * HOUR - dt.timedelta(microseconds=1)),
        ("name:no.such", NOW, NOW),
    ],
)
def test_the_time_looked_at(full: Shop, text: str, since: dt.datetime, until: dt.datetime) -> None:
    result = ask(statistics, full.reader, search(text), NOW)
    assert (result.since, result.until) == (since, until)
    for one in result.names:
        assert result.per_minute(one) == pytest.approx(one.tasks / ((until - since).total_seconds() / 60))


def test_the_time_looked_at_begins_with_the_first_task(full: Shop) -> None:
    assert ask(statistics, full.reader, search(""), NOW).since == full.tasks[-1].created_at


def test_a_search_without_a_time_gets_one() -> None:
    assert with_time(search("name:x"), NOW).terms == search(f"name:x since:{DEFAULT_AGE.days}d").terms
    for text in ("since:2d", "until:2d", "created:>2d", "started:>2d", "completed:>2d"):
        assert with_time(search(text), NOW) == search(text)


# -- failures


def expected(full: Shop, tasks: Sequence[AsyncTask]) -> Sequence[groups.Group]:
    newest = {run.celery_task_id: run for run in full.attempts}  # the last one by attempt key
    return grouped(
        Failure(
            task.celery_task_id,
            task.name,
            task.completed_at or task.created_at,
            task.created_at,
            task.customer_key,
            task.error_type or task.status.value,
            task.error_message or "",
            newest[task.celery_task_id].traceback if task.celery_task_id in newest else None,
        )
        for task in tasks
    ).groups


def failed(full: Shop) -> list[AsyncTask]:
    return [task for task in full.tasks if task.status in FAILED]


@pytest.mark.parametrize(
    ("text", "chosen"),
    [one for one in SEARCHES if "status" not in one[0]],
)
def test_failures(full: Shop, text: str, chosen: Choice) -> None:
    result = ask(groups.failures, full.reader, search(text))
    assert result.groups == expected(full, [task for task in failed(full) if chosen(task)])
    assert result.tasks == sum(chosen(task) for task in failed(full))
    assert result.looked_back_to is None


def test_a_search_may_say_what_has_failed(full: Shop) -> None:
    result = ask(groups.failures, full.reader, search("status:REVOKED,RETRY,SUCCESS"))
    statuses = {AsyncTaskStatus.REVOKED, AsyncTaskStatus.RETRY, AsyncTaskStatus.SUCCESS}
    assert result.groups == expected(full, [task for task in full.tasks if task.status in statuses and task.error_type])
    assert result.groups


@pytest.mark.parametrize(("text", "chosen"), [SEARCHES[0], SEARCHES[4]], ids=["all", "glob"])
def test_failures_of_the_newest(full: Shop, text: str, chosen: Choice) -> None:
    newest = failed(full)[:40]
    result = ask(groups.failures, full.reader, search(text), limit=40)
    assert result.groups == expected(full, [task for task in newest if chosen(task)])
    assert result.looked_back_to == newest[-1].created_at
    everything = ask(groups.failures, full.reader, search(text), limit=len(failed(full)))
    assert everything.looked_back_to is None


@pytest.mark.parametrize("at_once", [1, 100])
def test_a_place_that_is_not_in_the_end_of_a_traceback(
    full: Shop, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(groups, "_WHOLE_AT_ONCE", at_once)
    for end in (3, 60, 200):
        monkeypatch.setattr(groups, "TRACEBACK_END", end)
        result = ask(groups.failures, full.reader, search(""))
        assert result.groups == expected(full, failed(full))


def test_the_place_behind_a_long_message_and_below_many_libraries(database: str) -> None:
    own = '  File "/srv/shop/tasks.py", line 7, in charge\n    pay()\n'
    library = '  File "/venv/lib/python3.12/site-packages/requests/api.py", line 9, in post\n    again()\n'
    head = "Traceback (most recent call last):\n"
    texts = {
        "long": f"{head}{own}ValueError: {'<p>line</p>' * 900}",
        "deep": f"{head}{own}{library * 60}ValueError: no",
        "short": f"{head}{own}ValueError: no",
        "theirs": f"{head}{library * 60}ValueError: no",
    }
    store = Store(Settings(url=database))
    store.prepare()
    for number, text in enumerate(texts.values()):
        run = histories.Delivery(2)
        failure = histories.failure("no", traceback=text)
        store.write(histories.lines(histories.about([run.whole(Kind.FAILED, 9, 3, **failure)], f"task-{number}")))
    store.close()
    reader = Reader(database)
    found = ask(groups.failures, reader, search("")).groups
    reader.close()
    assert {(group.place, group.tasks) for group in found} == {
        ("srv/shop/tasks.py:7 charge", 3),
        ("site-packages/requests/api.py:9 post", 1),
    }


def test_the_place_is_that_of_the_latest_attempt(database: str) -> None:
    first, second = histories.Delivery(2), histories.Delivery(20, retries=1)
    events = [
        second.whole(Kind.FAILED, 29, 21, **histories.failure("no", traceback='  File "/srv/b.py", line 2, in b')),
        first.whole(Kind.RETRIED, 9, 3, **histories.failure("no", traceback='  File "/srv/a.py", line 1, in a')),
    ]
    store = Store(Settings(url=database))
    store.prepare()
    store.write(histories.lines(events))
    store.close()
    reader = Reader(database)
    (group,) = ask(groups.failures, reader, search("")).groups
    reader.close()
    assert group.place == "/srv/b.py:2 b"


def test_failures_that_a_customer_may_see(full: Shop) -> None:
    reader = Reader(full.reader.url, scope=Scope.of([1, 3]))
    result = ask(groups.failures, reader, search(""))
    reader.close()
    assert result.groups == expected(full, [task for task in failed(full) if task.customer in (1, 3)])


# -- overview


@pytest.mark.parametrize("customers", [None, list(range(1, 250))], ids=["everything", "tenant"])
def test_overview(full: Shop, customers: list[int] | None) -> None:
    reader = Reader(full.reader.url, scope=Scope.of(customers))
    result = ask(overview.overview, reader, NOW, rows=3)
    reader.close()
    tasks = [task for task in full.tasks if customers is None or task.customer in customers]
    lately = [task for task in tasks if task.created_at >= NOW - HOUR]
    assert result.counts == Counter(task.status for task in lately)
    assert (result.since, result.is_whole) == (NOW - HOUR, True)
    running = [task for task in tasks if task.status is AsyncTaskStatus.STARTED]
    assert running or customers, "nothing runs"
    assert result.running == Counter(task.name for task in running)
    slowest = sorted(running, key=lambda task: (task.started_at or NOW, task.id))
    assert ids(result.slowest) == ids(slowest)[:3]
    for shown, statuses in (
        (result.failures, {AsyncTaskStatus.FAILURE, AsyncTaskStatus.REJECTED}),
        (result.lost, {AsyncTaskStatus.LOST}),
    ):
        assert ids(shown) == ids([task for task in tasks if task.status in statuses])[:3]


def test_overview_reads_no_values(full: Shop) -> None:
    with statements_of(full.reader.engine) as sent:
        assert ask(overview.overview, full.reader, NOW).failures
    read = set(re.findall(r"\basync_task\.(\w+)", " ".join(sent)))
    assert read >= {"name", "error_message"}
    assert not read & {*VALUES}


def ids(tasks: Sequence[AsyncTask]) -> list[str]:
    return [task.celery_task_id for task in tasks]


def test_overview_of_recording(full: Shop) -> None:
    result = ask(overview.overview, full.reader, NOW).recording
    living = [one for one in full.sources if one.ended_at is None]
    assert (result.alive, result.silent, result.gone) == (len(living), 0, 0)
    assert result.seen == NOW
    assert result.stored == sum(one.stored for one in full.sources)
    assert result.quarantined == sum(one.quarantined for one in full.sources) > 0
    assert result.missing == completeness(full.reader, None).ledger.missing > 0
    assert result.dropped == {"journal_full": sum(12 for one in full.sources if one.dropped)}
    later = ask(overview.overview, full.reader, NOW + 2 * SILENT).recording
    assert (later.alive, later.silent) == (0, len(living))
    day = dt.timedelta(days=1)
    gone = sum(one.ended_at == NOW - day for one in full.sources)
    assert ask(overview.overview, full.reader, NOW - day + HOUR / 2).recording.gone == gone + sum(
        one.ended_at is not None and one.ended_at > NOW - day for one in full.sources
    )


def test_overview_counts_so_many(full: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "MAX_COUNTED", 50)
    result = ask(overview.overview, full.reader, NOW)
    assert sum(result.counts.values()) == 50
    assert (result.since, result.is_whole) == (full.tasks[49].created_at, False)
    there = sum(one.created_at >= NOW - HOUR for one in full.tasks)
    monkeypatch.setattr(overview, "MAX_COUNTED", there)
    assert ask(overview.overview, full.reader, NOW).is_whole, "just so many are all"


def test_overview_of_nothing(database: str) -> None:
    store = Store(Settings(url=database))
    store.prepare()
    store.close()
    reader = Reader(database)
    result = ask(overview.overview, reader, NOW)
    reader.close()
    assert (result.running, result.slowest, result.failures, result.lost, result.counts) == ({}, [], [], [], {})
    assert result.recording == overview.RecordingHealth(0, 0, 0, None, 0, 0, 0, {})


def test_a_share_of_so_many_is_as_exact_as_a_count() -> None:
    """The numbers that PostgreSQL's percentile_disc multiplies: the rank, rounded up."""
    for percent in PERCENTILES:
        share = percent / 100
        assert all(math.ceil(share * count) == -(-percent * count // 100) for count in range(1, MAX_SCANNED + 1))


def test_the_same_seed_makes_the_same_tasks() -> None:
    one, same, other = (list(shop.Shop(300, 10**15, seed).partials()) for seed in (1, 1, 2))
    assert one == same != other
    assert len(one) == 300
