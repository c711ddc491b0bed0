"""Checks of the database: reachable, of the right version, readable and writable, and of the same time as we."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from celery_asynctask.core.accounting import plural
from celery_asynctask.core.event import Event, Kind, encode
from celery_asynctask.core.keys import new_token
from celery_asynctask.core.text import reason
from celery_asynctask.core.time import now
from celery_asynctask.errors import StoreError
from celery_asynctask.operations.doctor.finding import Check, Finding
from celery_asynctask.queries import Reader
from celery_asynctask.queries.completeness import silent
from celery_asynctask.queries.database_health import DatabaseHealth, database_health, read_all
from celery_asynctask.settings import Settings
from celery_asynctask.store import Position, SourceUpdate, Store
from celery_asynctask.store.remedies import BEFORE_CONNECTED, GRANT, remedy

SKEW_SECONDS: Final = 2.0
"""By which the clocks may differ."""
SLOW_SECONDS: Final = 0.25
"""That the shortest question may take before it is worth a note."""

_WAITS: Final = "Until then, events wait in the journal."


class Undone(Exception):
    """Everything could be written; now nothing shall be."""


_DATABASE: Final = Check("database")
_CLOCK: Final = Check("clock")
_SCHEMA: Final = Check("schema")
_RIGHTS: Final = Check("rights")
_SOURCES: Final = Check("sources")


def database(settings: Settings, reader: Reader) -> Iterator[Finding]:
    """All that concerns the database."""
    try:
        found = database_health(reader)
    except StoreError as exc:
        todo = exc.remedy or "See that the database runs, and that asynctask_url names it."
        yield _DATABASE.problem(exc.problem, f"{todo} {_WAITS}")
        return
    except BEFORE_CONNECTED as exc:
        yield _DATABASE.problem(
            f"No connection to {reader.shown_url}: {type(exc).__name__}: {reason(exc)}.",
            f"{remedy(exc, reader.url) or 'Correct asynctask_url or asynctask_engine_options.'} {_WAITS}",
        )
        return
    took = f"connected in {found.connect * 1000:.0f} ms, answers in {found.answer * 1000:.1f} ms"
    if found.answer > SLOW_SECONDS:
        yield _DATABASE.note(f"{reader.shown_url}: {took}, which is slow.", "Look at the way to it, and its load.")
    else:
        yield _DATABASE.ok(f"{reader.shown_url}: {took}.")
    yield _clock(found)
    if found.problem:
        problem, _, todo = found.problem.partition(": ")
        if found.version is None:
            todo = "Run `celery asynctask upgrade`" + (
                ", or wait: the recorder makes them with the first task it stores."
                if settings.create_tables
                else ": asynctask_create_tables is False, so no recorder makes them."
            )
        yield _SCHEMA.problem(f"The database {problem}.", todo[:1].upper() + todo[1:])
        return
    yield _SCHEMA.ok(f"Version {found.version}, which this release needs.")
    try:
        read_all(reader)
    except StoreError as exc:
        yield _RIGHTS.problem(exc.problem, exc.remedy or GRANT)
        return
    yield _rights(settings)
    yield _silence(reader)


def _clock(found: DatabaseHealth) -> Finding:
    if found.skew is None:
        return _CLOCK.ok("The database runs in this process, so it has this host's time.")
    where = f"{abs(found.skew):.3f} s {'ahead of' if found.skew > 0 else 'behind'} this host's"
    if abs(found.skew) > SKEW_SECONDS:
        return _CLOCK.problem(
            f"The database's clock is {where}: times of different hosts cannot be compared.",
            "Let both hosts keep time by NTP (chrony, systemd-timesyncd).",
        )
    return _CLOCK.ok(f"The database's clock is {where}.")


def _rights(settings: Settings) -> Finding:
    """Write what a recorder writes, and take it back."""
    at = now()
    event: Event = {
        "id": f"doctor-{uuid.uuid4()}",
        "run": new_token(at),
        "kind": Kind.STARTED.value,
        "at": at,
        "name": "celery_asynctask.doctor",
    }
    source = {"source": f"doctor-{uuid.uuid4().hex}", "host": "doctor", "pid": 0, "role": "producer", "at": at}
    update = SourceUpdate({**source, "journal": ""}, Position())

    def undo() -> None:
        raise Undone

    with closing(Store(settings)) as store:
        try:
            store.write([encode(event)], [update], before_commit=undo)
        except Undone:
            return _RIGHTS.ok("All tables can be read and written (tried in a transaction that was rolled back).")
        except Exception as exc:  # noqa: BLE001 - whatever the database and its driver raise
            return _RIGHTS.problem(
                f"The tables can be read, but not written: {reason(exc)}.", remedy(exc, settings.url) or GRANT
            )
    raise AssertionError("the store wrote without asking")


def _silence(reader: Reader) -> Finding:
    with reader.session() as session:
        found = silent(session, dt.datetime.now(dt.timezone.utc))
    if not found:
        return _SOURCES.ok(
            "Every process that has written events was seen in the last minutes, or is known to be gone."
        )
    count = sum(number for _, number, _ in found)
    last = max(seen for _, _, seen in found)
    hosts = ", ".join(f"{host} ({number:,})" for host, number, _ in found[:5]) + (", ..." if len(found) > 5 else "")
    return _SOURCES.note(
        f"Nobody has looked after {count:,} {plural(count, 'process')} since {last:%Y-%m-%d %H:%M:%S} UTC: {hosts}.",
        "If they should run: their hosts are cut off from the database, or no recorder works. If not, the next "
        "recorder that starts notes that they are gone.",
    )
