"""Fills a database with the tasks of `shop`: ``python -m tests.benchmarks.rows URL COUNT``.

A million tasks with their attempts and processes take a minute or two on PostgreSQL. The rows bypass the recorder, and
are what it would have stored. In a database that has rows, others are added with another seed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

from sqlalchemy import Connection, Engine, Index, Table, create_engine, insert, select, text

from celery_asynctask.core.fold import Partial
from celery_asynctask.store.executemany import Rows
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt, AsyncTaskSource
from celery_asynctask.store.schema import create_tables
from tests.benchmarks.shop import SECOND, Shop

BATCH: Final = 5000
"""Tasks of one transaction."""
MANY: Final = 50_000
"""From this many tasks on, the indexes of an empty table are created once it is full."""


def fill(url: str, count: int, *, seed: int = 0, last: float | None = None) -> Shop:
    """Add ``count`` tasks up to the moment ``last``, in seconds since the epoch (None: now); returns the shop that made
    them."""
    shop = Shop(count, int((time.time() if last is None else last) * SECOND), seed)
    engine = create_engine(url)
    try:
        create_tables(engine)
        tasks, attempts, sources = (_Table(engine, model) for model in (AsyncTask, AsyncTaskAttempt, AsyncTaskSource))
        indexes = _without_indexes(engine, (tasks.table, attempts.table)) if count >= MANY else []
        for batch in _batches(shop.partials()):
            with engine.begin() as connection:
                tasks.add(connection, (one.task for one in batch))
                attempts.add(connection, (attempt for one in batch for attempt in one.attempts.values()))
        with engine.begin() as connection:
            sources.add(connection, shop.sources())
            for index in indexes:
                index.create(connection)
        _analyze(engine)
    finally:
        engine.dispose()
    return shop


class _Table:
    """A table that takes rows as fast as its database can."""

    def __init__(self, engine: Engine, model: Any) -> None:
        self.table: Table = model.__table__
        self.rows = Rows(insert(self.table), self.table, engine.dialect)

    def add(self, connection: Connection, rows: Iterable[dict[str, Any]]) -> None:
        parameters = self.rows.parameters(rows)
        if connection.dialect.driver != "psycopg":
            if parameters:
                connection.exec_driver_sql(self.rows.sql, parameters)
            return
        columns = ", ".join(column.name for column in self.table.columns if column.name != "id")
        connection.execute(text("SET LOCAL TIME ZONE 'UTC'"))
        driver: Any = connection.connection.driver_connection
        with driver.cursor() as cursor, cursor.copy(f"COPY {self.table.name} ({columns}) FROM STDIN") as copy:
            for one in parameters:
                copy.write_row(one)


def _batches(partials: Iterator[Partial]) -> Iterator[list[Partial]]:
    while batch := list(islice(partials, BATCH)):
        yield batch


def _without_indexes(engine: Engine, tables: Iterable[Table]) -> list[Index]:
    """Drop the indexes of empty tables, except those that keep keys unique; returns the dropped ones."""
    dropped = []
    with engine.begin() as connection:
        for table in tables:
            if connection.execute(select(table.c.id).limit(1)).first() is None:
                for index in sorted(table.indexes, key=lambda one: str(one.name)):
                    index.drop(connection)
                    dropped.append(index)
    return dropped


def _analyze(engine: Engine) -> None:
    """Update the planner's statistics."""
    names = [model.__table__.name for model in (AsyncTask, AsyncTaskAttempt, AsyncTaskSource)]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if engine.dialect.name == "sqlite":
            connection.execute(text("ANALYZE"))
            return
        command = "VACUUM ANALYZE" if engine.dialect.name == "postgresql" else "ANALYZE TABLE"
        for name in names:
            connection.execute(text(f"{command} {name}"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.rows", description=__doc__)
    parser.add_argument("url", help="SQLAlchemy URL; tables are made where there are none")
    parser.add_argument("count", type=int, help="tasks")
    parser.add_argument("--seed", type=int, default=0, help="other tasks (default: 0)")
    parser.add_argument("--last", type=float, help="moment up to which they go, seconds since the epoch (default: now)")
    given = parser.parse_args()
    began = time.monotonic()
    fill(given.url, given.count, seed=given.seed, last=given.last)
    print(f"{given.count:,} tasks in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
