"""`Store`: an engine of its own, and the one transaction that writes a batch."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from sqlalchemy import Engine, create_engine, event, select
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError, StatementError

from celery_asynctask.lifecycle import Partial
from celery_asynctask.model import AsyncTask, AsyncTaskAttempt, AsyncTaskSource
from celery_asynctask.settings import Settings
from celery_asynctask.store import upsert
from celery_asynctask.store.schema import create_tables

_TASK_TIMES = ("created_at", "started_at", "completed_at")
_ATTEMPT_TIMES = ("published_at", "received_at", "eta", "started_at", "ended_at")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
_SQLITE_BUSY_SECONDS = 30
_ABOUT_VALUES = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
"""What Python, or a driver before it asks the database, raises for a value that no column takes."""
_MYSQL_ABOUT_VALUES = frozenset({3140, 3141, 3157, 3819, 4025})
"""Errors of MySQL and MariaDB about JSON and check constraints, which their drivers call operational."""


class Position(NamedTuple):
    """How far a source is stored, and what became of its events; the columns of `AsyncTaskSource`."""

    segment: int = 0
    position: int = 0
    last_number: int = 0
    stored: int = 0
    quarantined: int = 0


class SourceUpdate(NamedTuple):
    """A source as its newest segment describes it, and how far it is stored with this batch."""

    description: Mapping[str, Any]
    position: Position


class Store:
    """The database, for one recorder. Connects when first used; `close` gives the connection back."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def engine(self) -> Engine:
        """An engine with one connection. Raises `sqlalchemy.exc.ArgumentError`, `ImportError` (driver)."""
        options = dict(self.settings.engine_options)
        if self.settings.url.startswith("sqlite"):
            options["connect_args"] = {"timeout": _SQLITE_BUSY_SECONDS, **options.get("connect_args", {})}
        elif "poolclass" not in options:
            options.setdefault("pool_size", 1)
            options.setdefault("max_overflow", 1)
            options.setdefault("pool_pre_ping", True)
        engine = create_engine(self.settings.url, **options)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _write_ahead)
        return engine

    @cached_property
    def _statements(self) -> tuple[Any, Any, Any]:
        dialect = self.engine.dialect.name
        return (
            upsert.task_upsert(dialect, _table(AsyncTask)),
            upsert.attempt_upsert(dialect, _table(AsyncTaskAttempt)),
            upsert.source_upsert(dialect, _table(AsyncTaskSource)),
        )

    def prepare(self) -> None:
        """Create the tables where the settings allow it. Raises `sqlalchemy.exc.SQLAlchemyError`."""
        if self.settings.create_tables:
            create_tables(self.engine)

    def position(self, source: str) -> Position:
        """How far the source is stored. Raises `sqlalchemy.exc.SQLAlchemyError`."""
        table = _table(AsyncTaskSource)
        columns = [table.c[name] for name in Position._fields]
        with self.engine.connect() as connection:
            row = connection.execute(select(*columns).where(table.c.source == source)).first()
        return Position(*row) if row is not None else Position()

    def write(
        self,
        partials: Iterable[Partial],
        sources: Iterable[SourceUpdate] = (),
        before_commit: Callable[[], None] | None = None,
    ) -> None:
        """Join partial rows with what is stored, and move the sources' high-water marks, in one transaction.

        Rows are written in the order of their keys, so two recorders cannot deadlock. ``before_commit`` is called
        when everything is written, and may still stop it. Raises `sqlalchemy.exc.SQLAlchemyError`, what
        ``before_commit`` raises, and for values of the wrong kind what Python raises; nothing is stored then.
        """
        known = sorted(partials, key=lambda partial: partial.task["celery_task_id"])
        tasks = [_with_times(partial.task, _TASK_TIMES) for partial in known]
        attempts = [
            _with_times(partial.attempts[key], _ATTEMPT_TIMES) for partial in known for key in sorted(partial.attempts)
        ]
        seen = dt.datetime.now(dt.timezone.utc)
        updates = [_source_row(update, seen) for update in sorted(sources, key=lambda one: one.description["source"])]
        with self.engine.begin() as connection:
            for statement, rows in zip(self._statements, (tasks, attempts, updates), strict=True):
                if rows:
                    connection.execute(statement, rows)
            if before_commit is not None:
                before_commit()

    def close(self) -> None:
        """Give the connections back; the store may be used again."""
        if "engine" in self.__dict__:
            self.engine.dispose()


def _write_ahead(connection: Any, _record: object) -> None:
    """Let readers of an SQLite file read while we write; the file remembers it."""
    connection.execute("PRAGMA journal_mode=WAL")


def is_outage(exc: Exception) -> bool:
    """Whether an error of `Store.write` concerns the database rather than a value in the batch.

    Connections refused or lost, locks, missing tables and rights pass: nothing is wrong with the events.
    """
    if isinstance(exc, DBAPIError):
        if str(exc.orig).startswith("Error binding parameter"):
            return False  # sqlite3: ProgrammingError (InterfaceError before Python 3.11) for a value of no SQL type
        if exc.orig is not None and exc.orig.args and exc.orig.args[0] in _MYSQL_ABOUT_VALUES:
            return False
        return exc.connection_invalidated or isinstance(exc, (OperationalError, InterfaceError, ProgrammingError))
    return not isinstance(exc, (StatementError, *_ABOUT_VALUES))


def _table(model: Any) -> Any:
    return model.__table__


def _time(microseconds: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=microseconds)


def _with_times(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    converted = dict(row)
    for column in columns:
        if converted[column] is not None:
            converted[column] = _time(converted[column])
    return converted


def _source_row(update: SourceUpdate, seen: dt.datetime) -> dict[str, Any]:
    about = update.description
    return {
        "source": about["source"],
        "host": about["host"],
        "pid": about["pid"],
        "role": about["role"],
        "started_at": _time(about["at"]),
        "last_seen_at": seen,
        **update.position._asdict(),
        "dropped": about["dropped"] or None,
    }
