"""The page of workers and health: processes, the ledger of their events, and the size of the database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.responses import Response

from celery_asynctask.console.page import Page, route
from celery_asynctask.core.accounting import SILENT, Account
from celery_asynctask.core.text import amount
from celery_asynctask.errors import SettingsError
from celery_asynctask.journal.survey import UNKNOWN_PID
from celery_asynctask.operations import retention
from celery_asynctask.queries.database_health import size
from celery_asynctask.queries.processes import MAX_GONE, MAX_LOST, MAX_RUNNING, Sources, sources
from celery_asynctask.queries.types import Session
from celery_asynctask.store.tables import SCHEMA_VERSION
from celery_asynctask.web.health import Health

MAX_HOSTS: Final = 20
"""Hosts that are listed of which something is not known."""
ALL_GONE: Final = 500
"""Gone processes that are shown on request."""
TABLES: Final = 3
"""Tables whose size is shown, the largest ones."""
RUNS_SHOWN: Final = 3
"""Tasks that are shown per process."""
DATABASES: Final = {"postgresql": "PostgreSQL", "mysql": "MySQL", "mariadb": "MariaDB", "sqlite": "SQLite"}


async def workers(page: Page) -> Response:
    """The page of workers and health."""
    page.query("all")
    wants_all = bool(page.choice("all", ("1",)))
    if not page.sees_all:
        return await page.answer("workers.html", lambda _session: {"processes": None})
    # Before a session is open: reading a journal of a gigabyte takes a while.
    health = await page.run(page.health)

    def make(session: Session) -> Mapping[str, object]:
        processes = sources(page.reader, session, page.now, gone=ALL_GONE if wants_all else MAX_GONE)
        return {
            "processes": processes,
            "rows": [(process, health.accounts.get(process.source)) for process in processes.sources],
            "unstored": _unstored(health, processes),
            "health": health,
            "ledger": health.ledger,
            "max_hosts": MAX_HOSTS,
            "recorder_is_silent": processes.seen is not None and processes.seen < page.now - SILENT,
            "silent_seconds": int(SILENT.total_seconds()),
            "unknown_pid": UNKNOWN_PID,
            "all": wants_all,
            "all_gone": ALL_GONE,
            "runs_shown": RUNS_SHOWN,
            "max_running": MAX_RUNNING,
            "max_lost": MAX_LOST,
            **_store(page, session),
        }

    return await page.answer("workers.html", make, cacheable=False)


def _unstored(health: Health, processes: Sources) -> list[Account]:
    """Accounts of processes that are only in the journal so far."""
    known = {process.source for process in processes.sources}
    return [
        account
        for account in health.accounts.values()
        if account.segment == account.position == account.last_number == 0
        and account.in_journal
        and account.source not in known
    ]


def _store(page: Page, session: Session) -> dict[str, object]:
    """The database, its size and its retention."""
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
    return {
        "rules": [(rule.text, "forever" if rule.age is None else retention.in_words(rule.age)) for rule in rules],
        "retention_problem": "",
    }


ROUTES: Final = (route("/workers", workers),)
