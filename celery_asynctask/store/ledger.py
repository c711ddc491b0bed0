"""What a recorder must know before it writes, read in the same transaction: that the database is the one that its
journal is stored in, that its tables have the version of this release, and how far each process is stored.

All of it may have changed since the last transaction: a failover may have led to an older state, a name to another
server, and another recorder may have been at work.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from itertools import islice
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

import sqlalchemy as sa
from sqlalchemy import Connection, Row, Select

from celery_asynctask.core.accounting import left_over
from celery_asynctask.core.time import time_of
from celery_asynctask.store.connection import LOCK_SECONDS, met_process
from celery_asynctask.store.tables import async_task_identity, async_task_source, async_task_version

_CHUNK: Final = 500
"""Processes that one statement names."""


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

    def is_at(self, other: Position) -> bool:
        """Whether the same events are accounted for. What the process dropped need not be the same: that is said by
        what is read next."""
        return self[:5] == other[:5]


class SourceUpdate(NamedTuple):
    """A process as its newest segment describes it, and how far it is stored with this batch."""

    description: Mapping[str, Any]
    position: Position
    numbered: int | None = None
    """Number of the last event that it has accepted; None: not known."""
    settled: bool = False
    """Whether it is gone, and all of its events are accounted for with this batch."""


class Moved(Exception):
    """Processes are not stored as far as the writer believed, so nothing was written: begin again from ``positions``,
    those of all processes that were expected somewhere."""

    def __init__(self, positions: Mapping[str, Position]) -> None:
        super().__init__("the ledger has other positions than were expected: read the journal again from those")
        self.positions = positions


class Memory(Protocol):
    """Remembers which database a journal is stored in: `journal.Directory`."""

    def known_identity(self) -> str | None:
        """The identity of the database, as `know_identity` has noted it; None: it has met none."""
        ...

    def know_identity(self, identity: str) -> None:
        """Note the identity of the database, where none is noted. Raises `OSError`."""
        ...


class Ledger(NamedTuple):
    """What is found when a transaction begins."""

    version: str | None
    """Version of the tables; None: a creation of them is not finished."""
    identity: str | None
    """An identity of the database; None: it has none yet."""
    accepted: bool
    """Whether the identity that the journal knows is one of the database."""
    positions: dict[str, Position]
    """Of each process that was asked for."""


def begin(connection: Connection, known: str | None, sources: Collection[str] = ()) -> Ledger:
    """Begin a transaction: bound its waits, and read the ledger. ``known`` is the identity that the journal knows."""
    rest = iter(sources)
    names = list(islice(rest, _CHUNK))
    first = _read(connection, _opening(connection.dialect.name), known, names)
    rows = list(first)
    if connection.dialect.name == "postgresql":
        met_process(connection, first[0].pid)
    while names := list(islice(rest, _CHUNK)):
        rows += _read(connection, _opening(""), known, names)
    positions = dict.fromkeys(sources, Position())
    positions.update((row.source, _position(row)) for row in rows if row.source is not None)
    return Ledger(first[0].version, first[0].identity, bool(first[0].accepted), positions)


def _read(connection: Connection, statement: Select[Any], known: str | None, names: list[str]) -> Sequence[Row[Any]]:
    return connection.execute(statement, {"known": known, "names": names}).all()


def _position(row: Row[Any]) -> Position:
    values = (getattr(row, name) for name in Position._fields)
    return Position(*values)._replace(dropped=row.dropped or {})


@cache
def _opening(dialect: str) -> Select[Any]:
    """One row, or one for each process that is known."""
    identity = async_task_identity.c.identity
    one = sa.select(
        sa.select(sa.func.min(async_task_version.c.version_num)).scalar_subquery().label("version"),
        sa.select(sa.func.min(identity)).scalar_subquery().label("identity"),
        sa.select(sa.func.count()).where(identity == sa.bindparam("known")).scalar_subquery().label("accepted"),
        *((*_bounds(), sa.func.pg_backend_pid().label("pid")) if dialect == "postgresql" else ()),
    ).subquery()
    source = async_task_source.c
    named = source.source.in_(sa.bindparam("names", expanding=True))
    columns = (source.source, *(source[name] for name in Position._fields))
    return sa.select(*one.c, *columns).select_from(one.outerjoin(async_task_source, named))


def _bounds() -> list[sa.Label[Any]]:
    """Bounds for this transaction alone, as behind PgBouncer others use the session after us. The user's own stay."""
    return [
        sa.func.set_config(
            name,
            sa.func.coalesce(sa.func.nullif(sa.func.current_setting(name), "0"), f"{LOCK_SECONDS}s"),
            True,
        ).label(name)
        for name in ("lock_timeout", "idle_in_transaction_session_timeout")
    ]


def source_row(update: SourceUpdate, seen: dt.datetime) -> dict[str, Any]:
    """The columns of a process."""
    description = update.description
    return {
        "source": description["source"],
        "host": description["host"],
        "pid": description["pid"],
        "role": description["role"],
        "started_at": time_of(description["at"]),
        "journal": description["journal"],
        "last_seen_at": seen,
        "ended_at": seen if update.settled else None,
        "settled_at": seen if update.settled else None,
        "given_up_at": None,
        "numbered": update.numbered,
        **update.position._asdict(),
        "dropped": dict(update.position.dropped) or None,
    }


_GUARDS: Final = ("last_number", "stored", "quarantined")
_MOVED: Final = (*Position._fields, "journal", "last_seen_at", "ended_at", "settled_at", "given_up_at")
_NUMBERED: Final = sa.func.coalesce(sa.bindparam("new_numbered", type_=sa.BigInteger), async_task_source.c.numbered)
_MOVE: Final = (
    sa.update(async_task_source)
    .where(
        async_task_source.c.source == sa.bindparam("of"),
        *(async_task_source.c[name] == sa.bindparam(f"old_{name}") for name in _GUARDS),
    )
    .values({**{name: sa.bindparam(f"new_{name}") for name in _MOVED}, "numbered": _NUMBERED})
)


def move(connection: Connection, rows: Sequence[Mapping[str, Any]], found: Mapping[str, Position]) -> bool:
    """Move processes, by the columns of `source_row`, from where they were ``found``. Returns False if one is somewhere
    else meanwhile: an operator's command has changed it, which an upsert would overwrite."""
    parameters = [
        {
            "of": row["source"],
            **{f"new_{name}": row[name] for name in (*_MOVED, "numbered")},
            **{f"old_{name}": getattr(found[row["source"]], name) for name in _GUARDS},
        }
        for row in rows
    ]
    return connection.execute(_MOVE, parameters).rowcount == len(rows)
