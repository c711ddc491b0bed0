"""On PostgreSQL, the named queries use an index, and none reads the whole table."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event, select

from celery_asynctask.queries import Reader, page, parse
from celery_asynctask.queries.scope import Scope
from celery_asynctask.queries.task import attempts, find
from celery_asynctask.queries.workflow.members import attempts_of, workflow
from celery_asynctask.store.models import AsyncTask
from tests import services
from tests.asking import ask
from tests.benchmarks import rows
from tests.benchmarks.shop import WORKFLOW

pytestmark = pytest.mark.slow

ROWS = 120_000
"""So many rows that PostgreSQL would not prefer to read them all."""
NOW = dt.datetime(2026, 6, 15, 12, tzinfo=dt.timezone.utc)


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with services.fresh_database(services.postgresql_url()) as url:
        rows.fill(url, ROWS, last=NOW.timestamp())
        made = Reader(url)
        yield made
        made.close()


def plans_of(reader: Reader, work: Callable[[], object]) -> list[str]:
    """PostgreSQL's plan for each statement that ``work`` sends."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.lstrip().startswith(("SELECT", "WITH")):
            asked.append((statement, parameters))

    event.listen(reader.engine, "before_cursor_execute", note)
    try:
        work()
    finally:
        event.remove(reader.engine, "before_cursor_execute", note)
    assert asked
    with reader.engine.connect() as connection:
        return [
            "\n".join(connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())
            for statement, parameters in asked
        ]


@pytest.mark.parametrize(
    ("search", "index"),
    [
        ("", "created_at"),
        ("since:2d", "created_at"),
        ("status:LOST", "status"),
        ("name:report.build", "name"),
        ("customer:17", "customer"),
        ("created_by:3", "created_by"),
        ("error:TimeoutError", "error_type"),
        ("trace:00000000000000000000000000000001", "trace_id"),
        ("root:x", "root_task_id"),
        ("parent:x", "parent_task_id"),
        ("id:00000000", "identity"),
    ],
)
def test_a_page_goes_by_an_index(reader: Reader, search: str, index: str) -> None:
    [plan] = plans_of(reader, lambda: ask(page, reader, parse(search, NOW), limit=30))
    assert f"async_task_{index}" in plan, plan
    assert "Seq Scan" not in plan, plan


@pytest.mark.parametrize("owner", ["customer", "created_by"])
@pytest.mark.parametrize("count", [1, 90, 150])
def test_tasks_of_some_customers_are_found_by_their_index(reader: Reader, count: int, owner: str) -> None:
    """PostgreSQL proves from no list of over a hundred values that the partial index has them."""
    ids = [*range(100_000, 100_000 + count - 1), 17]
    scoped = reader.scoped(Scope.of(ids) if owner == "customer" else Scope.of(None, ids))

    def look() -> None:
        with scoped.session() as session:
            session.execute(scoped.seen(select(AsyncTask.id))).all()

    [plan] = plans_of(scoped, look)
    assert f"ix_async_task_{owner}_key" in plan, plan


@pytest.mark.parametrize("search", ["kwargs.account_id:17", "message:timeout", "retries:>2", "queue:slow"])
def test_a_search_of_rows_one_by_one_goes_from_the_newest(reader: Reader, search: str) -> None:
    bound, *_ = plans_of(reader, lambda: ask(page, reader, parse(search, NOW), limit=30))
    assert "ix_async_task_created_at" in bound, bound
    assert "Seq Scan" not in bound, bound


def test_a_task_and_its_workflow(reader: Reader) -> None:
    def look() -> None:
        with reader.session() as session:
            task = find(reader, session, WORKFLOW[:12])
            attempts(reader, session, task)
            page_found = workflow(reader, session, task)
            attempts_of(session, page_found.members)

    for plan in plans_of(reader, look):
        assert "Seq Scan on async_task" not in plan, plan
