"""Writers and drains for the tests that kill them: events with a known origin, and the rows that must be stored."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from celery_asynctask.core.event import Event, encode
from celery_asynctask.core.fold import fold_all
from celery_asynctask.journal import Directory, Journal
from celery_asynctask.recorder.drain import Drain
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTaskSource
from tests.histories import HISTORIES, about
from tests.integration.rows import stored_rows

_KIND = "noted"
LENGTH = len(HISTORIES[_KIND]())
"""Events of one task: an attempt, a retry, a second attempt."""


def event_of(life: int, number: int) -> Event:
    """The ``number``-th event, from 1, of a writer's life. The events belong to one task after the other."""
    task, step = divmod(number - 1, LENGTH)
    return about([HISTORIES[_KIND]()[step]], f"life{life}-task{task}")[0]


def write(
    settings: Settings, life: int, count: int, pipe: int | None = None, journal: Journal | None = None
) -> Journal:
    """Append ``count`` events. ``pipe`` is a descriptor that gets the process's name, then a dot for each append that
    returned."""
    journal = journal or Journal(settings.directory, settings.store_id)
    if pipe is not None:
        os.write(pipe, f"{life} {journal.source} ".encode())
    for number in range(1, count + 1):
        done = journal.append(encode(event_of(life, number)))
        assert done, journal.dropped
        if pipe is not None:
            os.write(pipe, b".")
    return journal


class Life:
    """The known facts about a writer that was killed."""

    def __init__(self, report: bytes) -> None:
        life, _, rest = report.decode().partition(" ")
        source, _, dots = rest.partition(" ")
        self.number = int(life) if life else -1
        self.source = source
        self.written = len(dots)
        """Events whose append returned; one more may be in the journal."""


def drain_of(settings: Settings) -> Drain:
    return Drain(Directory(settings.directory, settings.store_id), settings)


def drain_all(settings: Settings) -> None:
    """The work of the next recorder."""
    drain = drain_of(settings)
    drain.work()
    drain.close()


def check(settings: Settings, lives: Iterable[Life]) -> int:
    """Check that each event whose append returned is stored once, that the ledger adds up, and that the rows are the
    fold. Returns the number of events.

    Of the event that was being written at the end there may be nothing, its number alone (it is missing), a part (in
    quarantine), or all.
    """
    directory = Directory(settings.directory, settings.store_id)
    left = directory.segments()
    assert not left, f"left in the journal: {left}"
    quarantine = [entry for file in settings.directory.glob("*.quarantine") for entry in file.read_bytes().splitlines()]
    store = Store(settings)
    with Session(store.engine) as session:
        sources: dict[str, AsyncTaskSource] = {
            source.source: source for source in session.scalars(select(AsyncTaskSource))
        }
    events, problems = [], []
    for life in lives:
        source = sources.pop(life.source, None)
        if source is None:
            problems += [f"{life.source}: {life.written} events, none stored"] if life.written else []
            continue
        if not life.written <= source.stored <= source.stored + source.quarantined <= life.written + 1:
            problems.append(f"{life.source}: {source.stored} stored of {life.written}, {source.quarantined} put aside")
        if not source.stored + source.quarantined <= source.last_number <= life.written + 1 or source.dropped:
            figures = source.last_number, source.stored, source.quarantined, source.dropped
            problems.append(f"{life.source}: the ledger does not add up: {figures}")
        events += [event_of(life.number, number) for number in range(1, source.stored + 1)]
    assert not problems, "\n".join([*problems, f"quarantine: {quarantine[:5]}"])
    assert not sources, f"sources of nobody: {list(sources)}"
    assert stored_rows(store) == fold_all(events)
    store.close()
    return len(events)


def new_settings(url: str, directory: Path, **options: Any) -> Settings:
    settings = Settings(url=url, journal_dir=directory / "journal", **options)
    store = Store(settings)
    store.prepare()
    store.close()
    return settings
