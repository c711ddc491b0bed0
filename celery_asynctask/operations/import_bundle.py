"""Storing the tasks of a bundle: joined with what is there by the fold's own statements, so that twice is as once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import islice
from typing import Final

from sqlalchemy import BigInteger, Boolean, Connection, Enum, Insert, Integer, Table, select
from sqlalchemy.types import JSON as SqlJson

from celery_asynctask.errors import StoreError
from celery_asynctask.operations import bundle
from celery_asynctask.operations.bundle import Columns, Kind, Shape, Task
from celery_asynctask.operations.session import Writer
from celery_asynctask.queries.reader import schema_problem
from celery_asynctask.store import fold
from celery_asynctask.store.schema import create_tables
from celery_asynctask.store.tables import UTCDateTime, async_task, async_task_attempt

BATCH: Final = 500
"""Tasks that are stored in one transaction."""
_TABLES: Final = (async_task, async_task_attempt)


def shape() -> Shape:
    """What the lines of a bundle have, taken from the tables."""
    return Shape(*({c.name: (_kind(c.type), bool(c.nullable)) for c in table.columns} for table in _TABLES))


def _kind(of: object) -> Kind:
    kinds: list[tuple[type | tuple[type, ...], Kind]] = [
        (UTCDateTime, bundle.TIME),
        (SqlJson, bundle.JSON),
        (Enum, bundle.STATUS),
        (Boolean, bundle.BOOLEAN),
        ((Integer, BigInteger), bundle.INTEGER),
    ]
    return next((kind for classes, kind in kinds if isinstance(of, classes)), bundle.TEXT)


class Import:
    """Stores the tasks of bundles. Raises `StoreError`."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._keep_ids = writer.dialect == "sqlite"
        """Elsewhere a number that we give is not taken from the sequence, which gives it once more later."""

    def prepare(self) -> None:
        """Create the tables where they are missing."""
        with self._writer.guarded():
            create_tables(self._writer.engine)
            with self._writer.engine.connect() as connection:
                problem = schema_problem(connection)
        if problem:
            raise StoreError(f"The database {self._writer.settings.shown_url} {problem}")

    def store(self, tasks: Iterable[Task]) -> Iterator[int]:
        """Store them, a batch at a time; yields how many a batch had."""
        rest = iter(tasks)
        while some := list(islice(rest, BATCH)):
            self._writer.batch(partial(self._store, some))
            yield len(some)

    @cached_property
    def _statements(self) -> tuple[Insert, Insert]:
        dialect = self._writer.dialect
        return fold.task_upsert(dialect, async_task), fold.attempt_upsert(dialect, async_task_attempt)

    def _store(self, tasks: Sequence[Task], connection: Connection) -> None:
        rows = sorted((task.columns for task in tasks), key=lambda row: row["celery_task_id"])
        attempts = [one for task in tasks for one in task.attempts]
        attempts.sort(key=lambda row: (row["celery_task_id"], row["run_key"]))
        for table, statement, known in zip(_TABLES, self._statements, (rows, attempts), strict=True):
            free = self._free(connection, table, known) if self._keep_ids else set()
            numbered = [row for row in known if row["id"] in free]
            counted = [{name: row[name] for name in row if name != "id"} for row in known if row["id"] not in free]
            for some in (numbered, counted):
                if some:
                    connection.execute(statement, some)

    def _free(self, connection: Connection, table: Table, rows: Sequence[Columns]) -> set[int]:
        """The numbers of the rows that no stored row has, and that only one of them wants."""
        wanted = Counter(row["id"] for row in rows)
        taken = set(connection.scalars(select(table.c.id).where(table.c.id.in_(wanted))))
        return {number for number, times in wanted.items() if times == 1 and number not in taken}
