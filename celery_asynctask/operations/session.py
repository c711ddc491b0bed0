"""`Writer`: the database for operators who change what is stored while recorders go on: short transactions, which wait
briefly for locks and are tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, Executable, Row, SQLColumnExpression, select, text
from sqlalchemy.exc import SQLAlchemyError

from celery_asynctask.core.text import reason
from celery_asynctask.errors import StoreError
from celery_asynctask.queries.reader import QUERY_SECONDS
from celery_asynctask.settings import Settings
from celery_asynctask.store.change import advance
from celery_asynctask.store.connection import connect_bound, is_busy, writer_engine
from celery_asynctask.store.remedies import BEFORE_CONNECTED, remedy

T = TypeVar("T")

WINDOW: Final = 10_000
"""Rows that one statement reads."""
TRIES: Final = 60
"""How often a batch that meets locks is tried."""
_PAUSE: Final = 0.05
_MAX_PAUSE: Final = 1.0
_LOCK_MS: Final = 250
"""How long we wait for a lock on PostgreSQL: less than its ``deadlock_timeout``, so that the recorder never loses in a
deadlock."""


def bounded(settings: Settings) -> Settings:
    """The settings with the bounds of a `Reader` on connecting: for short writes that somebody waits for."""
    given = settings.engine_options
    arguments = {**connect_bound(settings.url, QUERY_SECONDS), **(given.get("connect_args") or {})}
    return replace(settings, engine_options={**given, "connect_args": arguments})


class Writer:
    """Changes one store. Raises `StoreError` for everything that the database refuses."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def engine(self) -> Engine:
        """The engine. Raises `StoreError` for a URL that cannot be used."""
        try:
            engine = writer_engine(self.settings)
        except StoreError as exc:
            shown = self.settings.shown_url
            raise StoreError(f"The database {shown} cannot be used: {exc.problem}", exc.remedy) from exc
        if engine.dialect.name in ("mysql", "mariadb"):
            # Their default isolation also locks the gaps between rows, into which the recorder inserts.
            return engine.execution_options(isolation_level="READ COMMITTED")
        return engine

    @property
    def dialect(self) -> str:
        """Name of the SQL dialect."""
        return self.engine.dialect.name

    def read(self, statement: Executable) -> Sequence[Row[Any]]:
        """All rows of a SELECT."""
        with self.connection() as connection:
            return connection.execute(statement).all()

    def batch(self, work: Callable[[Connection], T]) -> T:
        """Do ``work`` in a transaction of its own; try it again from the beginning if it meets a lock."""
        for number in range(TRIES):
            try:
                with self.engine.connect() as connection:
                    _begin(connection)
                    result = work(connection)
                    advance(connection)
                    connection.commit()
                    return result
            except SQLAlchemyError as exc:
                if not is_busy(exc) or number == TRIES - 1:
                    raise self._error(exc) from exc
            time.sleep(min(_PAUSE * 2**number, _MAX_PAUSE))
        raise AssertionError("the last try returns or raises")

    def windows(self, column: SQLColumnExpression[int]) -> Iterator[tuple[int, int]]:
        """Ranges of a numeric primary key, each as (excluded, included), of `WINDOW` rows each, up to the last row that
        exists when it begins."""
        low = 0
        last = self.read(select(column).order_by(column.desc()).limit(1))
        top = last[0][0] if last else 0
        while low < top:
            ends = self.read(select(column).where(column > low).order_by(column).offset(WINDOW - 1).limit(1))
            high = min(ends[0][0], top) if ends else top
            yield low, high
            low = high

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection, for transactions of the caller's own."""
        try:
            connection = self.engine.connect()
        except (SQLAlchemyError, *BEFORE_CONNECTED) as exc:
            raise self._error(exc) from exc
        with self.guarded(), connection:
            yield connection

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn the database's errors inside into `StoreError`."""
        try:
            yield
        except SQLAlchemyError as exc:
            raise self._error(exc) from exc

    def close(self) -> None:
        """Give the connections back."""
        if "engine" in self.__dict__:
            self.engine.dispose()

    def _error(self, exc: Exception) -> StoreError:
        problem = f"The database {self.settings.shown_url} cannot be written: {reason(exc)}."
        return StoreError(problem, remedy(exc, self.settings.url))


def _begin(connection: Connection) -> None:
    match connection.dialect.name:
        case "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = {_LOCK_MS}"))
        case "mysql" | "mariadb":
            connection.execute(text("SET SESSION innodb_lock_wait_timeout = 1"))  # seconds, its least
        case _:
            # Take the write lock before reading: taking it later fails if another process has written in between.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
