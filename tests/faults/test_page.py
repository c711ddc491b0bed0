"""Somebody meddles with the control page of a process that runs: the process lives, and its runs are recorded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from celery_asynctask.core.event import Event, Kind, encode, encode_end
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.journal import Journal
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask
from tests.faults.journals import drain_all, new_settings
from tests.faults.proc import fork, reap
from tests.histories import START, Delivery, about

pytestmark = pytest.mark.faults

RUNS = 50


def truncate(page: Path) -> None:
    os.truncate(page, 0)


def overwrite(page: Path) -> None:
    page.write_bytes(b"\xff" * page.stat().st_size)


def replace(page: Path) -> None:
    other = page.with_name("other")
    other.write_bytes(bytes(10))
    other.rename(page)


def remove(page: Path) -> None:
    page.unlink()


def link(page: Path) -> None:
    page.unlink()
    page.symlink_to("/etc/hostname")


MEDDLERS = (truncate, overwrite, replace, remove, link)


def record(journal: Journal, numbers: range) -> None:
    """Record runs, each of which begins before the one before it ends."""
    last: tuple[int | None, bytes] | None = None
    for number in numbers:
        start = encode(about([Delivery(2).started(3)], f"task{number}")[0])
        slot = journal.begin(start)
        if last is not None:
            end(journal, *last)
        last = slot, start
    if last is not None:
        end(journal, *last)


def end(journal: Journal, slot: int | None, start: bytes) -> None:
    added: Event = {"ran": True}  # type: ignore[typeddict-item]
    data = encode_end(start, Kind.SUCCEEDED, START + 9000, added)
    if slot is None:
        assert journal.append(start)
        assert journal.append(data)
    else:
        assert journal.append(data, slot)


def ended(settings: Settings) -> set[str]:
    store = Store(settings)
    try:
        with Session(store.engine) as session:
            rows = session.scalars(select(AsyncTask).where(AsyncTask.status == AsyncTaskStatus.SUCCESS))
            return {row.celery_task_id for row in rows}
    finally:
        store.close()


@pytest.mark.parametrize("meddle", MEDDLERS, ids=lambda meddler: meddler.__name__)
def test_somebody_meddles_with_the_page(tmp_path: Path, meddle: Callable[[Path], None]) -> None:
    settings = new_settings(f"sqlite:///{tmp_path}/x.db", tmp_path)

    def live() -> None:
        journal = Journal(settings.directory, settings.store_id)
        record(journal, range(RUNS))
        start = encode(about([Delivery(2).started(3)], "in hand")[0])
        slot = journal.begin(start)
        (page,) = settings.directory.glob("*.page")
        meddle(page)
        record(journal, range(RUNS, 2 * RUNS))
        end(journal, slot, start)
        journal.close()

    assert reap(fork(live)) == 0
    drain_all(settings)
    assert ended(settings) == {*(f"task{number}" for number in range(2 * RUNS)), "in hand"}
