"""`Store`: the recorder's own engine, and the one transaction that writes a batch."""

from __future__ import annotations

import datetime as dt
import re
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
from celery_asynctask.core.plainer import fitted
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.core.time import time_of
from celery_asynctask.settings import Settings, engine_options
from celery_asynctask.store import fold, liveness
from celery_asynctask.store.charset import Narrow, narrow_charset
from celery_asynctask.store.executemany import Rows
from celery_asynctask.store.liveness import HeldTask, Open
from celery_asynctask.store.remedies import make_engine, usable
from celery_asynctask.store.schema import create_tables
from celery_asynctask.store.tables import async_task, async_task_attempt, async_task_revision, async_task_source

_POOL = {"pool_size": 1, "max_overflow": 1, "pool_pre_ping": True}
_SQLITE_BUSY_SECONDS = 30
_SQLITE_LOG_PAGES = 4000
"""Pages in SQLite's write-ahead log before they are copied into the file. Its default, 1000, is less than one batch."""
_VALUE_ERRORS = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError)
"""What Python, or a driver before it reaches the database, raises for a value that no column takes."""
_MYSQL_VALUE_ERRORS = frozenset({1118, 1153, 1300, 1301, 1713, 3140, 3141, 3157, 3819, 3854, 4025})
"""Errors of MySQL and MariaDB about sizes, characters, JSON and check constraints, which their drivers call
operational."""
_UNRECORDED_KEPT: Final = dt.timedelta(days=1)
"""As long as a late event of the same task may still come."""
_ADVANCE = sa.update(async_task_revision).values(revision=async_task_revision.c.revision + 1)


class Position(NamedTuple):
    """How far a process is stored, and what happened to its events: columns of `AsyncTaskSource`."""

    segment: int = 0
    position: int = 0
    last_number: int = 0
    stored: int = 0
    quarantined: int = 0
    dropped: Mapping[str, int] = MappingProxyType({})
    """Events that the process reports as dropped, by reason; and `accounting.UNSIGNED`."""

    @property
    def missing(self) -> int:
        """Events whose fate is not known; may be negative, see `accounting.left_over`."""
        return left_over(self.last_number, self.stored, self.quarantined)


class SourceUpdate(NamedTuple):
    """A process as its newest segment describes it, and how far it is stored with this batch."""

    description: Mapping[str, Any]
    position: Position


class Store:
    """The database for one recorder. It connects on first use; `close` gives the connection back."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lacking: re.Pattern[str] | None = None

    @cached_property
    def engine(self) -> Engine:
        """An engine with one connection. Raises `StoreError` for a URL, options or a driver that cannot be used."""
        with usable(self.settings.url):
            if self.settings.url.startswith("sqlite"):
                options = engine_options(self.settings.engine_options)
                options["connect_args"] = {"timeout": _SQLITE_BUSY_SECONDS, **options.get("connect_args", {})}
            else:
                options = engine_options(self.settings.engine_options, **_POOL)
        with importing():  # the dialect and the driver
            engine = make_engine(self.settings.url, options)
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
        """Create the tables if the settings allow it. Raises like `create_tables`."""
        if self.settings.create_tables:
            create_tables(self.engine)

    def narrow_charset(self) -> Narrow | None:
        """`charset.narrow_charset`. From then on, `write` replaces the characters that are known to be lacking."""
        with self.engine.connect() as connection:
            narrow = narrow_charset(connection)
        self._lacking = None if narrow is None else narrow.lacking
        return narrow

    def _fitted(self, event: bytes) -> bytes:
        assert self._lacking is not None
        return fitted(event, self._lacking, values=self.engine.dialect.name == "postgresql")  # others get ASCII JSON

    def position(self, source: str) -> Position:
        """How far a process is stored. Raises `sqlalchemy.exc.SQLAlchemyError`."""
        table = async_task_source.c
        columns = [table[name] for name in Position._fields]
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(*columns).where(table.source == source)).first()
        return Position(*row)._replace(dropped=row.dropped or {}) if row is not None else Position()

    def write(
        self,
        events: Sequence[bytes],
        sources: Iterable[SourceUpdate] = (),
        before_commit: Callable[[], None] | None = None,
    ) -> int:
        """Join the encoded events with the stored rows, and move the high-water marks of their processes, in one
        transaction. Returns the number of tasks that the events belong to.

        Rows are written in the order of their keys, so two recorders cannot deadlock. ``before_commit`` is called once
        everything is written, and may still prevent the commit by raising. Raises `sqlalchemy.exc.SQLAlchemyError`,
        whatever ``before_commit`` raises, and whatever Python raises for a value of the wrong type; then nothing is
        stored.
        """
        batch = rounds(events if self._lacking is None else map(self._fitted, events))
        seen = _now()
        updates = [_source_row(update, seen) for update in sorted(sources, key=_source_name)]
        with self.engine.begin() as connection:
            if self.engine.dialect.name == "postgresql":
                for first, later in zip_longest(batch[::2], batch[1::2], fillvalue=()):
                    documents = {fold.EVENTS: _document(first), fold.LATER: _document(later)}
                    connection.execute(self._insert_events, documents)
            else:
                self._write_rows(connection, batch)
            if updates:
                connection.execute(self._source_upsert, updates)
            advance(connection)
            if before_commit is not None:
                before_commit()
        return len(batch[0]) if batch else 0

    def _write_rows(self, connection: Connection, batch: list[list[bytes]]) -> None:
        by_id = fold_all(decode(line) for events in batch for line in events)
        partials = [by_id[task_id] for task_id in sorted(by_id)]
        tasks = self._task_rows.parameters(partial.task for partial in partials)
        attempts = self._attempt_rows.parameters(
            partial.attempts[key] for partial in partials for key in sorted(partial.attempts)
        )
        for rows, parameters in ((self._task_rows, tasks), (self._attempt_rows, attempts)):
            if parameters:
                connection.exec_driver_sql(rows.sql, parameters)

    def note_alive(self, sources: Collection[str]) -> Open:
        """`liveness.note_alive`, now. Raises `sqlalchemy.exc.SQLAlchemyError`, as the next three do."""
        with self.engine.begin() as connection:
            return liveness.note_alive(connection, sources, _now())

    def note_ended(self, journal: str, there: Collection[str], patience: dt.timedelta) -> Open:
        """`liveness.note_ended`, now."""
        with self.engine.begin() as connection:
            return liveness.note_ended(connection, journal, there, _now(), patience)

    def note_silent(self, sources: Collection[str]) -> Open:
        """`liveness.note_silent`, now."""
        with self.engine.begin() as connection:
            return liveness.note_silent(connection, sources, _now())

    def held(self, source: str) -> list[HeldTask]:
        """`liveness.held`."""
        with self.engine.begin() as connection:
            return liveness.held(connection, source)

    def forget_unrecorded(self) -> None:
        """Delete the rows of tasks that were not to be recorded, a day after a worker said so."""
        before = _now() - _UNRECORDED_KEPT
        unrecorded = async_task.c.status == AsyncTaskStatus.UNRECORDED
        with self.engine.begin() as connection:
            connection.execute(sa.delete(async_task).where(unrecorded, async_task.c.created_at < before))

    def others(self, journal: str) -> dict[str, dt.datetime]:
        """`liveness.others`."""
        with self.engine.begin() as connection:
            return liveness.others(connection, journal)

    def close(self) -> None:
        """Give the connections back. The store can be used again afterwards."""
        if "engine" in self.__dict__:
            self.engine.dispose()


# How an event encoded by `core.event` begins.
_ID: Final = b'{"id":"'
_ID_END: Final = b'","'
"""Unambiguous: inside a string, a backslash precedes every quote."""
_KIND: Final = b'"kind":"'
_START: Final = b'"kind":"started","at":'
_CARRIED: Final = b',"started":'


def rounds(lines: Iterable[bytes]) -> list[list[bytes]]:
    """Sort encoded events into as few rounds as possible, with at most one event of a task in each, because an upsert
    accepts a row only once. Every task of a round is also in the round before it. A start is left out if a later
    event, the end of the same attempt, carries all of it.

    Nothing is decoded: only the beginning of each event is read, as `core.event` writes it. Raises `ValueError` for
    anything that is not an event.
    """
    by_round: list[dict[bytes, bytes]] = []
    for line in lines:
        if not line.startswith(_ID):
            line = _in_order(line)  # noqa: PLW2901
        task_id = line[7 : line.index(_ID_END, 7)]
        start: bytes | None = None
        for lines_by_task in by_round:
            earlier = lines_by_task.setdefault(task_id, line)
            if earlier is line:
                break
            if start is None:
                start, rest = _start(line)
            if start and earlier.startswith(start) and line.startswith(earlier[len(start) : -1], rest):
                lines_by_task[task_id] = line
                break
        else:
            by_round.append({task_id: line})
    return [list(lines_by_task.values()) for lines_by_task in by_round]


def _start(end: bytes) -> tuple[bytes, int]:
    """The beginning of the start that an end carries, and where in the end its rest lies; empty for other events."""
    at = end.find(_CARRIED)
    if at < 0:
        return b"", 0
    return end[: end.rfind(_KIND, 0, at)] + _START, at + len(_CARRIED)


def _in_order(line: bytes) -> bytes:
    """The event with its id moved to the front. Raises `ValueError`."""
    event = decode(line)
    return encode({"id": event["id"], **event})


def advance(connection: Connection) -> None:
    """Increase the revision by one. This must be the last statement of a transaction: every writer waits for this one
    row until the holder's commit, and the holder waits for nothing else."""
    connection.execute(_ADVANCE)


def _write_ahead(connection: Any, _record: object) -> None:
    """Let readers read an SQLite file while we write to it. The file keeps this mode.

    While another process changes the mode of the same file, SQLite refuses at once, whatever the connection's timeout.
    """
    from sqlite3 import OperationalError as Refused  # not at the top: a Python may be built without it

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
    """A page that several batches change is then copied only once. The log takes 16 MB."""
    connection.execute(f"PRAGMA wal_autocheckpoint={_SQLITE_LOG_PAGES}")


def is_outage(exc: Exception) -> bool:
    """Whether an error of `Store.write` is about the database rather than about a value in the batch.

    It is for a refused or lost connection, a lock, and missing tables or rights: the events themselves are good.
    """
    if isinstance(exc, DBAPIError):
        if str(exc.orig).startswith("Error binding parameter"):
            return False  # sqlite3: ProgrammingError (InterfaceError before Python 3.11) for a value of no SQL type
        if exc.orig is not None and exc.orig.args and exc.orig.args[0] in _MYSQL_VALUE_ERRORS:
            return False
        # PostgreSQL's classes 54, a value is larger than a limit, and 25, the transaction is read-only or was aborted.
        state = str(getattr(exc.orig, "sqlstate", None) or getattr(exc.orig, "pgcode", None) or "")
        if state.startswith("54"):
            return False
        if isinstance(exc, InternalError):
            return state.startswith("25")
        return exc.connection_invalidated or isinstance(exc, (OperationalError, InterfaceError, ProgrammingError))
    return not isinstance(exc, (StatementError, *_VALUE_ERRORS))


def _document(events: Iterable[bytes]) -> str:
    return f"[{b','.join(events).decode('ascii')}]"


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


def _source_name(update: SourceUpdate) -> str:
    name: str = update.description["source"]
    return name


def _source_row(update: SourceUpdate, seen: dt.datetime) -> dict[str, Any]:
    description = update.description
    return {
        "source": description["source"],
        "host": description["host"],
        "pid": description["pid"],
        "role": description["role"],
        "started_at": time_of(description["at"]),
        "journal": description["journal"],
        "last_seen_at": seen,
        "ended_at": None,
        **update.position._asdict(),
        "dropped": dict(update.position.dropped) or None,
    }
