"""The route that says whether the record is complete."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Response
from pydantic.alias_generators import to_camel

from celery_asynctask.core.accounting import Ledger, counts
from celery_asynctask.errors import JournalError
from celery_asynctask.journal.survey import survey_of
from celery_asynctask.queries.completeness import completeness
from celery_asynctask.queries.reader import Reader
from celery_asynctask.store.tables import SCHEMA_VERSION
from celery_asynctask.web import document, schema
from celery_asynctask.web.access import Right
from celery_asynctask.web.answer import json_response
from celery_asynctask.web.service import Caller, needing

KEPT_SECONDS: Final = 5.0
"""How long a ledger is answered with: making one reads the whole journal, which may have a gigabyte."""

router: Final = APIRouter(tags=["health"])


@router.get(
    "/health",
    operation_id="health_retrieve",
    summary="Health of the record",
    response_model=schema.Health,
    response_description="The database can be read",
)
def health(caller: Annotated[Caller, Depends(needing(Right.READ))]) -> Response:
    """Whether the database can be read, and what became of every event that a process wrote; that is looked up every
    five seconds at most."""
    reader = caller.reader
    reader.check_schema()
    ledger = None
    if caller.access.customers is None:  # events are of processes, not of customers
        ledger = caller.service.ledger.get(partial(_ledger, reader, caller.service.settings.directory), KEPT_SECONDS)
    return json_response(document.document({"schema_version": SCHEMA_VERSION, "ledger": ledger}))


def _ledger(reader: Reader, directory: Path) -> dict[str, Any]:
    try:
        return _told(completeness(reader, survey_of(directory)).ledger)
    except (JournalError, OSError):  # of another user: nothing is known of it
        return _told(completeness(reader, None).ledger)


def _told(ledger: Ledger) -> dict[str, Any]:
    return {
        "complete": ledger.complete,
        "sentence": ledger.sentence(),
        "processes": ledger.processes,
        **{to_camel(name): value for name, value in counts(ledger).items()},
        "unknown": dict(ledger.unknown),
    }
