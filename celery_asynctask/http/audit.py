"""The route that shows who did what."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Response

from celery_asynctask.core.rights import Right
from celery_asynctask.queries.audit import page
from celery_asynctask.web import schema
from celery_asynctask.web.answer import array, document
from celery_asynctask.web.parameters import AuditSearch, bounded
from celery_asynctask.web.problem import ProblemError
from celery_asynctask.web.service import Caller, needing

router: Final = APIRouter(tags=["audit"])
_PARAMETERS: Final = tuple(str(field.alias) for field in AuditSearch.model_fields.values())


@router.get(
    "/audit",
    operation_id="audit_list",
    summary="Who did what",
    response_model=schema.AuditPage,
    response_description="A page of entries",
)
async def audit(
    caller: Annotated[Caller, Depends(needing(Right.AUDIT, *_PARAMETERS))], search: Annotated[AuditSearch, Query()]
) -> Response:
    """Entries of the audit, newest first: sign-ins, reruns, purges, erasures and exports, by commands and over HTTP.
    Only callers who see all tasks see them."""
    if not caller.sees_all:
        detail = "Entries belong to no customer: only callers who see all tasks see them."
        raise ProblemError("forbidden", 403, detail)
    return await caller.run(partial(_audit, caller, search))


def _audit(caller: Caller, search: AuditSearch) -> Response:
    found = page(
        caller.reader,
        since=search.since and bounded(search.since),
        actor=search.actor,
        action=search.action and search.action.value,
        before=None if search.cursor is None else int(search.cursor),
        limit=search.limit,
    )
    following = None if found.next is None else str(found.next)
    results = array(document(schema.AuditEntry.of(entry)) for entry in found.entries)
    return Response(document({"next": following}, results=results), media_type="application/json")
