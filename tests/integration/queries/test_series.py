"""Tasks over time, the backlog, and the tasks of one name, compared with plain Python on each kind of database."""

from __future__ import annotations

import datetime as dt
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from celery_asynctask.core.status import FAILED, SHOWN, TERMINAL, AsyncTaskStatus
from celery_asynctask.queries import Filter, Reader, parse
from celery_asynctask.queries.scope import Scope
from celery_asynctask.queries.search.filter import term
from celery_asynctask.queries.statistics.counts import COUNTED, LostCounts, backlog, counts, is_empty, lost_counts
from celery_asynctask.queries.statistics.measures import PERCENTILES, Percentiles
from celery_asynctask.queries.statistics.names import by_name, name_detail
from celery_asynctask.queries.statistics.series import Part, series
from celery_asynctask.store import Store
from tests.integration.http.client import OURS, THEIRS
from tests.integration.oracle import TEXTS, add, row
from tests.integration.statements import statements_of

pytestmark = pytest.mark.every_database

NOW = dt.datetime(2026, 2, 1, 12, 30, tzinfo=dt.timezone.utc)
HOUR = dt.timedelta(hours=1)
MICROSECOND = dt.timedelta(microseconds=1)
NAMES = ("shop.charge", "shop.charge ", "Shop.charge", "shop.*", 'a "b" \\c')
Row = dict[str, Any]


def made(seed: int, count: int = 400) -> list[Row]:
    """Tasks of five hours, some at the very ends of hours, newest last; with ids as the database gives them."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        created = NOW - chance.choice([chance.random() * 5 * HOUR, chance.randrange(6) * HOUR])
        created -= chance.choice([0, 0, 1]) * MICROSECOND
        started = created + chance.randrange(-5, 10**8) * MICROSECOND if chance.random() < 0.8 else None
        status = chance.choice(SHOWN)
        completed = (started or created) + chance.randrange(10**9) * MICROSECOND if status in TERMINAL else None
        rows.append(
            row(
                f"task-{number}",
                name=chance.choice(NAMES),
                created_at=created,
                started_at=started,
                completed_at=completed,
                status=status.value,
                customer=chance.choice([None, OURS, THEIRS]),
            )
        )
    return rows


@contextmanager
def reading(store: Store, customers: Sequence[int] | None = None) -> Iterator[tuple[Reader, Any]]:
    reader = Reader(store.settings.url, scope=Scope.of(customers))
    with reader.session() as session:
        yield reader, session
    reader.close()


def nearest(lengths: list[dt.timedelta]) -> Percentiles:
    in_order = sorted(lengths)
    return Percentiles(
        *(
            in_order[math.ceil(percent * len(in_order) / 100) - 1].total_seconds() if in_order else None
            for percent in PERCENTILES
        )
    )


def expected(
    rows: Sequence[Row], matches: Any, *, count: int, length: dt.timedelta, limit: int, counted: int | None
) -> list[Part]:
    """The expected series for rows in the order of their ids. In each part, the newest rows are looked at, whether they
    match or not; in full parts, up to a bound are counted. None: they are not counted."""
    newest = sorted(enumerate(rows), key=lambda one: (one[1]["created_at"], one[0]), reverse=True)
    starts = [NOW - length * (count - number) for number in range(count)]
    by_part = [[one for _, one in newest if start <= one["created_at"] < start + length] for start in starts]
    known = max((counted or 0) // max(sum(len(one) >= limit for one in by_part), 1), limit)
    parts = []
    for start, all_here in zip(starts, by_part, strict=True):
        here = all_here[:limit]
        result = [one for one in here if matches(one)]
        waits = [one["started_at"] - one["created_at"] for one in result if one["started_at"]]
        runs = [one["completed_at"] - one["started_at"] for one in result if one["started_at"] and one["completed_at"]]
        bounded = len(all_here) > limit
        parts.append(
            Part(
                start,
                start + length,
                len(result),
                sum(one["status"] in FAILED for one in result),
                nearest(waits),
                nearest(runs),
                here[-1]["created_at"] if bounded else None,
                len(result) if counted is None else min(len(all_here), known),
                bounded if counted is None else len(all_here) > known,
            )
        )
    return parts


SEARCHES: dict[str, Any] = {
    "": lambda one: True,
    'name:"shop.charge"': lambda one: one["name"] == "shop.charge",
    'name:"shop.charge "': lambda one: one["name"] == "shop.charge ",
    "status:FAILURE": lambda one: one["status"] == "FAILURE",
    "name:no.such": lambda one: False,
}
SCANNED: dict[str, Any] = {
    "name:*.charge": lambda one: one["name"].endswith(".charge"),
    "run:>8m": lambda one: (
        one["started_at"] and one["completed_at"] and one["completed_at"] - one["started_at"] > 8 * HOUR / 60
    ),
}


@pytest.mark.parametrize("seed", [1, 2])
def test_series(store: Store, seed: int) -> None:
    """An index leads to the results of some searches, and only those are looked at; for others, each row is."""
    rows = made(seed)
    add(store, rows)
    with reading(store) as (reader, session):
        for text, matches in (SEARCHES | SCANNED).items():
            search = parse(text, NOW)
            led_to = [one for one in rows if matches(one)] if text in SEARCHES else rows
            for count, length, each in ((6, HOUR, 1000), (6, HOUR, 7), (3, HOUR / 4, 1), (1, 24 * HOUR, 1000)):
                for limit in (2, 200, 10_000):
                    result = series(
                        reader, session, search, NOW, count=count, length=length, limit=each * count, max_counted=limit
                    )
                    counted = None if text in SCANNED else limit
                    wanted = expected(led_to, matches, count=count, length=length, limit=each, counted=counted)
                    assert result == wanted, (text, count, each, limit)


def test_series_that_a_customer_may_see(store: Store) -> None:
    rows = made(3, 100)
    add(store, rows)
    with reading(store, [OURS]) as (reader, session):
        ours = [one for one in rows if one["customer"] == OURS]
        result = series(reader, session, Filter(), NOW, count=6, limit=60)
        assert result == expected(ours, lambda one: True, count=6, length=HOUR, limit=10, counted=1000)


def test_series_of_nothing(store: Store) -> None:
    with reading(store) as (reader, session):
        result = series(reader, session, Filter(), NOW)
    assert [one.start for one in result] == [NOW - HOUR * (24 - number) for number in range(24)]
    assert {one[2:] for one in result} == {(0, 0, Percentiles(), Percentiles(), None, 0, False)}
    assert {one.failure_rate for one in result} == {None}


def test_a_burst_is_counted(store: Store) -> None:
    """The rows that are looked at all lie in its last tenth of a second."""
    end = NOW - HOUR
    add(store, [row(f"task-{number}", created_at=end - (1 + number) * HOUR / 3_600_000) for number in range(300)])
    with reading(store) as (reader, session):
        [before, burst, last] = series(reader, session, Filter(), NOW, count=3, limit=300)
        assert (before.there, burst.there, last.there) == (0, 300, 0)
        assert (burst.tasks, burst.has_more, burst.looked_back_to) == (100, False, end - 100 * HOUR / 3_600_000)
        for limit, expected_counts in ((300, (300, False)), (299, (299, True)), (99, (100, True))):
            result = series(reader, session, Filter(), NOW, count=3, limit=300, max_counted=limit)[1]
            assert (result.there, result.has_more) == expected_counts
        result = series(reader, session, parse("name:*", NOW), NOW, count=3, limit=300)[1]
        assert (result.there, result.has_more) == (100, True), "each row is looked at"


@pytest.mark.parametrize("customers", [None, [OURS]], ids=["everything", "tenant"])
def test_it_is_bounded_where_there_is_more(store: Store, customers: list[int] | None) -> None:
    add(
        store,
        [row(f"task-{number}", created_at=NOW - (1 + number // 2) * HOUR / 60, customer=OURS) for number in range(8)],
    )
    with reading(store, customers) as (reader, session):
        for limit, back in (
            (9, None),
            (8, None),
            (7, NOW - 4 * HOUR / 60),
            (6, NOW - 3 * HOUR / 60),
            (5, NOW - HOUR / 20),
        ):
            for search in (Filter(), parse("name:*", NOW)):
                assert series(reader, session, search, NOW, count=1, limit=limit)[0].looked_back_to == back, limit
                result = counts(reader, session, search, limit=limit)
                assert (result.looked_back_to, sum(result.by_status.values())) == (back, min(limit, 8))


@pytest.mark.parametrize("limit", [1000, 5])
@pytest.mark.parametrize("customers", [None, [OURS]], ids=["everything", "tenant"])
def test_backlog(store: Store, limit: int, customers: list[int] | None) -> None:
    rows = made(4, 300)
    with reading(store, customers) as (reader, session):
        assert is_empty(reader, session)
        assert set(backlog(reader, session).values()) == {0}
    add(store, rows)
    seen = [one for one in rows if customers is None or one["customer"] in customers]
    with reading(store, customers) as (reader, session):
        assert not is_empty(reader, session)
        result = backlog(reader, session, limit=limit)
    assert result == {status: min(sum(one["status"] == status for one in seen), limit) for status in COUNTED}
    assert set(result) == set(SHOWN) - (TERMINAL - {AsyncTaskStatus.LOST})


@pytest.mark.parametrize("customers", [None, [OURS]], ids=["everything", "tenant"])
def test_lost_counts(store: Store, customers: list[int] | None) -> None:
    day = dt.timedelta(days=1)
    with reading(store, customers) as (reader, session):
        assert lost_counts(reader, session, NOW - day) == LostCounts(0, 0, False)
    over = {"status": AsyncTaskStatus.LOST, "created_at": NOW - 9 * day}
    ended = {"new": NOW, "since": NOW - day, "old": NOW - day - dt.timedelta(microseconds=1)}
    rows = [
        row(f"{name}-{of}", **over, completed_at=at, customer=of) for name, at in ended.items() for of in (OURS, THEIRS)
    ]
    failed = row("failed", status=AsyncTaskStatus.FAILURE, completed_at=NOW, customer=OURS)
    add(store, [*rows, failed])
    of_each = 1 if customers else 2
    with reading(store, customers) as (reader, session):
        assert lost_counts(reader, session, NOW - day) == LostCounts(2 * of_each, 3 * of_each, False)
        assert lost_counts(reader, session, NOW - day, limit=3).total == 3
        assert lost_counts(reader, session, NOW - day, limit=3).bounded


@pytest.mark.parametrize("limit", [1000, 30])
@pytest.mark.parametrize("customers", [None, [OURS]], ids=["everything", "tenant"])
def test_named(store: Store, limit: int, customers: list[int] | None) -> None:
    rows = made(5)
    add(store, rows)
    with reading(store, customers) as (reader, session):
        for name in (*NAMES, "no.such"):
            mine = [
                (one["created_at"], number, one)
                for number, one in enumerate(rows)
                if one["name"] == name and (customers is None or one["customer"] in customers)
            ]
            newest = sorted(mine, key=lambda one: one[:2], reverse=True)
            looked_at = newest[:limit]
            ended = [one for one in looked_at if one[2]["started_at"] and one[2]["completed_at"]]
            ended.sort(key=lambda one: (one[2]["completed_at"] - one[2]["started_at"], *one[:2]), reverse=True)
            result = name_detail(reader, session, name, rows=6, limit=limit)
            assert ids(result.newest) == ids_of(newest[:6])
            assert ids(result.failures) == ids_of([one for one in looked_at if one[2]["status"] in FAILED][:6])
            assert ids(result.slowest) == ids_of(ended[:6])
            assert result.looked_back_to == (looked_at[-1][0] if len(looked_at) == limit else None)


def ids(rows: Sequence[Any]) -> list[str]:
    return [one.celery_task_id for one in rows]


def ids_of(rows: Sequence[Any]) -> list[str]:
    return [one["celery_task_id"] for _, _, one in rows]


def test_any_text_is_found_by_its_term() -> None:
    for text in (*TEXTS, *NAMES, "", " ", "a,b", "-a", "x:y", "[*]", "none", "line\nbreak"):
        assert parse(term("name", text), NOW).terms == by_name(text).terms, text


def test_how_many_parts_are_full_makes_no_other_statement(store: Store) -> None:
    """SQLAlchemy would take long to compile it."""
    hours = {"shop.seldom": 1, "shop.often": 3}
    add(
        store,
        [
            row(f"{name}-{hour}-{number}", name=name, created_at=NOW - (hour + 0.5) * HOUR)
            for name, count in hours.items()
            for hour in range(count)
            for number in range(3)
        ],
    )
    sent_statements = []
    for name, count in hours.items():
        with reading(store) as (reader, session), statements_of(reader.engine) as sent:
            parts = series(reader, session, by_name(name), NOW, count=5, limit=5, max_counted=50)
        assert [part.there for part in parts] == [0] * (5 - count) + [3] * count
        sent_statements.append([one for one in sent if "async_task" in one])
    assert sent_statements[0] == sent_statements[1]
    assert len(sent_statements[0]) == 2
