"""Whether the record is complete: the ledger of the sources, with what still lies in the journal of this host."""

from __future__ import annotations

import datetime as dt
import heapq
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from celery_asynctask.core.accounting import SILENT, Account, Ledger
from celery_asynctask.core.time import time_of
from celery_asynctask.journal import Segment
from celery_asynctask.journal.survey import Survey
from celery_asynctask.queries.reader import Reader
from celery_asynctask.store.models import AsyncTaskSource

_OF_A_JOURNAL: Final = ("in_journal", "damaged", "oldest", "abandoned")
"""What is known of an account by looking into the journal alone."""
_COLUMNS: Final = [getattr(AsyncTaskSource, name) for name in Account._fields if name not in _OF_A_JOURNAL]
_AT_A_TIME: Final = 1000


class Completeness(NamedTuple):
    """What was found."""

    ledger: Ledger
    accounts: list[Account]
    """Sorted by host and source."""


def completeness(
    reader: Reader,
    survey: Survey | None,
    *,
    since: dt.datetime | None = None,
    everything: bool = False,
    limit: int | None = None,
) -> Completeness:
    """The ledger of all sources, or those seen ``since``, and the accounts of those with which something is wrong, or
    of ``everything``; of at most so many, those that live and then those seen last. ``survey`` is the journal directory
    of this host, if it has one.

    Raises `StoreError`, and `OSError` where the journal cannot be read.
    """
    found = Completeness(Ledger(), [])
    here = survey.by_source() if survey is not None else {}
    abandoned = survey is not None and survey.recorder() is None
    later: list[Account] = []

    def take(account: Account) -> None:
        found.ledger.add(account)
        if everything or not account.is_whole:
            found.accounts.append(account)
            if limit is not None and len(found.accounts) >= 2 * limit:
                found.accounts[:] = _latest(found.accounts, limit)

    with reader.session() as session:
        for account in _accounts(session, since, survey):
            if account.source in here:
                later.append(account)
            elif since is None or account.last_seen_at >= since:
                is_known = survey is not None and account.journal == survey.id
                take(account._replace(in_journal=0 if is_known or _is_over(account) else None))
    if survey is not None:
        for account in (*later, *_unheard_of(here, {one.source for one in later}, survey)):
            take(_with_journal(account, here[account.source], survey, abandoned))
    if limit is not None:
        found.accounts[:] = _latest(found.accounts, limit)
    found.accounts.sort(key=lambda one: (one.host, one.source))
    return found


def _latest(accounts: list[Account], limit: int) -> list[Account]:
    return heapq.nlargest(limit, accounts, key=lambda one: (one.ended_at is None, one.last_seen_at))


def silent(session: Session, now: dt.datetime) -> list[tuple[str, int, dt.datetime]]:
    """Hosts with sources that nobody has seen for `SILENT`, or found gone: host, how many, last seen when."""
    asked = (
        select(AsyncTaskSource.host, func.count(), func.max(AsyncTaskSource.last_seen_at))
        .where(AsyncTaskSource.ended_at.is_(None), AsyncTaskSource.last_seen_at < now - SILENT)
        .group_by(AsyncTaskSource.host)
        .order_by(AsyncTaskSource.host)
    )
    return [(row[0], row[1], row[2]) for row in session.execute(asked)]


def _accounts(session: Session, since: dt.datetime | None, survey: Survey | None) -> Iterator[Account]:
    asked: Select[Any] = select(*_COLUMNS).execution_options(yield_per=_AT_A_TIME)
    if since is not None:
        seen = AsyncTaskSource.last_seen_at >= since
        asked = asked.where(seen if survey is None else or_(seen, AsyncTaskSource.journal == survey.id))
    for row in session.execute(asked):
        account = Account(*row)
        yield account if account.dropped is not None else account._replace(dropped={})


def _is_over(account: Account) -> bool:
    """Whether the recorder of its journal has found it gone with nothing left to store; where it was only silent for
    too long, nobody has looked."""
    return account.ended_at is not None and account.ended_at - account.last_seen_at < SILENT


def _with_journal(account: Account, segments: list[Segment], survey: Survey, abandoned: bool) -> Account:
    left = survey.unstored(segments, account.segment, account.position)
    if left is None:
        return account
    told = left.description["dropped"]
    return account._replace(
        in_journal=left.events,
        damaged=left.damaged,
        oldest=left.oldest,
        abandoned=abandoned,
        dropped=account.dropped if told is None else told,
    )


def _unheard_of(here: dict[str, list[Segment]], known: set[str], survey: Survey) -> Iterator[Account]:
    """Sources of the journal of which nothing is stored yet."""
    for source in sorted(here.keys() - known):
        left = survey.unstored(here[source], 0, 0)
        if left is not None:
            about = left.description
            seen = time_of(about["at"])
            yield Account(source, about["host"], about["pid"], about["role"], survey.id, seen, None)
