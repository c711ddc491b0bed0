"""The routes that read tasks."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from contextlib import AbstractContextManager
from functools import partial
from typing import Annotated, Final, TypeVar, get_origin, get_type_hints, overload

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from pydantic.json_schema import SkipJsonSchema

from celery_asynctask.core.rights import Right
from celery_asynctask.errors import FilterError
from celery_asynctask.http.openapi import problems
from celery_asynctask.queries.reader import Reader, task_columns
from celery_asynctask.queries.search.page import page
from celery_asynctask.queries.statistics.names import statistics, with_time
from celery_asynctask.queries.task import MAX_ATTEMPTS, attempt_rows, exact, number_of
from celery_asynctask.queries.types import Connection, Session, TaskColumns, TaskRow
from celery_asynctask.queries.workflow.members import workflow
from celery_asynctask.queries.workflow.tree import lineage
from celery_asynctask.store.models import AsyncTask
from celery_asynctask.web import schema
from celery_asynctask.web.answer import array, attempt_document, document, task_document
from celery_asynctask.web.parameters import PageSearch, ParsedSearch, Search, in_values, parse_search
from celery_asynctask.web.problem import invalid, not_found
from celery_asynctask.web.service import Caller, caller_of, needing, query_of

S = TypeVar("S")
Reading = Annotated[Caller, Depends(needing(Right.READ))]
TaskId = Annotated[
    str, Path(alias="id", description="`id` of a task, or its Celery task UUID", min_length=1, max_length=255)
]


def _if_none_match(
    _tag: Annotated[
        str | SkipJsonSchema[None],
        Header(alias="If-None-Match", description="`ETag` of the answer that the client has; 304 if it is unchanged"),
    ] = None,
) -> None:
    """For the document; `Answers` reads the header."""


class ReadingRoute(APIRoute):
    """Reads the query itself; FastAPI only documents it. FastAPI takes a quarter of the time of an answer to look for
    each parameter of a search and to call each dependency.

    Its function takes the request, the caller, who may read, and one thing more: ``asked``, a model of the query, or
    ``task_id``, the ``id`` in the path."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[object, object, Response]]:
        """What answers."""
        function = self.endpoint
        hints = get_type_hints(function, include_extras=True)
        is_search = "asked" in hints
        wanted: TypeAdapter[object] = TypeAdapter(hints["asked" if is_search else "task_id"])
        place = ("query",) if is_search else ("path", "id")
        fields = hints["asked"].__origin__.model_fields.values() if is_search else ()
        known = {one.alias: get_origin(one.annotation) is list for one in fields}

        async def answer(request: Request) -> Response:
            caller = await caller_of(request, Right.READ)
            query = query_of(request, known)
            try:
                asked = wanted.validate_python(query if is_search else request.path_params["id"])
            except ValidationError as exc:
                raise RequestValidationError([{**one, "loc": (*place, *one["loc"])} for one in exc.errors()]) from None
            response: Response = await function(request, caller, asked)
            return response

        return answer


_ETAG: Final = {"ETag": {"description": "Tag of this answer, for If-None-Match", "schema": {"type": "string"}}}
router: Final = APIRouter(
    tags=["async-tasks"],
    route_class=ReadingRoute,
    dependencies=[Depends(_if_none_match)],
    responses={200: {"headers": _ETAG}, 304: {"description": "Unchanged: the client has the answer", "headers": _ETAG}},
)


@router.get(
    "/async-tasks",
    operation_id="async_tasks_list",
    summary="List tasks",
    response_model=schema.AsyncTaskPage,
    response_description="A page of tasks",
)
async def list_tasks(request: Request, caller: Reading, asked: Annotated[PageSearch, Query()]) -> Response:
    """Tasks that match a search, newest first. Without the right `payloads` their values are left out."""
    search = _searched(caller, asked)
    values = caller.payloads

    def make(session: Connection) -> str:
        try:
            found = page(
                caller.reader,
                session,
                search.filter,
                limit=asked.limit,
                after=asked.cursor,
                order=asked.order,
                columns=task_columns(caller.reader.dialect, values=values, naive=True),
            )
        except FilterError as exc:
            raise invalid("cursor", str(exc)) from None
        return document(
            {"next": found.next, "complete": found.looked_back_to is None, "looked_back_to": found.looked_back_to},
            results=array(task_document(row, values=values) for row in found.tasks),
        )

    return await _answer(request, caller, make, Reader.connection, cacheable=not search.relative)


@router.get(
    "/async-tasks/stats",
    operation_id="async_tasks_stats",
    summary="Statistics by name",
    response_model=schema.AsyncTaskStatistics,
    response_description="Statistics of each name",
)
async def stats(request: Request, caller: Reading, asked: Annotated[Search, Query()]) -> Response:
    """Statistics of the tasks that match a search, by name; of the last 24 hours if the search names no time."""
    search = _searched(caller, asked)
    end = caller.this_minute
    wanted = with_time(search.filter, end)

    def make(session: Session) -> str:
        found = statistics(caller.reader, session, wanted, end)
        shown = schema.AsyncTaskNameStatistics
        results = [
            shown.of(one, per_minute=found.per_minute(one), wait=one.wait._asdict(), run=one.run._asdict())
            for one in found.names
        ]
        complete = found.looked_back_to is None
        return document(schema.AsyncTaskStatistics.of(found, results=results, complete=complete))

    return await _answer(request, caller, make, Reader.session, end, cacheable=not search.relative)


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
    values = caller.payloads

    def make(session: Connection) -> str:
        columns = task_columns(caller.reader.dialect, values=values, naive=True)
        return task_document(found_task(caller, session, task_id, columns), values=values)

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
    """The attempts of a task: one for each run of its body."""

    def make(session: Session) -> str:
        rows = attempt_rows(caller.reader, session, found_task(caller, session, task_id))
        shown = array(map(attempt_document, rows[:MAX_ATTEMPTS]))
        return document({"complete": len(rows) <= MAX_ATTEMPTS}, results=shown)

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
    """The workflow of a task: chains, groups, chords, children, and steps that were never sent."""

    def make(session: Session) -> str:
        found = workflow(caller.reader, session, found_task(caller, session, task_id))
        results = [
            schema.AsyncTaskMember.of(one.member, parent_task_id=one.above, depth=one.depth, critical=one.critical)
            for one in lineage(found.members)
        ]
        return document({"results": results, "complete": not found.bounded})

    return await _answer(request, caller, make, Reader.session)


def _searched(caller: Caller, asked: Search) -> ParsedSearch:
    search = parse_search(asked, caller.now)
    if in_values(search.filter.terms):
        caller.need(Right.PAYLOADS, "search")
    return search


async def _answer(
    request: Request,
    caller: Caller,
    make: Callable[[S], str],
    read: Callable[[Reader], AbstractContextManager[S]],
    *more: Hashable,
    cacheable: bool = True,
) -> Response:
    """In one of the threads for this; a path stands for its tasks, with what the query says of them."""
    who = (caller.access.customers, caller.payloads)  # two callers who have these in common see the same
    key = (who, request.scope["path"], request.scope["query_string"], *more)
    answers = caller.service.answers
    return await caller.service.run(
        lambda: answers.answer(request, caller.reader, key, make, read, cacheable=cacheable)
    )


@overload
def found_task(caller: Caller, session: Session, task_id: str) -> AsyncTask: ...
@overload
def found_task(caller: Caller, session: Session | Connection, task_id: str, columns: TaskColumns) -> TaskRow: ...
def found_task(
    caller: Caller, session: Session | Connection, task_id: str, columns: TaskColumns | None = None
) -> AsyncTask | TaskRow:
    """The task, or its columns. Raises `ProblemError`."""
    found: AsyncTask | TaskRow | None = exact(caller.reader, session, task_id, number_of(task_id), columns)
    if found is None:
        raise not_found(f"No task has the id {task_id[:80]!r}.")
    return found
