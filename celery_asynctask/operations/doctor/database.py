"""Checks of the database: whether it answers, has our tables and this host's time, and can be read and written."""

from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from sqlalchemy import Connection, event, select

from celery_asynctask.core.accounting import listed, plural
from celery_asynctask.core.text import reason
from celery_asynctask.errors import JournalError, StoreError
from celery_asynctask.journal.survey import survey_of
from celery_asynctask.operations.doctor.finding import Check, Finding
from celery_asynctask.queries import Reader
from celery_asynctask.queries.completeness import completeness, unsigned
from celery_asynctask.queries.database_health import DatabaseHealth, database_health, read_all
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.charset import narrow_charset
from celery_asynctask.store.remedies import BEFORE_CONNECTED, GRANT, remedy
from celery_asynctask.store.sqlite import readable_files
from celery_asynctask.store.tables import async_task_identity

SKEW_SECONDS: Final = 2.0
"""How far the clocks may differ."""
SIGNED_FOR: Final = dt.timedelta(days=7)
"""Since when processes were seen whose unsigned messages are told."""
SLOW_SECONDS: Final = 0.25
"""How long the shortest query may take before it is worth a note."""
LOCK_SECONDS: Final = 5
"""How long a trial write waits for a lock."""

_WAITS: Final = "Until then, events wait in the journal."


_DATABASE: Final = Check("database")
_CLOCK: Final = Check("clock")
_HEADERS: Final = Check("signed headers")
_CHARSET: Final = Check("charset")
_FILE: Final = Check("database file")
_SCHEMA: Final = Check("schema")
_RIGHTS: Final = Check("rights")
_SOURCES: Final = Check("sources")


def database(settings: Settings, reader: Reader) -> Iterator[Finding]:
    """All checks of the database."""
    try:
        health = database_health(reader)
    except StoreError as exc:
        todo = exc.remedy or "See that the database runs, and that asynctask_url names it."
        yield _DATABASE.problem(exc.problem, f"{todo} {_WAITS}")
        return
    except BEFORE_CONNECTED as exc:
        yield _DATABASE.problem(
            f"No connection to {settings.absolute_url}: {type(exc).__name__}: {reason(exc)}.",
            f"{remedy(exc, reader.url) or 'Correct asynctask_url or asynctask_engine_options.'} {_WAITS}",
        )
        return
    took = f"connected in {health.connect * 1000:.0f} ms, answers in {health.answer * 1000:.1f} ms"
    if health.answer > SLOW_SECONDS:
        yield _DATABASE.note(
            f"{settings.absolute_url}: {took}, which is slow.", "Check the network to the database, and its load."
        )
    else:
        yield _DATABASE.ok(f"{settings.absolute_url}: {took}.")
    yield _clock(health)
    yield from _charset(reader)
    if health.dialect == "sqlite":
        yield from _file(reader)
    if health.problem:
        problem, _, todo = health.problem.partition(": ")
        if health.version is None:
            upgrade = "`celery -A APP asynctask upgrade`, which needs celery-asynctask[migrations]"
            todo = (
                f"Start a worker, whose recorder creates them with the first task it stores, or run {upgrade}."
                if settings.create_tables
                else f"Run {upgrade}: asynctask_create_tables is False, so no recorder creates them."
            )
        yield _SCHEMA.problem(f"The database {problem}.", todo[:1].upper() + todo[1:])
        return
    yield _SCHEMA.ok(f"Version {health.version}, which this release needs.")
    try:
        read_all(reader)
    except StoreError as exc:
        yield _RIGHTS.problem(exc.problem, exc.remedy or GRANT)
        return
    yield from _identity(settings, reader)
    yield _rights(settings)
    yield from _silence(settings, reader)
    if settings.header_keys is not None:
        yield _signatures(reader)


def _identity(settings: Settings, reader: Reader) -> Iterator[Finding]:
    """Whether the journal of this host was stored in another database before. A recorder stores nothing then."""
    try:
        survey = survey_of(settings.directory)
        known = None if survey is None else survey.known_identity()
    except (JournalError, OSError):  # `journal` has a finding about it
        return
    with reader.connection() as connection:
        identities = set(connection.scalars(select(async_task_identity.c.identity)))
    if known and identities and known not in identities:
        yield _DATABASE.problem(
            f"It is another database than the one in which the journal {settings.directory} was stored so far: it has "
            "another identity. Nothing is stored.",
            f"Correct asynctask_url. If this database has taken the place of the other, run `celery -A APP asynctask "
            f"verify --accept-database`. {_WAITS}",
        )


def _clock(health: DatabaseHealth) -> Finding:
    if health.skew is None:
        return _CLOCK.ok("The database runs in this process, so it has this host's time.")
    where = f"{abs(health.skew):.3f} s {'ahead of' if health.skew > 0 else 'behind'} this host's"
    if abs(health.skew) > SKEW_SECONDS:
        return _CLOCK.problem(
            f"The database's clock is {where}: times of different hosts cannot be compared.",
            "Synchronize both hosts by NTP (chrony, systemd-timesyncd).",
        )
    return _CLOCK.ok(f"The database's clock is {where}.")


def _charset(reader: Reader) -> Iterator[Finding]:
    with reader.connection() as connection:
        if narrow := narrow_charset(connection):
            yield _CHARSET.note(narrow.problem, narrow.remedy)


def _file(reader: Reader) -> Iterator[Finding]:
    """Whether others than their owner can open the files of an SQLite database, arguments and results included."""
    with reader.connection() as connection:
        files = list(readable_files(connection))
    if not files:
        return
    names = " ".join(shlex.quote(str(file.path)) for file in files)
    modes = listed([f"{file.path} ({file.mode:04o})" for file in files], len(files))
    todo = f"Run chmod go= {names}, unless these users are to read the record."
    if any(file.by_all for file in files):
        yield _FILE.problem(f"Every user of this host can open {modes}, with all arguments and results.", todo)
    else:
        yield _FILE.note(f"The users of its group can open {modes}, with all arguments and results.", todo)


def _rights(settings: Settings) -> Finding:
    """Write what a recorder writes, and roll it back."""
    with closing(Store(settings)) as store:
        event.listen(store.engine, "begin", _bound_locks)
        try:
            store.probe(commits=False)
        except Exception as exc:  # noqa: BLE001 - whatever the database and its driver raise
            return _RIGHTS.problem(
                f"The tables can be read, but not written: {reason(exc)}.", remedy(exc, settings.url) or GRANT
            )
    return _RIGHTS.ok("All tables can be read and written (tried in a transaction that was rolled back).")


def _bound_locks(connection: Connection) -> None:
    """Wait for no lock longer than a person waits for `doctor`."""
    match connection.dialect.name:
        case "postgresql":
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        case "mysql" | "mariadb":
            seconds = f"innodb_lock_wait_timeout = {LOCK_SECONDS}, lock_wait_timeout = {LOCK_SECONDS}"
            connection.exec_driver_sql(f"SET SESSION {seconds}")
        case _:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {LOCK_SECONDS * 1000}")


def _signatures(reader: Reader) -> Finding:
    """Whether workers received messages that named a customer or creator and were not signed."""
    with reader.session() as session:
        by_host = unsigned(session, dt.datetime.now(dt.timezone.utc) - SIGNED_FOR)
    if not by_host:
        return _HEADERS.ok("Of the processes seen this week, none received an unsigned customer or creator.")
    count = sum(by_host.values())
    hosts = listed([f"{host} ({of_host:,})" for host, of_host in by_host.items()])
    return _HEADERS.note(
        f"Processes seen this week received {count:,} {plural(count, 'message')} that named a customer or creator and "
        f"had no valid signature, so neither is recorded: {hosts}.",
        "If your own applications send them, give these the first key of asynctask_header_keys; the workers' log "
        "names a task. If not, somebody else can publish: restrict who can reach the broker.",
    )


def _silence(settings: Settings, reader: Reader) -> Iterator[Finding]:
    """Of which processes nobody knows what they did last, as `verify` says it."""
    try:
        ledger = completeness(reader, survey_of(settings.directory)).ledger
    except (JournalError, OSError):  # `journal` has a finding about it
        ledger = completeness(reader, None).ledger
    if not ledger.unknown:
        yield _SOURCES.ok("It is known of every process what it did last, or a person has given it up.")
        return
    count = sum(one.processes for one in ledger.unknown.values())
    since = min(one.since for one in ledger.unknown.values())
    hosts = listed([f"{host} ({one.processes:,})" for host, one in sorted(ledger.unknown.items())], 5)
    yield _SOURCES.problem(
        f"Nobody knows what {count:,} {plural(count, 'process')} did after {since:%Y-%m-%d %H:%M:%S} UTC: {hosts}.",
        "If they should run, their hosts are cut off from the database, or no recorder runs there. If such a host is "
        "gone for good, run `celery -A APP asynctask verify --accept HOST`.",
    )
