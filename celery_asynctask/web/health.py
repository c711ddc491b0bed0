"""What the ledger and the journal of this host say, for who sees all customers: events are of processes, not of
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
"""Accounts that are kept: of the processes that live, then of those that were seen last."""


class Health(NamedTuple):
    """What the ledger and the journal say."""

    ledger: Ledger
    accounts: Mapping[str, Account]
    """By source."""
    journal: str
    """``there``, ``none`` or ``unreadable``."""
    recorder: int | None
    """Process that stores what is in this host's journal, `UNKNOWN_PID` where that is not told; None: nobody."""

    @property
    def oldest(self) -> dt.datetime | None:
        """When the first of the events in the journal happened; None: there is none."""
        return None if self.ledger.oldest is None else time_of(self.ledger.oldest)


def health(reader: Reader, directory: Path) -> Health:
    """Reads the whole journal in ``directory``, which may have a gigabyte. Raises `StoreError`."""
    try:
        survey = survey_of(directory)
        journal, recorder = ("none", None) if survey is None else ("there", survey.recorder())
        ledger, accounts = completeness(reader, survey, everything=True, limit=MAX_ACCOUNTS)
    except (JournalError, OSError):  # of another user: nothing is known of it
        journal, recorder = "unreadable", None
        ledger, accounts = completeness(reader, None, everything=True, limit=MAX_ACCOUNTS)
    return Health(ledger, {one.source: one for one in accounts}, journal, recorder)
