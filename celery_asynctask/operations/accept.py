"""Accepting what nobody will know: what the processes of a host did last that is gone without a last word."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Final

from sqlalchemy import Connection, func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from celery_asynctask.core.accounting import SILENT, Account
from celery_asynctask.core.text import clean, reason
from celery_asynctask.errors import AcceptanceError, StoreError
from celery_asynctask.journal import Directory
from celery_asynctask.operations.session import Writer
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.remedies import remedy
from celery_asynctask.store.tables import async_task_source

_BATCH: Final = 500
"""Processes of one statement."""
_source: Final = async_task_source.c


def to_accept(writer: Writer, host: str, accounts: Sequence[Account], now: dt.datetime) -> list[Account]:
    """Of the accounts, those of the host of which nobody will know more. Raises `AcceptanceError` where there is none,
    or where the recorder of their journal is heard: it knows, or will soon."""
    last = func.max(_source.last_seen_at).label("seen")
    journals = select(_source.journal, last).where(_source.host == host).group_by(_source.journal)
    seen: dict[str, dt.datetime] = {row.journal: row.seen for row in writer.read(journals)}
    heard = {journal for journal, at in seen.items() if at >= now - SILENT}
    unknown = [account for account in accounts if account.host == host and account.is_unknown]
    found = [account for account in unknown if account.ended_at is not None or account.journal not in heard]
    if found:
        return found
    name = clean(host)
    if unknown or heard:
        raise AcceptanceError(
            f"Nothing was accepted: {name} was heard at {max(seen.values()):%Y-%m-%d %H:%M:%S} UTC, so what its "
            "processes did is known, or its recorder will say it. Run `verify` again in two minutes."
        )
    if seen:
        raise AcceptanceError(f"Nothing was accepted: all is known of {name}. Run `verify` to see of whom it is not.")
    raise AcceptanceError(f"Nothing was accepted: no process of {name} is known. Run `verify` for the names of hosts.")


def give_up(writer: Writer, accounts: Sequence[Account], now: dt.datetime) -> int:
    """Note for each process that a person has given up to learn what it did last. Returns the number of processes:
    those that are heard meanwhile are left alone. If one is heard later, its recorder takes that back."""
    names = [account.source for account in accounts]
    return sum(writer.batch(partial(_give_up, names[at : at + _BATCH], now)) for at in range(0, len(names), _BATCH))


def _give_up(names: Sequence[str], now: dt.datetime, connection: Connection) -> int:
    still = or_(_source.ended_at.is_not(None), _source.last_seen_at < now - SILENT)
    statement = update(async_task_source).where(_source.source.in_(names), _source.settled_at.is_(None), still)
    return connection.execute(statement.values(given_up_at=now)).rowcount


def accept_identity(settings: Settings) -> None:
    """Let the journal of this host go into the present database, though it was stored in another one so far. Raises
    `StoreError`, and `JournalError` where this user may not use the journal."""
    directory = Directory(settings.directory, settings.store_id)
    with closing(Store(settings, directory)) as store:
        try:
            store.accept_identity()
        except SQLAlchemyError as exc:
            problem = f"The database {settings.shown_url} cannot be written: {reason(exc)}."
            raise StoreError(problem, remedy(exc, settings.url)) from exc
