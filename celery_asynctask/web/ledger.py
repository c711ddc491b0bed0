"""What became of every event, for who sees all customers: events are of processes, not of customers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from pydantic.alias_generators import to_camel

from celery_asynctask.core.accounting import Ledger, counts
from celery_asynctask.errors import JournalError
from celery_asynctask.journal.survey import survey_of
from celery_asynctask.queries.completeness import completeness
from celery_asynctask.queries.reader import Reader
from celery_asynctask.web.memory import LedgerTold
from celery_asynctask.web.service import Caller

KEPT_SECONDS: Final = 5.0
"""How long a ledger is answered with: making one reads the whole journal, which may have a gigabyte."""


def ledger_of(caller: Caller) -> LedgerTold:
    """The ledger as the API has it, made anew every `KEPT_SECONDS` at most. Raises `StoreError`."""
    make = partial(_ledger, caller.reader, caller.service.settings.directory)
    return caller.service.ledger.get(make, KEPT_SECONDS)


def _ledger(reader: Reader, directory: Path) -> LedgerTold:
    try:
        return _told(completeness(reader, survey_of(directory)).ledger)
    except (JournalError, OSError):  # of another user: nothing is known of it
        return _told(completeness(reader, None).ledger)


def _told(ledger: Ledger) -> LedgerTold:
    return {
        "complete": ledger.complete,
        "sentence": ledger.sentence(),
        "processes": ledger.processes,
        **{to_camel(name): value for name, value in counts(ledger).items()},
        "unknown": dict(ledger.unknown),
    }
