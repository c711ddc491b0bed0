"""The route that says whether the record is complete."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Response

from celery_asynctask.core.accounting import Ledger, counts
from celery_asynctask.core.rights import Right
from celery_asynctask.store.tables import SCHEMA_VERSION
from celery_asynctask.web import schema
from celery_asynctask.web.answer import camel, json_response
from celery_asynctask.web.service import Caller, needing

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
        ledger = _told(caller.health().ledger)
    return json_response({"schema_version": SCHEMA_VERSION, "ledger": ledger})


def _told(ledger: Ledger) -> dict[str, object]:
    """As `schema.Ledger`."""
    return camel(
        {
            "complete": ledger.complete,
            "sentence": ledger.sentence(),
            "processes": ledger.processes,
            **counts(ledger),
            "unknown": ledger.unknown,
        }
    )
