"""Helpers of the drain's tests: they put events in and look at the results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from celery_asynctask.core.event import Event, encode
from celery_asynctask.journal import Journal
from celery_asynctask.recorder.drain import Drain
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTaskSource
from tests.histories import HISTORIES, about, fold

MakeDrain = Callable[..., Drain]


def append(journal: Journal, *events: Event) -> None:
    for event in events:
        assert journal.append(encode(event))


def segment_files(drain: Drain) -> list[str]:
    return [segment.path.name for segment in drain.directory.segments()]


def quarantined(drain: Drain) -> list[bytes]:
    files = sorted(drain.directory.path.glob("*.quarantine"))
    return [line for file in files for line in file.read_bytes().splitlines()]


def source_of(store: Store, name: str) -> AsyncTaskSource:
    with Session(store.engine, expire_on_commit=False) as session:
        return session.scalars(select(AsyncTaskSource).where(AsyncTaskSource.source == name)).one()


def sources(store: Store) -> list[AsyncTaskSource]:
    with Session(store.engine, expire_on_commit=False) as session:
        return list(session.scalars(select(AsyncTaskSource).order_by(AsyncTaskSource.source)))


def tasks(count: int, history: str = "success") -> dict[str, list[Event]]:
    """A history, for many tasks."""
    return {f"task-{number}": about(HISTORIES[history](), f"task-{number}") for number in range(count)}


def rows(told: dict[str, list[Event]]) -> dict[str, Any]:
    return {task_id: fold(events) for task_id, events in told.items()}
