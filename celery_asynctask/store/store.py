"""`Store`: an engine of its own, and the one transaction that writes a batch."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import zip_longest
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError, ProgrammingError, StatementError

from celery_asynctask.core.accounting import left_over
from celery_asynctask.core.event import decode, encode
from celery_asynctask.core.fold import fold_all
from celery_asynctask.core.forking import importing
from celery_asynctask.core.time import time_of
from celery_asynctask.settings import Settings, engine_options
from celery_asynctask.store import fold, liveness
from celery_asynctask.store.executemany import Rows
from celery_asynctask.store.liveness import OpenAttempt
from celery_asynctask.store.schema import create_tables
from celery_asynctask.store.tables import async_task, async_task_attempt, async_task_revision, async_task_source

_POOL = {"pool_size": 1, "max_overflow": 1, "pool_pre_ping": True}
_SQLITE_BUSY_SECONDS = 30
_SQLITE_LOG_PAGES = 4000
"""Pages of SQLite's write-ahead log before they are copied into the file: its own 1000 are less than one batch."""
_ABOUT_VALUES = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
"""What Python, or a driver before it asks the database, raises for a value that no column takes."""
_MYSQL_ABOUT_VALUES = frozenset({3140, 3141, 3157, 3819, 4025})
"""Errors of MySQL and MariaDB about JSON and check constraints, which their drivers call operational."""
_ADVANCE = sa.update(async_task_revision).values(revision=async_task_revision.c.revision + 1)


class Position(NamedTuple):
    """How far a source is stored, and what became of its events; columns of `AsyncTaskSource`."""

    segment: int = 0
    position: int = 0
    last_number: int = 0
    stored: int = 0
    quarantined: int = 0
    dropped: Mapping[str, int] = MappingProxyType({})
    """What the source says it has dropped, by reason."""

    @property
    def missing(self) -> int:
        """Events of which nobody knows what became of them; may be less than 0, see `accounting.left_over`."""
        return left_over(self.last_number, self.stored, self.quarantined)


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
        if self.settings.url.startswith("sqlite"):
            options = engine_options(self.settings.engine_options)
            options["connect_args"] = {"timeout": _SQLITE_BUSY_SECONDS, **options.get("connect_args", {})}
        else:
            options = engine_options(self.settings.engine_options, **_POOL)
        with importing():  # the dialect and the driver
            engine = sa.create_engine(self.settings.url, **options)
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", _write_ahead)
            sa.event.listen(engine, "connect", _checkpoint_seldom)
        return engine

    @cached_property
    def _insert_events(self) -> Any:
        return fold.insert_events(async_task, async_task_attempt)

    @cached_property
    def _task_rows(self) -> Rows:
        dialect = self.engine.dialect
        return Rows(fold.task_upsert(dialect.name, async_task), async_task, dialect)

    @cached_property
    def _attempt_rows(self) -> Rows:
        dialect = self.engine.dialect
        return Rows(fold.attempt_upsert(dialect.name, async_task_attempt), async_task_attempt, dialect)

    @cached_property
    def _source_upsert(self) -> Any:
        return fold.source_upsert(self.engine.dialect.name, async_task_source)

    def prepare(self) -> None:
        """Create the tables where the settings allow it. Raises as `create_tables`."""
        if self.settings.create_tables:
            create_tables(self.engine)

    def position(self, source: str) -> Position:
        """How far the source is stored. Raises `sqlalchemy.exc.SQLAlchemyError`."""
        known = async_task_source.c
        columns = [known[name] for name in Position._fields]
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(*columns).where(known.source == source)).first()
        return Position(*row)._replace(dropped=row.dropped or {}) if row is not None else Position()

    def write(
        self,
        events: Sequence[bytes],
        sources: Iterable[SourceUpdate] = (),
        before_commit: Callable[[], None] | None = None,
    ) -> int:
        """Join what the encoded events say with what is stored, and move the sources' high-water marks, in one
        transaction; how many tasks they were about.

        Rows are written in the order of their keys, so two recorders cannot deadlock. ``before_commit`` is called
        when everything is written, and may still stop it. Raises `sqlalchemy.exc.SQLAlchemyError`, what
        ``before_commit`` raises, and for values of the wrong kind what Python raises; nothing is stored then.
        """
        found = rounds(events)
        seen = _now()
        updates = [_source_row(update, seen) for update in sorted(sources, key=lambda one: one.description["source"])]
        with self.engine.begin() as connection:
            if self.engine.dialect.name == "postgresql":
                for first, later in zip_longest(found[::2], found[1::2], fillvalue=()):
                    documents = {fold.EVENTS: _document(first), fold.LATER: _document(later)}
                    connection.execute(self._insert_events, documents)
            else:
                self._write_rows(connection, found)
            if updates:
                connection.execute(self._source_upsert, updates)
            advance(connection)
            if before_commit is not None:
                before_commit()
        return len(found[0]) if found else 0

    def _write_rows(self, connection: Connection, found: list[list[bytes]]) -> None:
        partials = fold_all(decode(line) for one in found for line in one)
        known = [partials[task_id] for task_id in sorted(partials)]
        tasks = self._task_rows.parameters(partial.task for partial in known)
        attempts = self._attempt_rows.parameters(
            partial.attempts[key] for partial in known for key in sorted(partial.attempts)
        )
        for rows, parameters in ((self._task_rows, tasks), (self._attempt_rows, attempts)):
            if parameters:
                connection.exec_driver_sql(rows.sql, parameters)

    def note_alive(self, sources: Collection[str]) -> list[OpenAttempt]:
        """`liveness.note_alive`, now. Raises `sqlalchemy.exc.SQLAlchemyError`, as those that follow."""
        with self.engine.begin() as connection:
            return liveness.note_alive(connection, sources, _now())

    def note_ended(self, journal: str, there: Collection[str], patience: dt.timedelta) -> list[OpenAttempt]:
        """`liveness.note_ended`, now."""
        with self.engine.begin() as connection:
            return liveness.note_ended(connection, journal, there, _now(), patience)

    def note_silent(self, sources: Collection[str]) -> list[OpenAttempt]:
        """`liveness.note_silent`, now."""
        with self.engine.begin() as connection:
            return liveness.note_silent(connection, sources, _now())

    def others(self, journal: str) -> dict[str, dt.datetime]:
        """`liveness.others`."""
        with self.engine.begin() as connection:
            return liveness.others(connection, journal)

    def close(self) -> None:
        """Give the connections back; the store may be used again."""
        if "engine" in self.__dict__:
            self.engine.dispose()


# How `core.event` begins an event.
_ID: Final = b'{"id":"'
_ID_END: Final = b'","'
"""Inside of a string a quote comes behind a backslash."""
_KIND: Final = b'"kind":"'
_START: Final = b'"kind":"started","at":'
_CARRIED: Final = b',"started":'


def rounds(lines: Iterable[bytes]) -> list[list[bytes]]:
    """Encoded events, sorted into as few rounds as there are of one task, without those that a later one says again: an
    upsert takes a row once, and the start of a run that has ended is all in its end. Every task of a round is in the
    one before it, too.

    Without decoding: it looks only at how `core.event` begins an event. Raises `ValueError` for what is no event.
    """
    found: list[dict[bytes, bytes]] = []
    for line in lines:
        if not line.startswith(_ID):
            line = _in_order(line)  # noqa: PLW2901
        task_id = line[7 : line.index(_ID_END, 7)]
        start: bytes | None = None
        for one in found:
            told = one.setdefault(task_id, line)
            if told is line:
                break
            if start is None:
                start, rest = _start(line)
            if start and told.startswith(start) and line.startswith(told[len(start) : -1], rest):
                one[task_id] = line
                break
        else:
            found.append({task_id: line})
    return [list(one.values()) for one in found]


def _start(end: bytes) -> tuple[bytes, int]:
    """How the start begins that an end carries, and where in the end the rest of it is; of another event nothing."""
    at = end.find(_CARRIED)
    if at < 0:
        return b"", 0
    return end[: end.rfind(_KIND, 0, at)] + _START, at + len(_CARRIED)


def _in_order(line: bytes) -> bytes:
    """An event whose id does not come first. Raises `ValueError`."""
    event = decode(line)
    return encode({"id": event["id"], **event})


def advance(connection: Connection) -> None:
    """Count one more. The last statement of a transaction: all writers wait for this row, from here to the commit
    before theirs, and none that has it waits for another."""
    connection.execute(_ADVANCE)


def _write_ahead(connection: Any, _record: object) -> None:
    """Let readers of an SQLite file read while we write; the file remembers it.

    SQLite refuses at once, whatever the connection's timeout, while another process changes the same file's mode.
    """
    from sqlite3 import OperationalError as Refused  # a Python may be built without it

    deadline = time.monotonic() + _SQLITE_BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except Refused as exc:
            if "locked" not in str(exc) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _checkpoint_seldom(connection: Any, _record: object) -> None:
    """A page that several batches change is copied once; the log takes 16 MB."""
    connection.execute(f"PRAGMA wal_autocheckpoint={_SQLITE_LOG_PAGES}")


def is_outage(exc: Exception) -> bool:
    """Whether an error of `Store.write` concerns the database rather than a value in the batch.

    Connections refused or lost, locks, missing tables and rights pass: nothing is wrong with the events.
    """
    if isinstance(exc, DBAPIError):
        if str(exc.orig).startswith("Error binding parameter"):
            return False  # sqlite3: ProgrammingError (InterfaceError before Python 3.11) for a value of no SQL type
        if exc.orig is not None and exc.orig.args and exc.orig.args[0] in _MYSQL_ABOUT_VALUES:
            return False
        if isinstance(exc, InternalError):  # PostgreSQL's 25: the transaction is read-only, or was broken off
            return str(getattr(exc.orig, "sqlstate", None) or "").startswith("25")
        return exc.connection_invalidated or isinstance(exc, (OperationalError, InterfaceError, ProgrammingError))
    return not isinstance(exc, (StatementError, *_ABOUT_VALUES))


def _document(events: Iterable[bytes]) -> str:
    return f"[{b','.join(events).decode('ascii')}]"


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


def _source_row(update: SourceUpdate, seen: dt.datetime) -> dict[str, Any]:
    about = update.description
    return {
        "source": about["source"],
        "host": about["host"],
        "pid": about["pid"],
        "role": about["role"],
        "started_at": time_of(about["at"]),
        "journal": about["journal"],
        "last_seen_at": seen,
        "ended_at": None,
        **update.position._asdict(),
        "dropped": dict(update.position.dropped) or None,
    }
