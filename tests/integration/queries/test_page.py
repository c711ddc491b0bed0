"""Pages have each task exactly once, and a bounded search says so and can be continued."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from sqlalchemy import Select, event, select

from celery_asynctask.errors import FilterError, StoreError
from celery_asynctask.queries import Page, Reader, page, parse
from celery_asynctask.queries.scope import Scope
from celery_asynctask.queries.search.order import NEWEST, ORDERS, Cursor, Order, Place
from celery_asynctask.queries.search.page import MAX_ROWS
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask
from tests.asking import ask
from tests.integration.oracle import START, add, row

pytestmark = pytest.mark.every_database

MODULE = sys.modules["celery_asynctask.queries.search.page"]
"""The module; in the package, the function has its name."""
MICROSECOND = dt.timedelta(microseconds=1)
ALL = ""
SCANNED = "kwargs.even:true"
INDEXED = "customer:42"
BOTH = f"{SCANNED} {INDEXED}"


@pytest.fixture
def reader(store: Store) -> Iterator[Reader]:
    made = Reader(store.settings.url)
    yield made
    made.close()


def started(number: int) -> dt.datetime | None:
    """Four moments, in another order than the creation of the tasks; and none."""
    return None if number % 5 == 4 else START + (7 * number % 4) * MICROSECOND


@pytest.fixture
def tied(store: Store) -> list[str]:
    """Ids of 60 tasks, newest first, created at three moments, a microsecond apart; they were recorded in another
    order."""
    rows = [
        row(
            f"task-{number:02}",
            created_at=START + (number % 3) * MICROSECOND,
            customer=42 if number % 4 < 2 else None,
            task_kwargs={"even": not number % 2},
            started_at=started(number),
        )
        for number in range(60)
    ]
    add(store, rows)
    order = sorted(range(60), key=lambda number: (rows[number]["created_at"], number), reverse=True)
    return [f"task-{number:02}" for number in order]


WANTED: dict[str, Callable[[int], bool]] = {
    ALL: lambda _: True,
    SCANNED: lambda number: not number % 2,
    INDEXED: lambda number: number % 4 < 2,
    BOTH: lambda number: not number % 4,
}


def wanted(search: str, ids: list[str]) -> list[str]:
    return [one for one in ids if WANTED[search](int(one[-2:]))]


def walk(
    reader: Reader, search: str, limit: int, between: Callable[[], None] = lambda: None, order: Order = NEWEST
) -> Iterator[Page]:
    """The pages of a search, from first to last; something happens ``between`` them."""
    after = None
    for _ in range(200):
        result = ask(page, reader, parse(search, START), limit=limit, after=after, order=order)
        yield result
        if result.next is None:
            return
        after = result.next
        between()
    raise AssertionError("it never ends")


def ids_of(pages: Iterator[Page]) -> list[str]:
    return [task.celery_task_id for one in pages for task in one.tasks]


@pytest.mark.parametrize("search", WANTED)
def test_each_task_once_and_newest_first(reader: Reader, tied: list[str], search: str) -> None:
    for limit in (1, 7, 15, 20, 30, 60, 1000):
        pages = list(walk(reader, search, limit))
        assert ids_of(iter(pages)) == wanted(search, tied), limit
        assert all(len(one.tasks) == limit for one in pages[:-1])
        assert all(one.looked_back_to is None for one in pages)
        assert pages[-1].tasks, "no page that was promised is empty"


@pytest.mark.parametrize("search", WANTED)
def test_each_task_once_in_any_order(reader: Reader, tied: list[str], search: str) -> None:
    """Oldest first is the reverse; in an order by another time, tasks without it come last."""
    assert ids_of(walk(reader, search, 7, order=Order(descending=False))) == wanted(search, tied)[::-1]
    numbers = [number for number in range(60) if WANTED[search](number)]
    for descending in (True, False):

        def place(number: int, descending: bool = descending) -> tuple[bool, float]:
            at = started(number)
            after = 0.0 if at is None else (at - START) / MICROSECOND
            return at is None, -after if descending else after

        order = Order("started_at", descending)
        expected = sorted(sorted(numbers, reverse=descending), key=place)
        for limit in (1, 7, 15, 1000):
            pages = list(walk(reader, search, limit, order=order))
            assert ids_of(iter(pages)) == [f"task-{number:02}" for number in expected], limit
            assert all(one.looked_back_to is None for one in pages)
    assert sorted(ids_of(walk(reader, search, 7, order=Order("completed_at")))) == sorted(wanted(search, tied))


@pytest.mark.parametrize("search", WANTED)
def test_an_order_without_an_index_sorts_the_newest(
    store: Store, reader: Reader, tied: list[str], search: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows on every page, and each page says so; new tasks do not shift them."""
    monkeypatch.setattr(MODULE, "MAX_SCANNED", 13)
    count = 0

    def arrive() -> None:
        nonlocal count
        count += 1
        add(store, [row(f"newer-{count}", created_at=START + dt.timedelta(seconds=count), customer=42)])

    indexed = wanted(INDEXED, tied) if INDEXED in search else tied
    expected = wanted(search, indexed[:13])
    pages = list(walk(reader, search, 3, arrive, order=Order("started_at")))
    assert sorted(one for one in ids_of(iter(pages)) if one.startswith("task-")) == sorted(expected)
    assert {one.looked_back_to for one in pages} == {START + (2 - int(tied.index(indexed[12])) // 20) * MICROSECOND}


@pytest.mark.parametrize("search", [ALL, SCANNED])
def test_oldest_first_it_looks_at_the_oldest(
    reader: Reader, tied: list[str], search: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "MAX_SCANNED", 7)
    pages = list(walk(reader, search, 5, order=Order(descending=False)))
    assert ids_of(iter(pages)) == wanted(search, tied)[::-1]
    assert [one.looked_back_to for one in pages if one.looked_back_to][:1] == ([START] if search else [])


def test_rows_of_columns(reader: Reader, tied: list[str]) -> None:
    columns = cast("Select[Any]", select(AsyncTask.id, AsyncTask.celery_task_id, AsyncTask.created_at))
    result = ask(page, reader, parse(BOTH, START), limit=3, columns=columns)
    assert [one.celery_task_id for one in result.tasks] == wanted(BOTH, tied)[:3]
    assert result.next == ask(page, reader, parse(BOTH, START), limit=3).next


@pytest.mark.parametrize("search", [ALL, SCANNED, BOTH])
def test_new_tasks_do_not_shift_pages(
    store: Store, reader: Reader, tied: list[str], search: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newer tasks are not on later pages; one with the same time as others may be, and then only once. Bounded or
    not."""
    monkeypatch.setattr(MODULE, "MAX_SCANNED", 11)
    count = 0

    def arrive() -> None:
        nonlocal count
        count += 1
        following = {"customer": 42, "task_kwargs": {"even": True}}
        newer = row(f"newer-{count}", created_at=START + dt.timedelta(seconds=count), **following)
        add(store, [newer, row(f"older-{count}", created_at=START, **following)])

    got = ids_of(walk(reader, search, 4, arrive))
    assert [one for one in got if one.startswith("task-")] == wanted(search, tied)
    assert len(got) == len(set(got))
    assert not [one for one in got if one.startswith("newer-")]


@pytest.mark.parametrize("bound", [1, 7, 59, 60, 61])
def test_a_search_that_looks_at_rows_one_by_one_is_bounded(
    reader: Reader, tied: list[str], bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "MAX_SCANNED", bound)
    first = ask(page, reader, parse("kwargs.even:no", START), limit=5)
    assert first.tasks == []
    if bound >= 60:
        assert first == Page([], None, None), "it looked at all there are"
    else:
        assert first.next is not None
        assert first.looked_back_to == START + (2 - (bound - 1) // 20) * MICROSECOND
    for search in (SCANNED, BOTH):
        pages = list(walk(reader, search, 5))
        assert ids_of(iter(pages)) == wanted(search, tied), "gone on with, it has looked at everything"
        bounded = [one for one in pages if one.looked_back_to is not None]
        assert bool(bounded) is (bound <= 7)
        assert all(len(one.tasks) <= 5 for one in pages)
    assert ask(page, reader, parse(INDEXED, START), limit=50).looked_back_to is None, "an index leads to these"


def test_with_an_index_the_bound_is_on_what_that_leads_to(
    reader: Reader, tied: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "MAX_SCANNED", 30)
    assert ask(page, reader, parse(f"{INDEXED} kwargs.even:no", START)).looked_back_to is None, "30 are of the customer"
    assert ask(page, reader, parse("customer:*,none kwargs.even:no", START)).looked_back_to is not None


def test_customers(store: Store, tied: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "MAX_SCANNED", 7)
    scoped = Reader(store.settings.url, scope=Scope.of({42}))
    for search in WANTED:
        expected = [one for one in wanted(search, tied) if WANTED[INDEXED](int(one[-2:]))]
        assert ids_of(walk(scoped, search, 4)) == expected
    assert ids_of(walk(scoped, "customer:none", 4)) == []
    scoped.close()


def test_payloads_are_left_unread(reader: Reader, tied: list[str]) -> None:
    query: list[str] = []
    event.listen(reader.engine, "before_cursor_execute", lambda *about: query.append(about[2]))
    for search in (ALL, SCANNED):
        [task] = ask(page, reader, parse(search, START), limit=1, payloads=False).tasks
        assert {"task_args", "task_kwargs", "result", "content"} & set(task.__dict__) == set()
    assert not [statement for statement in query if "task_args" in statement]
    [task] = ask(page, reader, parse(ALL, START), limit=1).tasks
    assert "even" in task.task_kwargs


def test_limits(reader: Reader, tied: list[str]) -> None:
    assert len(ask(page, reader, parse(ALL, START), limit=0).tasks) == 1
    assert len(ask(page, reader, parse(ALL, START), limit=10**9).tasks) == 60 <= MAX_ROWS


@pytest.mark.parametrize("after", ["", "x", "A" * 22 + "!", "A" * 24, "\0", "\udc80", "é" * 23, "A" * 10_000])
def test_cursors_that_no_page_gave(reader: Reader, tied: list[str], after: str) -> None:
    with pytest.raises(FilterError, match="is not a cursor"):
        ask(page, reader, parse(ALL, START), after=after)


def test_a_cursor_of_any_time_is_harmless(reader: Reader, tied: list[str]) -> None:
    """A cursor may be made up: it must not make a database fail."""
    for at in (dt.datetime.min, dt.datetime.max):
        for number in (-(2**63), 2**63 - 1):
            cursor = str(Cursor(NEWEST, at.replace(tzinfo=dt.timezone.utc), number))
            result = ask(page, reader, parse(SCANNED, START), after=cursor).tasks
            assert len(result) == (30 if at == dt.datetime.max else 0)
            for order in ORDERS:
                bound = Place(at.replace(tzinfo=dt.timezone.utc), number)
                for made_up in (Cursor(order, bound.created_at, number, bound), Cursor(order, None, number)):
                    assert len(ask(page, reader, parse(ALL, START), after=str(made_up), order=order).tasks) <= 60


def test_tasks_are_of_no_session(reader: Reader, tied: list[str]) -> None:
    """Members are used after the page: all their columns are loaded."""
    [task, *_] = ask(page, reader, parse(ALL, START)).tasks
    assert isinstance(task, AsyncTask)
    assert all(column.name in task.__dict__ for column in AsyncTask.__table__.columns)


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("search", ["error:*a?b", "worker:*a?b", "args.0:*a?b", "message:a", "message:*a?b*"])
def test_sqlite_looks_at_the_clock_between_a_few_comparisons(store: Store, search: str) -> None:
    """Each may take milliseconds: the text of an error has up to 4,000 characters, a value far more."""
    add(store, [row(f"t{number}", error_message="b", error_type="b", task_args=["b"]) for number in range(50)])
    hurried = Reader(store.settings.url, seconds=0)
    with pytest.raises(StoreError, match="interrupted"), hurried.session() as session:
        page(hurried, session, parse(search, START))
    hurried.close()


def test_a_long_text_is_found(reader: Reader, store: Store) -> None:
    """SQLite's GLOB compares it with every place of an error, which took it 19 ms."""
    long = "a" * 1990
    texts = {"yes": f"{'a' * 2000}b*?", "no": "a" * 4000, "none": None}
    add(store, [row(task_id, error_message=text) for task_id, text in texts.items()])
    for search in (f"message:{long}b", f'message:"{long}b*?"'):
        with reader.session() as session:
            found = page(reader, session, parse(search, START))
        assert [task.celery_task_id for task in found.tasks] == ["yes"]
