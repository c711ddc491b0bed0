"""The statements behind `recorder.liveness`: which processes live, and the attempts they left open."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, select, update

from celery_asynctask.store.tables import async_task_attempt, async_task_source

_attempt: Any = async_task_attempt.c
_source: Any = async_task_source.c
_LIMIT = 1000
"""Attempts that one call returns; the next call finds the rest."""


class OpenAttempt(NamedTuple):
    """An attempt without a known end, or one recorded as lost, with its process."""

    celery_task_id: str
    run_key: str
    name: str
    host: str
    pid: int
    role: str
    last_seen_at: dt.datetime


def _attempts(*conditions: Any) -> Select[Any]:
    return (
        select(
            _attempt.celery_task_id,
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


def note_alive(connection: Connection, sources: Collection[str], seen: dt.datetime) -> list[OpenAttempt]:
    """Note that these processes were seen alive at ``seen``. Returns the attempts that were recorded as lost because
    one of these processes was taken for gone."""
    if not sources:
        return []
    were_gone = (_source.source.in_(sources), _source.ended_at.is_not(None))
    attempts = _fetch(
        connection,
        _attempts(*were_gone, _attempt.outcome == "lost", _attempt.error_type == "WorkerLostError"),
    )
    statement = update(async_task_source).where(_source.source.in_(sources))
    connection.execute(statement.values(last_seen_at=seen, ended_at=None))
    return attempts


def note_ended(
    connection: Connection, journal: str, there: Collection[str], seen: dt.datetime, patience: dt.timedelta
) -> list[OpenAttempt]:
    """Note that the processes of a journal, except those still ``there``, are gone. Returns the open attempts of
    those that were found gone at least ``patience`` ago."""
    statement = update(async_task_source).where(
        _source.journal == journal,
        _source.ended_at.is_(None),
        _source.source.not_in(there),
    )
    connection.execute(statement.values(ended_at=seen))
    return _fetch(
        connection,
        _attempts(
            _attempt.ended_at.is_(None),
            _attempt.started_at.is_not(None),
            _source.journal == journal,
            _source.ended_at <= seen - patience,
        ),
    )


def note_silent(connection: Connection, sources: Collection[str], seen: dt.datetime) -> list[OpenAttempt]:
    """Note that these processes are gone. Returns the attempts they were running."""
    statement = update(async_task_source).where(_source.source.in_(sources))
    connection.execute(statement.values(ended_at=seen))
    return _fetch(
        connection,
        _attempts(_attempt.ended_at.is_(None), _attempt.started_at.is_not(None), _source.source.in_(sources)),
    )


def others(connection: Connection, journal: str) -> dict[str, dt.datetime]:
    """The living processes of other journals, each with the time when it was last seen."""
    statement = select(_source.source, _source.last_seen_at)
    living = connection.execute(statement.where(_source.journal != journal, _source.ended_at.is_(None)))
    return {row.source: row.last_seen_at for row in living}
