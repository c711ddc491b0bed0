"""`Store`: the recorder's own engine, and the one transaction that writes a batch."""

from __future__ import annotations

import datetime as dt
import math
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import zip_longest
from operator import itemgetter
from random import SystemRandom
from types import MappingProxyType
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from celery_asynctask.core.event import Event, Kind, decode, encode
from celery_asynctask.core.fold import fold_all
from celery_asynctask.core.keys import new_token
from celery_asynctask.core.plainer import fitted
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.core.time import now
from celery_asynctask.errors import StoreError
from celery_asynctask.settings import Settings
from celery_asynctask.store import fold, ledger, liveness
from celery_asynctask.store.change import advance, tell_earlier_readers
from celery_asynctask.store.charset import Narrow, narrow_charset
from celery_asynctask.store.connection import is_crowded, recorder_engine
from celery_asynctask.store.executemany import Rows
from celery_asynctask.store.ledger import Ledger, Memory, Moved, Position, SourceUpdate, source_row
from celery_asynctask.store.liveness import HeldTask, Open
from celery_asynctask.store.rounds import rounds
from celery_asynctask.store.schema import check_schema, create_tables
from celery_asynctask.store.tables import (
    SCHEMA_VERSION,
    async_task,
    async_task_attempt,
    async_task_identity,
    async_task_source,
)

_UNRECORDED_KEPT: Final = dt.timedelta(days=1)
"""As long as a late event of the same task may still come."""
_NOWHERE: Final = Position()
HOLD_SECONDS: Final = 10.0
"""As long as a recorder keeps a connection: there may be more recorders than the server has connections."""
CROWDED_SECONDS: Final = 600.0
"""As long as a recorder that was refused a connection keeps none while it has nothing to store."""


class Store:
    """The database for one recorder. It connects on first use; `close` gives the connection back."""

    def __init__(self, settings: Settings, memory: Memory | None = None) -> None:
        """``memory``: that of the journal whose events are written here; None: any database will do."""
        self.settings = settings
        self._memory = memory
        self._known: str | None = None
        self._lacking: re.Pattern[str] | None = None
        self._has_changed = False
        """Whether something was written since `note_change`."""
        self._connected_at = -math.inf
        self._crowded_at = -math.inf

    @cached_property
    def engine(self) -> Engine:
        """An engine with one connection. Raises `StoreError` for a URL, options or a driver that cannot be used."""
        engine = recorder_engine(self.settings)
        sa.event.listen(engine, "connect", self._note_connected)
        return engine

    def _note_connected(self, *_: object) -> None:
        self._connected_at = time.monotonic()

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
    def _source_insert(self) -> Any:
        return fold.insert_new(self.engine.dialect.name, async_task_source)

    @cached_property
    def _source_upsert(self) -> Any:
        return fold.source_upsert(self.engine.dialect.name, async_task_source)

    def prepare(self) -> None:
        """Create the tables if the settings allow it. Raises like `create_tables`."""
        if self.settings.create_tables:
            with self._noticing():
                create_tables(self.engine, self._identity())

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
        """How far a process is stored. Raises like `write`."""
        return self.stored([source])[source]

    def stored(self, sources: Collection[str]) -> dict[str, Position]:
        """How far each of these processes is stored. Raises like `write`."""
        with self._transaction(sources) as (_, found):
            return found.positions

    def settled(self, sources: Collection[str]) -> dict[str, bool]:
        """`liveness.settled`. Raises like `write`."""
        with self._transaction() as (connection, _):
            return liveness.settled(connection, sources)

    def write(
        self,
        events: Sequence[bytes],
        sources: Iterable[SourceUpdate] = (),
        before_commit: Callable[[], None] | None = None,
        expected: Mapping[str, Position] | None = None,
    ) -> int:
        """Join the encoded events with the stored rows, and move the high-water marks of their processes, in one
        transaction. Returns the number of tasks that the events belong to.

        Rows are written in the order of their keys, so two recorders cannot deadlock. ``before_commit`` is called once
        everything is written, and may still prevent the commit by raising. Raises `Moved` if the ledger does not have
        processes where they are ``expected``, `StoreError` for another database than the journal knows and for tables
        of another version, `sqlalchemy.exc.SQLAlchemyError`, whatever ``before_commit`` raises, and whatever Python
        raises for a value of the wrong type; then nothing is stored.
        """
        batch = rounds(events if self._lacking is None else map(self._fitted, events))
        seen = _now()
        updates = sorted((source_row(update, seen) for update in sources), key=itemgetter("source"))
        wanted = expected or {}
        with self._transaction(wanted) as (connection, found):
            if not all(position.is_at(wanted[source]) for source, position in found.positions.items()):
                raise Moved(found.positions)
            self._write(connection, batch, updates, found.positions)
            if before_commit is not None:
                before_commit()
            advance(connection)
        self._has_changed = True
        return len(batch[0]) if batch else 0

    def _write(
        self,
        connection: Connection,
        batch: list[list[bytes]],
        updates: list[dict[str, Any]],
        found: Mapping[str, Position] = MappingProxyType({}),
    ) -> None:
        """Raises `Moved` if one of the processes that were ``found`` is somewhere else meanwhile: an operator's command
        has changed it."""
        if self.engine.dialect.name == "postgresql":
            for first, later in zip_longest(batch[::2], batch[1::2], fillvalue=()):
                documents = {fold.EVENTS: _document(first), fold.LATER: _document(later)}
                connection.execute(self._insert_events, documents)
        else:
            self._write_rows(connection, batch)
        known = [row for row in updates if row["source"] in found]
        if fresh := [row for row in known if found[row["source"]] == _NOWHERE]:
            connection.execute(self._source_insert, [{**row, **_NOWHERE._asdict(), "dropped": None} for row in fresh])
        if known and not ledger.move(connection, known, found):
            raise Moved(ledger.begin(connection, None, list(found)).positions)
        if others := [row for row in updates if row["source"] not in found]:
            connection.execute(self._source_upsert, others)

    def probe(self, *, commits: bool = True) -> None:
        """Write a task, an attempt and a process that nobody has, and delete them: if that succeeds, a batch that was
        refused was refused for what is in it. Raises like `write`."""
        name = f"probe-{secrets.token_hex(16)}"
        at = now()
        start: Event = {"id": name, "kind": Kind.STARTED.value, "at": at, "name": "probe", "run": new_token(at)}
        source = {"source": name, "host": "", "pid": 0, "role": "", "at": at, "journal": ""}
        written = (async_task.c.celery_task_id, async_task_attempt.c.celery_task_id, async_task_source.c.source)
        with self._transaction() as (connection, _):
            row = source_row(SourceUpdate(source, Position()), _now())
            self._write(connection, rounds([encode(start)]), [row])
            for column in written:
                connection.execute(sa.delete(column.table).where(column == name))
            advance(connection)
            if not commits:
                connection.rollback()

    @contextmanager
    def _transaction(
        self, sources: Collection[str] = (), *, of_any_database: bool = False
    ) -> Iterator[tuple[Connection, Ledger]]:
        """A transaction in the database that the journal knows, with what the ledger says of ``sources``."""
        with self._noticing():
            known = self._identity()
            connection, found = self._begin(known, sources)
            with connection:
                identity = found.identity if known is None or found.accepted else None
                if found.identity is None:  # the tables were made without us
                    identity = known or secrets.token_hex(16)
                    connection.execute(sa.insert(async_task_identity), {"identity": identity})
                elif identity is None and not of_any_database:
                    raise self._stranger()
                yield connection, found
                connection.commit()
        if known is None:
            self._know(identity)
        if time.monotonic() - self._connected_at >= HOLD_SECONDS:
            self._give_back()

    def _begin(self, known: str | None, sources: Collection[str]) -> tuple[Connection, Ledger]:
        """A connection in a transaction. The server may have closed the one that the pool has: then another."""
        for is_last in (False, True):
            connection = self.engine.connect()
            try:
                found = ledger.begin(connection, known, sources)
                if found.version != SCHEMA_VERSION:
                    check_schema(connection, self.settings.shown_url)
            except BaseException as exc:
                connection.close()
                if isinstance(exc, DBAPIError) and exc.connection_invalidated and not is_last:
                    continue
                if isinstance(exc, (OperationalError, ProgrammingError)) and not exc.connection_invalidated:
                    with self.engine.connect() as another:
                        check_schema(another, self.settings.shown_url)
                raise
            return connection, found
        raise AssertionError("the last try returns or raises")

    def _identity(self) -> str | None:
        if self._known is None and self._memory is not None:
            self._known = self._memory.known_identity()
        return self._known

    def _know(self, identity: str | None) -> None:
        if self._memory is not None and identity is not None:
            self._known = identity
            with suppress(OSError):  # a full disk: it is noted by whoever drains the journal next
                self._memory.know_identity(identity)

    def _stranger(self) -> StoreError:
        return StoreError(
            f"The database {self.settings.shown_url} is another than the one that this journal was stored in before: "
            "it has another identity. Nothing was written there.",
            "Correct asynctask_url. If this database has taken the place of the other, run "
            "`celery -A APP asynctask verify --accept-database`.",
        )

    def accept_identity(self) -> str | None:
        """Let the database pass for the one that the journal knows. Returns the identity that it takes for that; None:
        it had that already, or the journal knows none. Raises like `write`."""
        with self._transaction(of_any_database=True) as (connection, found):
            if self._known is None or found.accepted or found.identity is None:
                return None
            connection.execute(sa.insert(async_task_identity), {"identity": self._known})
            return self._known

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

    def note_alive(self, sources: Mapping[str, int | None]) -> Open:
        """`liveness.note_alive`, now. Raises like `write`, as the next ones do."""
        with self._transaction() as (connection, _):
            return liveness.note_alive(connection, sources, _now())

    def note_ended(self, journal: str, there: Collection[str], patience: dt.timedelta) -> Open:
        """`liveness.note_ended`, now."""
        with self._transaction() as (connection, _):
            return liveness.note_ended(connection, journal, there, _now(), patience)

    def settle_earlier(self, journal: str, there: Collection[str]) -> None:
        """`liveness.settle_earlier`, now."""
        with self._transaction() as (connection, _):
            liveness.settle_earlier(connection, journal, there, _now())

    def note_silent(self, sources: Collection[str]) -> Open:
        """`liveness.note_silent`, now."""
        with self._transaction() as (connection, _):
            return liveness.note_silent(connection, sources, _now())

    def note_change(self) -> None:
        """Let readers of earlier versions know that something was written since the last call, if it was."""
        if self._has_changed:
            with self._transaction() as (connection, _):
                tell_earlier_readers(connection)
            self._has_changed = False

    def held(self, source: str) -> list[HeldTask]:
        """`liveness.held`."""
        with self._transaction() as (connection, _):
            return liveness.held(connection, source)

    def forget_unrecorded(self) -> None:
        """Delete the rows of tasks that were not to be recorded, a day after a worker said so."""
        before = _now() - _UNRECORDED_KEPT
        unrecorded = async_task.c.status == AsyncTaskStatus.UNRECORDED
        with self._transaction() as (connection, _):
            connection.execute(sa.delete(async_task).where(unrecorded, async_task.c.created_at < before))

    def others(self, journal: str) -> dict[str, dt.datetime]:
        """`liveness.others`."""
        with self._transaction() as (connection, _):
            return liveness.others(connection, journal)

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        """Note when the server has no connection left for us."""
        try:
            yield
        except DBAPIError as exc:
            if is_crowded(exc):
                self._crowded_at = time.monotonic()
            raise

    @property
    def _is_crowded(self) -> bool:
        return time.monotonic() - self._crowded_at < CROWDED_SECONDS

    def retry_seconds(self) -> float | None:
        """Seconds until a try is due where the server has lately had no connection left: soon, as others give theirs
        back, and never for all at once. None: nothing is known of when a try may help."""
        return SystemRandom().uniform(1, 3) if self._is_crowded else None

    def let_go(self) -> None:
        """Give the connection back, if others need it: for a recorder that has nothing more to store."""
        if self._is_crowded:
            self._give_back()

    def _give_back(self) -> None:
        if self.engine.dialect.name != "sqlite":  # it has enough
            self.engine.dispose()

    def close(self) -> None:
        """Give the connections back. The store can be used again afterwards."""
        self._known = None
        if "engine" in self.__dict__:
            self.engine.dispose()


def _document(events: Iterable[bytes]) -> str:
    return f"[{b','.join(events).decode('ascii')}]"


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)
