"""The routes that change something. Each needs its right, and is audited."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Response

from celery_asynctask.core.rights import Right
from celery_asynctask.errors import FilterError
from celery_asynctask.http.openapi import problems
from celery_asynctask.http.tasks import TaskId, Whose, found_task
from celery_asynctask.operations import retention
from celery_asynctask.operations.audit import Action, purge_target
from celery_asynctask.operations.purge import Purge
from celery_asynctask.operations.rerun import Options
from celery_asynctask.operations.session import Writer
from celery_asynctask.present.reasons import reasons
from celery_asynctask.queries.task import exact
from celery_asynctask.queries.types import Session
from celery_asynctask.store.models import AsyncTask
from celery_asynctask.web import schema
from celery_asynctask.web.answer import json_response
from celery_asynctask.web.parameters import searched
from celery_asynctask.web.problem import ProblemError, invalid
from celery_asynctask.web.rerun import preview, refused, send_again
from celery_asynctask.web.service import Caller, needing
from celery_asynctask.web.share import PURGES

MAX_PURGED: Final = 20_000
"""Tasks that one request deletes: a few seconds of work."""
MAX_COUNTED: Final = 1_000_000
"""Tasks that a dry run checks."""
REMEDIES: Final = {"again": "`again` overrides this", "unfinished": "`unfinished` overrides this"}
"""How a caller of the API overrides a refusal, by field of `Options`."""
_DEFAULTS: Final = schema.RerunRequest.model_validate({})
"""What an empty body means."""

router: Final = APIRouter(tags=["async-tasks"])


@router.post(
    "/async-tasks/{id}/rerun",
    operation_id="async_tasks_rerun",
    summary="Rerun a task",
    response_model=schema.Rerun,
    responses={201: {"model": schema.Rerun, "description": "The rerun was sent"}, **problems(404, 409, 413)},
    response_description="What would be sent",
)
async def rerun(
    caller: Annotated[Caller, Depends(needing(Right.RERUN, "customer"))],
    task_id: TaskId,
    customer: Whose = None,
    body: schema.RerunRequest = _DEFAULTS,
) -> Response:
    """Rerun a task with its recorded arguments: a new execution, linked to the original by its content (rerun_of,
    rerun_by). Later steps of its workflow are not sent. An empty body means `{}`. A number that is the `id` of one task
    and the Celery id of another reruns neither."""
    return await caller.run(partial(_rerun, caller, task_id, customer, body))


def _rerun(caller: Caller, task_id: str, customer: str | None, body: schema.RerunRequest) -> Response:
    options = Options(unfinished=body.unfinished, again=body.again)
    with caller.reader.session() as session:
        task = _unambiguous(caller, session, task_id, customer)
    new_id = None
    if body.dry_run:
        candidate = preview(caller, task, options)
        if candidate.refusals:
            raise refused(candidate.refusals, REMEDIES)
    else:
        candidate, new_id = send_again(caller, task, options, caller.access.name or "HTTP API", REMEDIES)
    fields = {
        "celery_task_id": new_id,
        "rerun_of": candidate.task.celery_task_id,
        "remarks": reasons(candidate.remarks),
    }
    return json_response(schema.Rerun.of(candidate, **fields), 200 if new_id is None else 201)


def _unambiguous(caller: Caller, session: Session, task_id: str, customer: str | None) -> AsyncTask:
    """The task with this `id` or Celery id, of the ``customer`` where one is given. Raises `ProblemError` where there
    is none, or one of each."""
    task = found_task(caller, session, task_id, customer)
    other: AsyncTask | None = exact(caller.whose(customer), session, task_id)
    if other is None or other.id == task.id or other.celery_task_id == task.celery_task_id:
        return task
    detail = (
        f"{task_id} is the `id` of the task {task.celery_task_id!r}, and the Celery id of the task with the `id` "
        f"{other.id}. Use the other id of the task that you mean."
    )
    raise ProblemError("refused", 409, detail)


@router.post(
    "/async-tasks/purge",
    operation_id="async_tasks_purge",
    summary="Delete old tasks",
    response_model=schema.Purge,
    responses=problems(413),
    response_description="What was deleted, or would be",
)
async def purge(caller: Annotated[Caller, Depends(needing(Right.PURGE))], body: schema.PurgeRequest) -> Response:
    """Delete tasks that ended before the given age, with their attempts; only counts them unless `dryRun` is false. One
    request deletes at most 20,000 tasks: repeat it until `complete` is true. A count covers at most a million tasks."""
    caller.take(PURGES)
    return await caller.run(partial(_purge, caller, body))


def _purge(caller: Caller, body: schema.PurgeRequest) -> Response:
    terms, _ = searched(body.search, caller.now)
    try:
        caller.may_search(terms)
    except ProblemError as exc:
        caller.service.refused(caller.entry(Action.PURGE, detail=exc.kind))
        raise
    try:
        rules = retention.older_than(body.older_than, body.search, caller.now)
    except FilterError as exc:
        raise invalid("olderThan", str(exc)) from None
    _ = caller.reader  # checks the schema
    due = None
    with closing(Writer(caller.service.settings)) as writer:
        work = Purge(writer, rules, caller.now, unfinished=body.unfinished, scope=caller.access.scope)
        if body.dry_run:
            due = sum(count.due for count in work.count(_no_progress, limit=MAX_COUNTED))
        else:
            target = purge_target(rules, unfinished=body.unfinished, scope=caller.access.scope)
            with caller.service.audit.operation(caller.entry(Action.PURGE, target)) as operation:
                try:
                    work.run(_no_progress, limit=MAX_PURGED)
                finally:
                    operation.detail = work.purged.sentence
    return json_response(schema.Purge.of(work.purged, due=due, complete=work.complete))


def _no_progress(_done: int) -> None:
    """The progress of a purge, which no caller sees."""
