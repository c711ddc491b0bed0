"""A purge of some customers' tasks, of nothing else; and how many rows it looks at."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from celery_asynctask.operations import purge as purging
from celery_asynctask.operations import session as writing
from celery_asynctask.operations.purge import Count, Purged
from celery_asynctask.operations.session import Writer
from celery_asynctask.queries.scope import Scope
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTaskAttempt
from tests.integration.purge import DAY, NOW, count, left, nothing, record, without_attempts, without_task, work

pytestmark = pytest.mark.every_database


def test_of_some_customers_alone(store: Store, writer: Writer) -> None:
    """Nothing else is counted, deleted or tidied up; tasks without a customer do not belong to them."""
    for customer in (1, 2, None):
        record(store, "success", f"of-{customer}", customer=customer)
        record(store, "success", f"gone-{customer}")
    with store.engine.begin() as connection:
        connection.execute(text("DELETE FROM async_task WHERE celery_task_id LIKE 'gone-%'"))
    for customers, due in (([], 0), ([3], 0), ([1], 1), ([2, 3], 1)):
        purge = work(writer, {"customer:none": "1d", "*": "1d"}, scope=Scope.of(customers))
        assert purge.count(nothing) == [Count(0, 0), Count(due, due), Count(0, 0)]
        assert purge.run(nothing) == Purged(tasks=due, attempts=due), customers
    assert left(store) == {"of-None"}
    assert count(store, AsyncTaskAttempt) == 4, "those without a task are nobody's"
    assert work(writer, {"*": "1d"}).run(nothing) == Purged(tasks=1, attempts=1, orphans=3)


@pytest.mark.parametrize(("limit", "looked"), [(0, 0), (1, 3), (3, 3), (4, 6), (9, 9), (10, 10), (None, 10)])
@pytest.mark.parametrize("customers", [None, [1, 2]])
def test_not_more_than_so_many_are_counted(
    store: Store,
    writer: Writer,
    monkeypatch: pytest.MonkeyPatch,
    limit: int | None,
    looked: int,
    customers: list[int] | None,
) -> None:
    """It stops at the end of a window; nine tasks of one customer are three windows."""
    use_window(monkeypatch, 3)
    record(store, "success", *(f"task-{number}" for number in range(9)), customer=1)
    record(store, "success", "more", customer=2)
    purge = work(writer, {"*": "1d"}, scope=Scope.of(customers))
    assert purge.count(nothing, limit=limit)[0] == Count(looked, looked)
    assert purge.complete is (looked == 10)
    assert purge.run(nothing).tasks == 10
    assert purge.complete is True


def use_window(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    for module in (writing, purging):
        monkeypatch.setattr(module, "WINDOW", window)


@pytest.mark.parametrize(
    ("window", "batch", "parts", "scope"),
    [
        (1, 1, 100, Scope.of([2, 1, 7])),
        (2, 3, 1, Scope.of([2, 1, 7])),
        (5, 2, 2, Scope.of([2, 1, 7])),
        (1000, 7, 100, Scope.of([2, 1, 7])),
        (2, 3, 100, Scope.of(None, [2, 1, 7])),
        (3, 3, 1, Scope.of(None, [2, 1, *range(10, 200)])),
        (2, 3, 100, Scope.of([0, 1, 2], [1, 2])),
        (2, 3, 1, Scope.of([1, 2], range(200))),
    ],
)
def test_windows_of_some_customers(
    store: Store, writer: Writer, monkeypatch: pytest.MonkeyPatch, window: int, batch: int, parts: int, scope: Scope
) -> None:
    """In the order of creation, in which several can share a time; also tasks that were recorded far apart. Of creators
    it is the same."""
    use_window(monkeypatch, window)
    monkeypatch.setattr(purging, "MAX_PARTS", parts)
    due = set()
    for number in range(24):
        customer, young = number % 3, number % 5 == 0
        one = f"{customer}-{number:02}"
        at = NOW - DAY * (40 + number * 7 % 6)
        record(
            store,
            "success",
            one,
            over=NOW if young else NOW - 30 * DAY,
            customer=customer,
            created_by_key=str(customer),
            created_at=at,
        )
        if customer and not young:
            due.add(one)
    counted: list[int] = []
    before = left(store)
    purge = work(writer, {"*": "10d"}, scope=scope, batch=batch)
    assert purge.count(counted.append)[0] == Count(16, len(due))
    assert (sum(counted), max(counted) <= window) == (16, True)
    assert purge.run(nothing) == Purged(tasks=len(due), attempts=len(due))
    assert left(store) == before - due
    assert without_task(store) == set() == without_attempts(store)


def test_tasks_of_some_customers_are_found_by_their_index(
    store: Store, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of others are not looked at, however many there are: no window selects them."""
    asked: list[Any] = []
    real = writer.read

    def read(statement: Any) -> Any:
        asked.append(statement)
        return real(statement)

    monkeypatch.setattr(writer, "read", read)
    use_window(monkeypatch, 5)
    record(store, "success", *(f"theirs-{number}" for number in range(60)), customer=1)
    record(store, "success", "ours", customer=2)
    purge = work(writer, {"*": "1d"}, scope=Scope.of([2]))
    assert purge.count(nothing)[0] == Count(1, 1)
    assert len(asked) == 3, "the newest, the end of the window, and the window"
    assert purge.run(nothing).tasks == 1
    assert len(asked) == 6
    if store.engine.dialect.name != "sqlite":  # the others choose by the rows; see test_plans for the way
        return
    with store.engine.connect() as connection:
        for one in asked:
            compiled = one.compile(store.engine, compile_kwargs={"literal_binds": True})
            plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}").all())
            assert "ix_async_task_customer" in plan, plan
