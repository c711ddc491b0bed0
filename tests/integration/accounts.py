"""Accounts of processes in the ledger, as tests of completeness make them."""

from __future__ import annotations

import datetime as dt
import socket
from pathlib import Path
from typing import Any

from sqlalchemy import update

from celery_asynctask.core.accounting import Account
from celery_asynctask.journal.survey import Survey
from celery_asynctask.queries import Reader
from celery_asynctask.queries.completeness import Completeness, completeness
from celery_asynctask.store import Position, SourceUpdate, Store
from celery_asynctask.store.models import AsyncTaskSource
from tests.histories import published

HOST = socket.gethostname()
SECOND = 1_000_000
OTHER = {
    "source": "other-1",
    "host": "far",
    "pid": 7,
    "role": "worker",
    "at": 1_750_000_000_000_000,
    "journal": "f" * 32,
}
ALL_THERE = Position(1, 100, last_number=5, stored=5)


def events(count: int) -> list[Any]:
    return [{**published(), "id": f"task-{number}"} for number in range(count)]


def add_source(store: Store, position: Position, **about: Any) -> None:
    store.write([], [SourceUpdate({**OTHER, **about}, position)])


def change(store: Store, source: str, **values: Any) -> None:
    with store.engine.begin() as connection:
        connection.execute(update(AsyncTaskSource).where(AsyncTaskSource.source == source).values(**values))


def check(store: Store, directory: Path | None = None, **how: Any) -> Completeness:
    reader = Reader(store.settings.url)
    try:
        return completeness(reader, Survey(directory) if directory else None, **how)
    finally:
        reader.close()


def numbers(account: Account) -> tuple[int, int, int | None, int, int, int]:
    """accepted, stored, in the journal, in quarantine, dropped, missing."""
    return (
        account.accepted,
        account.stored,
        account.in_journal,
        account.quarantined,
        account.dropped_total,
        account.missing,
    )


NOW = dt.datetime.now(dt.timezone.utc)
LONG_AGO = NOW - dt.timedelta(minutes=10)


def far(store: Store, source: str, host: str = "far", position: Position = ALL_THERE, **values: Any) -> None:
    """A process whose journal is on another host. It is heard now, unless its columns say otherwise."""
    add_source(store, position, source=source, host=host)
    if values:
        change(store, source, **values)
