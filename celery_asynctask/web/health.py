"""The ledger and the journal of this host, for callers who see all customers: events belong to processes, not to
customers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from celery_asynctask.core.accounting import Account, Ledger
from celery_asynctask.core.time import time_of
from celery_asynctask.errors import JournalError
from celery_asynctask.journal.survey import survey_of
from celery_asynctask.queries.completeness import completeness
from celery_asynctask.queries.reader import Reader

MAX_ACCOUNTS: Final = 5000
"""Accounts that are kept: of living processes, then of those seen last."""


class Health(NamedTuple):
    """The state of the record, as far as this host can tell."""

    ledger: Ledger
    accounts: Mapping[str, Account]
    """By source."""
    journal: str
    """``there``, ``none`` or ``unreadable``."""
    recorder: int | None
    """PID of the recorder of this host's journal, `UNKNOWN_PID` where it is not known; None: no recorder runs."""

    @property
    def oldest(self) -> dt.datetime | None:
        """When the oldest event in the journal happened; None: the journal is empty."""
        return None if self.ledger.oldest is None else time_of(self.ledger.oldest)


def health(reader: Reader, directory: Path) -> Health:
    """Reads all of the journal in ``directory``, up to a gigabyte. Raises `StoreError`."""
    try:
        survey = survey_of(directory)
        journal, recorder = ("none", None) if survey is None else ("there", survey.recorder())
        ledger, accounts = completeness(reader, survey, everything=True, limit=MAX_ACCOUNTS)
    except (JournalError, OSError):  # the journal of another user
        journal, recorder = "unreadable", None
        ledger, accounts = completeness(reader, None, everything=True, limit=MAX_ACCOUNTS)
    return Health(ledger, {account.source: account for account in accounts}, journal, recorder)
