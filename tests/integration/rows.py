"""The stored rows, as they are or in the fold's own values."""

from __future__ import annotations

import datetime as dt
import enum
from typing import Any

from sqlalchemy import Table, select
from sqlalchemy.orm import Session

from celery_asynctask.core.fold import Identity, Partial, project
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt
from tests.histories import Delivery

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)


def rows(store: Store) -> dict[str, AsyncTask]:
    """The tasks, by id."""
    with Session(store.engine, expire_on_commit=False) as session:
        return {one.celery_task_id: one for one in session.scalars(select(AsyncTask))}


def stored(store: Store, prefix: str = "") -> dict[str, Partial]:
    """`stored_rows` by id, where no id is used for two customers."""
    partials = stored_rows(store, prefix)
    by_id = {task_id: partial for (task_id, _), partial in partials.items()}
    assert len(by_id) == len(partials)
    return by_id


def stored_rows(store: Store, prefix: str = "") -> dict[Identity, Partial]:
    """Rows and attempts of the tasks whose id begins with ``prefix``. Columns that the fold does not know must be
    empty, and are left out."""
    with store.engine.connect() as connection:
        tasks, attempts = (
            connection.execute(select(table).where(table.c.celery_task_id.startswith(prefix))).mappings().all()
            for table in (_table(AsyncTask), _table(AsyncTaskAttempt))
        )
    partials = {_identity(row): Partial(_plain(row, _TASK), {}) for row in tasks}
    assert len(partials) == len(tasks)
    for row in attempts:
        partials[_identity(row)].attempts[row["run_key"]] = _plain(row, _ATTEMPT)
    assert sum(len(partial.attempts) for partial in partials.values()) == len(attempts)
    return partials


def _identity(row: Any) -> Identity:
    return row["celery_task_id"], row["customer_key"]


def _table(model: Any) -> Table:
    table: Table = model.__table__
    return table


_example = project(Delivery(0).started(1))
_TASK = set(_example.task)
_ATTEMPT = {key for attempt in _example.attempts.values() for key in attempt}


def _plain(row: Any, known: set[str]) -> dict[str, Any]:
    unknown = {key: value for key, value in row.items() if key not in known and key != "id" and value is not None}
    assert not unknown
    return {key: _value(row[key]) for key in known}


def _value(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        assert value.utcoffset() == dt.timedelta(0)
        return (value - _EPOCH) // dt.timedelta(microseconds=1)
    return value.value if isinstance(value, enum.Enum) else value
