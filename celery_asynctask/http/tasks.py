"""The routes that read tasks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Annotated, Final, TypeVar

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic.json_schema import SkipJsonSchema

from celery_asynctask.core.rights import Right
from celery_asynctask.errors import FilterError
from celery_asynctask.http.openapi import problems
from celery_asynctask.http.route import ReadingRoute
from celery_asynctask.queries.reader import Reader, task_columns
from celery_asynctask.queries.search.page import Page, page
from celery_asynctask.queries.statistics.names import Statistics, statistics, with_time
from celery_asynctask.queries.task import MOST_ATTEMPTS, attempt_rows
from celery_asynctask.queries.types import Connection, Session, TaskRow
from celery_asynctask.queries.workflow.members import Workflow, workflow
from celery_asynctask.queries.workflow.tree import Placed, lineage
from celery_asynctask.web import document, schema
from celery_asynctask.web.parameters import PageSearch, Search, Understood, understood
from celery_asynctask.web.problem import invalid
from celery_asynctask.web.service import Caller, needing
from celery_asynctask.web.task import found_task

S = TypeVar("S")
Reading = Annotated[Caller, Depends(needing(Right.READ))]
TaskId = Annotated[
    str, Path(alias="id", description="`id` of a task, or its Celery task UUID", min_length=1, max_length=255)
]


def _if_none_match(
    _tag: Annotated[
        str | SkipJsonSchema[None],
        Header(alias="If-None-Match", description="`ETag` of an answer that the client has: 304 where it still holds"),
    ] = None,
) -> None:
    """For the document; `Answers` reads the header."""


_MINUTE: Final = dt.timedelta(minutes=1)
_ETAG: Final = {"ETag": {"description": "Of this answer, for If-None-Match", "schema": {"type": "string"}}}
router: Final = APIRouter(
    tags=["async-tasks"],
    route_class=ReadingRoute,
    dependencies=[Depends(_if_none_match)],
    responses={200: {"headers": _ETAG}, 304: {"description": "The client has it", "headers": _ETAG}},
)


@router.get(
    "/async-tasks",
    operation_id="async_tasks_list",
    summary="List tasks",
    response_model=schema.AsyncTaskPage,
    response_description="A page of tasks",
)
async def list_tasks(request: Request, caller: Reading, asked: Annotated[PageSearch, Query()]) -> Response:
    """Tasks that a search finds, newest first. Without the right `payloads` their values are left out."""
    search = _searched(caller, asked)
    order = asked.order
    values = caller.access.may(Right.PAYLOADS)

    def make(session: Connection) -> str:
        columns = task_columns(caller.reader.dialect, values=values, naive=True)
        try:
            found = page(
                caller.reader,
                search.filter,
                limit=asked.limit,
                after=asked.cursor,
                order=order,
                columns=columns,
                session=session,
            )
        except FilterError as exc:
            raise invalid("cursor", str(exc)) from None
        return _page(found, values)

    return await _answer(request, caller, make, Reader.connection, lasting=not search.relative)


def _page(found: Page, values: bool) -> str:
    rows: Sequence[TaskRow] = found.tasks
    return document.document(
        {"next": found.next, "complete": found.looked_back_to is None, "looked_back_to": found.looked_back_to},
        results=document.array(document.task(row, values=values) for row in rows),
    )


@router.get(
    "/async-tasks/stats",
    operation_id="async_tasks_stats",
    summary="Statistics by name",
    response_model=schema.AsyncTaskStatistics,
    response_description="Statistics of each name",
)
async def stats(request: Request, caller: Reading, asked: Annotated[Search, Query()]) -> Response:
    """How the tasks of each name do, of those that a search finds: of the last day where it names no time."""
    search = _searched(caller, asked)
    end = caller.now.replace(second=0, microsecond=0) + _MINUTE  # the same for who asks every second
    wanted = with_time(search.filter, end)

    def make(session: Session) -> str:
        return _statistics(statistics(caller.reader, wanted, end, session=session))

    return await _answer(request, caller, make, Reader.session, end, lasting=not search.relative)


def _statistics(found: Statistics) -> str:
    results = [
        {
            "name": one.name,
            "tasks": one.tasks,
            "failed": one.failed,
            "failureRate": one.failure_rate,
            "retries": one.retries,
            "perMinute": found.per_minute(one),
            "wait": one.wait._asdict(),
            "run": one.run._asdict(),
        }
        for one in found.names
    ]
    return document.document(
        {
            "results": results,
            "since": found.since,
            "until": found.until,
            "complete": found.looked_back_to is None,
            "looked_back_to": found.looked_back_to,
        }
    )


@router.get(
    "/async-tasks/{id}",
    operation_id="async_tasks_retrieve",
    summary="One task",
    response_model=schema.AsyncTask,
    response_description="The task",
    responses=problems(404),
)
async def retrieve(request: Request, caller: Reading, task_id: TaskId) -> Response:
    """One task, by its `id` or its Celery task UUID."""
    values = caller.access.may(Right.PAYLOADS)

    def make(session: Connection) -> str:
        columns = task_columns(caller.reader.dialect, values=values, naive=True)
        return document.task(found_task(caller, session, task_id, columns), values=values)

    return await _answer(request, caller, make, partial(Reader.connection, consistent=False))


@router.get(
    "/async-tasks/{id}/attempts",
    operation_id="async_tasks_attempts",
    summary="Attempts of a task",
    response_model=schema.AsyncTaskAttempts,
    response_description="Its attempts",
    responses=problems(404),
)
async def attempts(request: Request, caller: Reading, task_id: TaskId) -> Response:
    """The runs of a task's body."""

    def make(session: Session) -> str:
        rows = attempt_rows(caller.reader, session, found_task(caller, session, task_id))
        shown = document.array(map(document.attempt, rows[:MOST_ATTEMPTS]))
        return document.document({"complete": len(rows) <= MOST_ATTEMPTS}, results=shown)

    return await _answer(request, caller, make, Reader.session)


@router.get(
    "/async-tasks/{id}/workflow",
    operation_id="async_tasks_workflow",
    summary="Workflow of a task",
    response_model=schema.AsyncTaskWorkflow,
    response_description="All tasks of the workflow",
    responses=problems(404),
)
async def whole_workflow(request: Request, caller: Reading, task_id: TaskId) -> Response:
    """The whole workflow that a task is in: chain, group, chord, children, and steps that were never sent."""

    def make(session: Session) -> str:
        return _workflow(workflow(caller.reader, session, found_task(caller, session, task_id)))

    return await _answer(request, caller, make, Reader.session)


def _workflow(found: Workflow) -> str:
    return document.document(
        {"results": [_member(one) for one in lineage(found.members)], "complete": not found.bounded}
    )


def _member(one: Placed) -> dict[str, object]:
    member = one.member
    return {
        "celeryTaskId": member.celery_task_id,
        "parentTaskId": one.above,
        "depth": one.depth,
        "name": member.name,
        "status": member.status,
        "createdAt": member.created_at,
        "startedAt": member.started_at,
        "completedAt": member.completed_at,
        "retries": member.retries,
        "errorType": member.error_type,
        "errorMessage": member.error_message,
        "critical": one.critical,
        "planned": member.planned,
        "unsent": member.unsent,
    }


def _searched(caller: Caller, asked: Search) -> Understood:
    search = understood(asked, caller.now)
    if search.in_values:
        caller.need(Right.PAYLOADS, "search")
    return search


async def _answer(
    request: Request,
    caller: Caller,
    make: Callable[[S], str],
    read: Callable[[Reader], AbstractContextManager[S]],
    *more: Hashable,
    lasting: bool = True,
) -> Response:
    """In one of the threads for this; a path stands for its tasks, with what the query says of them."""
    scope = request.scope
    key = (caller.scope, scope["path"], scope["query_string"], *more)
    answers = caller.service.answers
    return await caller.service.run(lambda: answers.answer(request, caller.reader, key, make, read, lasting=lasting))
