"""The statements behind `recorder.liveness`: which processes live, and the attempts and messages they left open."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Select, bindparam, func, select, update

from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.store.tables import async_task, async_task_attempt, async_task_source

_task: Any = async_task.c
_attempt: Any = async_task_attempt.c
_source: Any = async_task_source.c
_LIMIT = 1000
"""Attempts that one call returns; the next call finds the rest."""


class OpenAttempt(NamedTuple):
    """An attempt without a known end, or one recorded as lost, with its process."""

    celery_task_id: str
    customer_key: str
    run_key: str
    name: str
    host: str
    pid: int
    role: str
    last_seen_at: dt.datetime


class HeldTask(NamedTuple):
    """A task whose message a process has received and not started, or had when it was found gone."""

    celery_task_id: str
    customer_key: str
    order_key: str
    name: str
    holder: str


class Open(NamedTuple):
    """What processes left open, or are found to have open still."""

    attempts: list[OpenAttempt]
    held: list[HeldTask]


def _attempts(*conditions: Any) -> Select[Any]:
    return (
        select(
            _attempt.celery_task_id,
            _attempt.customer_key,
            _attempt.run_key,
            _attempt.name,
            _source.host,
            _source.pid,
            _source.role,
            _source.last_seen_at,
        )
        .join_from(async_task_attempt, async_task_source, _attempt.source == _source.source)
        .where(*conditions)
        .order_by(_attempt.id)
        .limit(_LIMIT)
    )


def _fetch(connection: Connection, statement: Select[Any]) -> list[OpenAttempt]:
    return [OpenAttempt(*row) for row in connection.execute(statement)]


def _held(connection: Connection, status: AsyncTaskStatus, *conditions: Any) -> list[HeldTask]:
    columns = (_task.celery_task_id, _task.customer_key, _task.order_key, _task.name, _task.holder)
    statement = (
        select(*columns)
        .join_from(async_task, async_task_source, _task.holder == _source.source)
        .where(_task.status == status, *conditions)
        .order_by(_task.id)
        .limit(_LIMIT)
    )
    return [HeldTask(*row) for row in connection.execute(statement)]


def held(connection: Connection, source: str) -> list[HeldTask]:
    """The tasks whose messages a process has received and not started."""
    return _held(connection, AsyncTaskStatus.RECEIVED, _source.source == source)


def note_alive(connection: Connection, sources: Mapping[str, int | None], seen: dt.datetime) -> Open:
    """Note that these processes were seen alive at ``seen``, each with the number of the last event that it has
    accepted, or None. Returns what was recorded as lost or released because one of these processes was taken for
    gone."""
    if not sources:
        return Open([], [])
    were_gone = (_source.source.in_(sources), _source.ended_at.is_not(None))
    attempts = _fetch(
        connection,
        _attempts(*were_gone, _attempt.outcome == "lost", _attempt.error_type == "WorkerLostError"),
    )
    held = _held(connection, AsyncTaskStatus.PENDING, *were_gone)
    connection.execute(_ALIVE, [{"of": name, "count": sources[name], "seen": seen} for name in sorted(sources)])
    return Open(attempts, held)


_ALIVE: Final = (
    update(async_task_source)
    .where(_source.source == bindparam("of"))
    .values(
        last_seen_at=bindparam("seen"),
        ended_at=None,
        settled_at=None,
        given_up_at=None,
        numbered=func.coalesce(bindparam("count"), _source.numbered),
    )
)


def note_ended(
    connection: Connection, journal: str, there: Collection[str], seen: dt.datetime, patience: dt.timedelta
) -> Open:
    """Note that the processes of a journal, except those still ``there``, are gone. Returns what those left open that
    were found gone at least ``patience`` ago."""
    statement = update(async_task_source).where(
        _source.journal == journal,
        _source.ended_at.is_(None),
        _source.source.not_in(there),
    )
    connection.execute(statement.values(ended_at=seen))
    return _left_open(connection, _source.journal == journal, _source.ended_at <= seen - patience)


def settle_earlier(connection: Connection, journal: str, there: Collection[str], seen: dt.datetime) -> None:
    """Settle the processes of earlier versions in a journal that were found gone and have nothing there any more: they
    have no page, so that all they have told was in their segments."""
    gone = (_source.journal == journal, _source.ended_at.is_not(None), _source.settled_at.is_(None))
    statement = update(async_task_source).where(*gone, _source.source.not_in(there))
    connection.execute(statement.values(settled_at=seen))


def settled(connection: Connection, sources: Collection[str]) -> dict[str, bool]:
    """Those of these processes that the ledger has, and whether their last word is stored."""
    statement = select(_source.source, _source.settled_at).where(_source.source.in_(sources))
    return {source: at is not None for source, at in connection.execute(statement)}


def note_silent(connection: Connection, sources: Collection[str], seen: dt.datetime) -> Open:
    """Note that these processes are gone. Returns what they left open."""
    statement = update(async_task_source).where(_source.source.in_(sources))
    connection.execute(statement.values(ended_at=seen))
    return _left_open(connection, _source.source.in_(sources))


def _left_open(connection: Connection, *conditions: Any) -> Open:
    attempts = _attempts(_attempt.ended_at.is_(None), _attempt.started_at.is_not(None), *conditions)
    return Open(_fetch(connection, attempts), _held(connection, AsyncTaskStatus.RECEIVED, *conditions))


def others(connection: Connection, journal: str) -> dict[str, dt.datetime]:
    """The living processes of other journals, each with the time when it was last seen."""
    statement = select(_source.source, _source.last_seen_at)
    living = connection.execute(statement.where(_source.journal != journal, _source.ended_at.is_(None)))
    return {row.source: row.last_seen_at for row in living}
