"""Whether the record is complete: the ledger of the processes, with the events still in the journal of this host."""

from __future__ import annotations

import datetime as dt
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from celery_asynctask.core.accounting import (
    GIVEN_UP,
    SILENT,
    UNSIGNED,
    Account,
    Ledger,
    Unheard,
    dropped_of,
    is_unheard,
)
from celery_asynctask.core.status import TERMINAL, AsyncTaskStatus
from celery_asynctask.core.time import time_of
from celery_asynctask.journal.survey import Survey
from celery_asynctask.journal.unstored import Unstored, unstored
from celery_asynctask.queries.reader import Reader
from celery_asynctask.store.models import AsyncTask, AsyncTaskSource

_COLUMNS: Final = [getattr(AsyncTaskSource, name) for name in Account._fields if hasattr(AsyncTaskSource, name)]
"""The other fields of an account come from the journal, or follow from these."""
_FETCHED_ROWS: Final = 1000
"""Rows that are fetched at once."""
_LOOKS: Final = 3
"""How often what seems to be lost is looked for."""
MAX_OPEN: Final = 100_000
"""Tasks without an end that are counted."""
_OPEN: Final = sorted(set(AsyncTaskStatus) - TERMINAL - {AsyncTaskStatus.UNRECORDED})


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
    problem or are not known, or of all if ``everything``.

    ``limit`` bounds the accounts, not the ledger: living processes come first, then those seen last. ``survey`` is the
    journal directory of this host, if it has one. Raises `StoreError`, and `OSError` if the journal cannot be read.
    """
    result = Completeness(Ledger(), [])
    now = dt.datetime.now(dt.timezone.utc)
    journal = None if survey is None else _Journal(reader, survey)
    stored_here: list[Account] = []

    def take(account: Account) -> None:
        result.ledger.add(account)
        if everything or not account.is_whole:
            result.accounts.append(account)
            if limit is not None and len(result.accounts) >= 2 * limit:
                result.accounts[:] = _latest(result.accounts, limit)

    with reader.session() as session:
        for account in _accounts(session, since, survey):
            if journal is not None and account.source in journal.sources:
                stored_here.append(account)
            elif since is None or account.last_seen_at >= since:
                take(_from_afar(account, survey, now))
    if journal is not None:
        for account in map(journal.stored, stored_here):
            take(account)
        for account in journal.not_stored({account.source for account in stored_here}):
            take(account)
    if result.ledger.unknown:
        with reader.session() as session:
            result.ledger.unknown = _with_tasks(session, result.ledger.unknown)
    if limit is not None:
        result.accounts[:] = _latest(result.accounts, limit)
    result.accounts.sort(key=lambda account: (account.host, account.source))
    return result


def _latest(accounts: list[Account], limit: int) -> list[Account]:
    return heapq.nlargest(limit, accounts, key=lambda account: (account.ended_at is None, account.last_seen_at))


def unheard_since(session: Session, now: dt.datetime, since: dt.datetime | None = None) -> Iterator[Any]:
    """The host and ``last_seen_at`` of each process of which the ledger does not say what it did last, and which nobody
    has given up; with ``since``, only if it was not silent then."""
    table = AsyncTaskSource
    columns = table.host, table.last_seen_at, table.ended_at, table.settled_at, table.numbered
    statement = select(*columns).where(
        table.settled_at.is_(None),
        table.given_up_at.is_(None),
        or_(table.ended_at.is_not(None), table.last_seen_at < now - SILENT),
    )
    if since is not None:
        statement = statement.where(table.last_seen_at >= since - SILENT)
    return (row for row in session.execute(statement) if is_unheard(row, now))


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
        statement = statement.where(seen if survey is None else or_(seen, AsyncTaskSource.journal.in_(_ids(survey))))
    return map(_account, session.execute(statement))


def _account(row: Any) -> Account:
    account = Account(**row._mapping)
    counted = account.dropped or {}
    return account._replace(dropped=dropped_of(counted), discarded=counted.get(GIVEN_UP, 0))


def _ids(survey: Survey) -> tuple[str, ...]:
    """The names that a directory has in the ledger."""
    return *survey.ids, survey.old_id


def _from_afar(account: Account, survey: Survey | None, now: dt.datetime) -> Account:
    """With what the ledger says about a process of which nothing is in a journal of this host."""
    if account.settled_at is not None:
        return account
    if account.numbered is None and survey is not None and account.journal in _ids(survey):
        return account  # of an earlier release, whose recorder has stored and removed all
    at_hand = None if account.numbered is None else max(0, account.numbered - account.last_number)
    if not is_unheard(account, now):
        return account._replace(in_journal=0 if account.ended_at is not None else at_hand)
    if account.given_up_at is not None:
        return account._replace(unheard=True, left_behind=at_hand or 0)
    return account._replace(unheard=True, in_journal=at_hand)


def _with_tasks(session: Session, unknown: Mapping[str, Unheard]) -> dict[str, Unheard]:
    """With the number of tasks that they may have ended at most: those of which no end is known."""
    counted: dict[dt.datetime | None, int | None] = {}
    for until in {one.until for one in unknown.values()}:
        tasks = select(AsyncTask.id).where(AsyncTask.status.in_(_OPEN))
        if until is not None:
            tasks = tasks.where(AsyncTask.created_at <= until)
        count = session.scalar(select(func.count()).select_from(tasks.limit(MAX_OPEN + 1).subquery())) or 0
        counted[until] = count if count <= MAX_OPEN else None
    return {host: one._replace(tasks=counted[one.until]) for host, one in unknown.items()}


class _Journal:
    """What the journal of this host knows beyond the ledger."""

    def __init__(self, reader: Reader, survey: Survey) -> None:
        self._reader = reader
        self._survey = survey
        self._is_drained = survey.recorder() is not None
        self._is_old_drained = self._is_drained or survey.old_recorder() is not None
        self._pages = {source: survey.view(source) for source in survey.pages()}  # before the ledger and the segments
        self._segments = survey.by_source()
        self.sources = self._segments.keys() | self._pages.keys()
        """The processes that it has something of."""

    def not_stored(self, known: set[str]) -> Iterator[Account]:
        """The accounts of processes that have nothing stored yet."""
        for source in sorted(self.sources - known):
            left = unstored(self._segments.get(source, ()), self._pages.get(source), 0, 0)
            if left is not None:
                process = left.description
                journal = self._survey.old_id if self._is_old(source) else self._survey.id
                seen = time_of(process["at"])
                new = Account(source, process["host"], process["pid"], process["role"], journal, seen, None)
                yield self._complete(new, left)

    def _is_old(self, source: str) -> bool:
        return any(segment.is_old for segment in self._segments.get(source, ()))

    def stored(self, account: Account) -> Account:
        """The account of a process that has something stored, with what is in the journal."""
        segments, page = self._segments.get(account.source, ()), self._pages.get(account.source)
        return self._complete(account, unstored(segments, page, account.segment, account.position))

    def _complete(self, account: Account, left: Unstored | None) -> Account:
        """With what is in the journal. Whatever seems to be lost is looked for again: meanwhile, the recorder may have
        stored it, or its process have begun another segment."""
        source = account.source
        completed = self._with(account, left)
        for _ in range(_LOOKS):
            if not completed.lost:
                break
            page = self._survey.view(source)
            left = unstored(self._survey.by_source().get(source, ()), page, 0, 0)
            with self._reader.session() as session:
                row = session.execute(select(*_COLUMNS).where(AsyncTaskSource.source == source)).first()
            account = account if row is None else _account(row)
            completed = self._with(account, left)
        return completed

    def _with(self, account: Account, left: Unstored | None) -> Account:
        if left is None:
            return account
        events = left.events(account.last_number)
        starts = 0 if left.lives or account.settled_at is not None else left.starts
        rest = max(0, max(left.numbered, account.numbered or 0) - account.last_number - events - left.hidden)
        held = min(rest, left.held)
        return account._replace(
            in_journal=events + held + starts,
            damaged=left.damaged,
            oldest=left.oldest,
            abandoned=not (self._is_old_drained if self._is_old(account.source) else self._is_drained),
            lost=0 if left.unread else rest - held,
            unheard=left.unread > 0,
            dropped={**account.dropped, **(left.dropped or {})},
        )
