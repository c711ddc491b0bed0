"""Whether the record is complete: the ledger of the processes, with the events still in the journal of this host."""

from __future__ import annotations

import datetime as dt
import heapq
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from celery_asynctask.core.accounting import SILENT, UNSIGNED, Account, Ledger, dropped_of
from celery_asynctask.core.time import time_of
from celery_asynctask.journal import Segment
from celery_asynctask.journal.survey import Survey
from celery_asynctask.queries.reader import Reader
from celery_asynctask.store.models import AsyncTaskSource

_FROM_JOURNAL: Final = ("in_journal", "damaged", "oldest", "abandoned")
"""Fields of an account that only the journal knows."""
_COLUMNS: Final = [getattr(AsyncTaskSource, name) for name in Account._fields if name not in _FROM_JOURNAL]
_FETCHED_ROWS: Final = 1000
"""Rows that are fetched at once."""


class Completeness(NamedTuple):
    """The ledger and some of its accounts."""

    ledger: Ledger
    accounts: list[Account]
    """Sorted by host and process."""


def completeness(
    reader: Reader,
    survey: Survey | None,
    *,
    since: dt.datetime | None = None,
    everything: bool = False,
    limit: int | None = None,
) -> Completeness:
    """The ledger of all processes, or of those seen ``since`` an aware UTC time, with the accounts of those that have a
    problem, or of all if ``everything``.

    ``limit`` bounds the accounts, not the ledger: living processes come first, then those seen last. ``survey`` is the
    journal directory of this host, if it has one. Raises `StoreError`, and `OSError` if the journal cannot be read.
    """
    result = Completeness(Ledger(), [])
    here = survey.by_source() if survey is not None else {}
    abandoned = survey is not None and survey.recorder() is None
    stored_here: list[Account] = []

    def take(account: Account) -> None:
        result.ledger.add(account)
        if everything or not account.is_whole:
            result.accounts.append(account)
            if limit is not None and len(result.accounts) >= 2 * limit:
                result.accounts[:] = _latest(result.accounts, limit)

    with reader.session() as session:
        for account in _accounts(session, since, survey):
            if account.source in here:
                stored_here.append(account)
            elif since is None or account.last_seen_at >= since:
                is_known = survey is not None and account.journal == survey.id
                take(account._replace(in_journal=0 if is_known or _is_over(account) else None))
    if survey is not None:
        known = {account.source for account in stored_here}
        for account in (*stored_here, *_not_stored(here, known, survey)):
            take(_with_journal(account, here[account.source], survey, abandoned))
    if limit is not None:
        result.accounts[:] = _latest(result.accounts, limit)
    result.accounts.sort(key=lambda account: (account.host, account.source))
    return result


def _latest(accounts: list[Account], limit: int) -> list[Account]:
    return heapq.nlargest(limit, accounts, key=lambda account: (account.ended_at is None, account.last_seen_at))


def silent(session: Session, now: dt.datetime) -> list[tuple[str, int, dt.datetime]]:
    """Hosts with processes that no recorder has seen for `SILENT` and none has found gone: the host, the number of
    processes, and when one of them was last seen."""
    statement = (
        select(AsyncTaskSource.host, func.count(), func.max(AsyncTaskSource.last_seen_at))
        .where(AsyncTaskSource.ended_at.is_(None), AsyncTaskSource.last_seen_at < now - SILENT)
        .group_by(AsyncTaskSource.host)
        .order_by(AsyncTaskSource.host)
    )
    return [(row[0], row[1], row[2]) for row in session.execute(statement)]


def unsigned(session: Session, since: dt.datetime) -> dict[str, int]:
    """How many messages the processes seen ``since`` then received that named a customer or creator and were not
    signed, by host."""
    table = AsyncTaskSource
    statement = select(table.host, table.dropped).where(table.last_seen_at >= since, table.dropped.is_not(None))
    counts: Counter[str] = Counter()
    for host, dropped in session.execute(statement):
        counts[host] += dropped.get(UNSIGNED, 0)
    return {host: count for host, count in sorted(counts.items()) if count}


def _accounts(session: Session, since: dt.datetime | None, survey: Survey | None) -> Iterator[Account]:
    statement: Select[Any] = select(*_COLUMNS).execution_options(yield_per=_FETCHED_ROWS)
    if since is not None:
        seen = AsyncTaskSource.last_seen_at >= since
        statement = statement.where(seen if survey is None else or_(seen, AsyncTaskSource.journal == survey.id))
    for row in session.execute(statement):
        account = Account(*row)
        yield account._replace(dropped=dropped_of(account.dropped))


def _is_over(account: Account) -> bool:
    """Whether the recorder of its journal found the process gone with nothing left to store. If it was only silent for
    too long, nobody has looked into the journal."""
    return account.ended_at is not None and account.ended_at - account.last_seen_at < SILENT


def _with_journal(account: Account, segments: list[Segment], survey: Survey, abandoned: bool) -> Account:
    left = survey.unstored(segments, account.segment, account.position)
    if left is None:
        return account
    dropped = left.description["dropped"]
    return account._replace(
        in_journal=left.events,
        damaged=left.damaged,
        oldest=left.oldest,
        abandoned=abandoned,
        dropped=account.dropped if dropped is None else dropped,
    )


def _not_stored(here: dict[str, list[Segment]], known: set[str], survey: Survey) -> Iterator[Account]:
    """Processes of the journal that have nothing stored yet."""
    for source in sorted(here.keys() - known):
        left = survey.unstored(here[source], 0, 0)
        if left is not None:
            process = left.description
            seen = time_of(process["at"])
            yield Account(source, process["host"], process["pid"], process["role"], survey.id, seen, None)
