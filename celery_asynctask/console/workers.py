"""The page of workers and health: the processes that write, what became of their events, and how much there is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from markupsafe import Markup
from starlette.responses import Response

from celery_asynctask.console.page import Page, route
from celery_asynctask.core.accounting import SILENT, Account
from celery_asynctask.core.text import amount
from celery_asynctask.errors import SettingsError
from celery_asynctask.journal.survey import UNKNOWN_PID
from celery_asynctask.operations import retention
from celery_asynctask.queries.processes import MOST_GONE, MOST_LOST, MOST_RUNNING, Source, Sources, State, sources
from celery_asynctask.queries.size import size
from celery_asynctask.queries.types import Session
from celery_asynctask.store.tables import SCHEMA_VERSION
from celery_asynctask.web.health import Health
from celery_asynctask.web.problem import invalid

ALL_GONE: Final = 500
"""Processes that are gone, where all are wanted."""
TABLES: Final = 3
"""Tables whose size is shown: the largest."""
RUNS_SHOWN: Final = 3
"""Tasks that are shown of a process."""
STATES: Final = {
    state: Markup('<span class="status {}"><span aria-hidden="true" class="sign">{}</span> {}</span>').format(
        class_, sign, state.value
    )
    for state, class_, sign in (
        (State.ALIVE, "s-success", "●"),
        (State.SILENT, "s-retry", "◌"),
        (State.GONE, "s-pending", "○"),
    )
}
"""As a process's is shown."""
DATABASES: Final = {"postgresql": "PostgreSQL", "mysql": "MySQL", "mariadb": "MariaDB", "sqlite": "SQLite"}


class Row(NamedTuple):
    """A process as it is shown."""

    source: Source
    account: Account | None
    """None: nothing was known of it when the ledger was made, some seconds ago."""


class Unstored(NamedTuple):
    """A process of which nothing is stored yet."""

    account: Account

    @property
    def began(self) -> dt.datetime:
        """When it did, as its journal says."""
        return self.account.last_seen_at


async def workers(page: Page) -> Response:
    """Processes and health."""
    wants_all = page.asked("all")["all"]
    if wants_all not in ("", "1"):
        raise invalid("all", "It can be 1.")
    if page.access.customers is not None:
        return await page.answer("workers.html", lambda _session: {"found": None})
    # Before a session is open: to read a journal of a gigabyte takes a while.
    health = await page.service.run(page.health)

    def make(session: Session) -> Mapping[str, object]:
        found = sources(page.reader, session, page.now, gone=ALL_GONE if wants_all else MOST_GONE)
        return {
            "found": found,
            "rows": [Row(one, health.accounts.get(one.source)) for one in found.sources],
            "unstored": list(_unstored(health, found)),
            "health": health,
            "ledger": health.ledger,
            "recorder_is_silent": found.seen is not None and found.seen < page.now - SILENT,
            "silent_seconds": int(SILENT.total_seconds()),
            "unknown_pid": UNKNOWN_PID,
            "all": bool(wants_all),
            "all_gone": ALL_GONE,
            "states": STATES,
            "runs_shown": RUNS_SHOWN,
            "most_running": MOST_RUNNING,
            "most_lost": MOST_LOST,
            **_store(page, session),
        }

    return await page.answer("workers.html", make, lasting=False)


def _unstored(health: Health, found: Sources) -> Iterator[Unstored]:
    """Processes that are in the journal alone."""
    known = {one.source for one in found.sources}
    for account in health.accounts.values():
        is_new = account.segment == account.position == account.last_number == 0
        if is_new and account.in_journal and account.source not in known:
            yield Unstored(account)


def _store(page: Page, session: Session) -> dict[str, object]:
    """About the database, and how long things are kept in it."""
    room = size(session)
    dialect = page.reader.dialect
    return {
        "schema_version": SCHEMA_VERSION,
        "database": DATABASES.get(dialect, dialect),
        "size": None if room is None else amount(room.total),
        "tables": {} if room is None else {name: amount(length) for name, length in list(room.tables.items())[:TABLES]},
        **_retention(page),
    }


def _retention(page: Page) -> dict[str, object]:
    try:
        rules = retention.configured(page.service.settings.retention, page.now)
    except SettingsError as exc:
        return {"rules": [], "retention_problem": str(exc)}
    return {"rules": [(rule.text, retention.in_words(rule.age)) for rule in rules], "retention_problem": ""}


ROUTES: Final = (route("/workers", workers),)
