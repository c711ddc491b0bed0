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

from celery_asynctask.core.limits import MAX_ID_TEXT
from celery_asynctask.core.rights import Right
from celery_asynctask.errors import FilterError
from celery_asynctask.http.openapi import problems
from celery_asynctask.queries.reader import Reader, task_columns
from celery_asynctask.queries.search.page import page
from celery_asynctask.queries.statistics.names import statistics, with_time
from celery_asynctask.queries.task import MAX_ATTEMPTS, attempt_rows, exact, number_of
from celery_asynctask.queries.types import Connection, Session, TaskColumns, TaskRow
from celery_asynctask.queries.workflow.members import workflow
from celery_asynctask.queries.workflow.tree import Placed, lineage
from celery_asynctask.store.models import AsyncTask
from celery_asynctask.web import schema
from celery_asynctask.web.answer import array, attempt_document, document, task_document
from celery_asynctask.web.parameters import PageSearch, ParsedSearch, Search, parse_search
from celery_asynctask.web.problem import invalid, not_found
from celery_asynctask.web.service import Caller, caller_of, needing, query_of

S = TypeVar("S")
Reading = Annotated[Caller, Depends(needing(Right.READ))]
TaskId = Annotated[
    str, Path(alias="id", description="`id` of a task, or its Celery task UUID", min_length=1, max_length=255)
]
Whose = Annotated[
    str | SkipJsonSchema[None],
    Query(
        alias="customer",
        description="Customer of the task, where several use its UUID; empty: none. By default the newest",
        max_length=MAX_ID_TEXT,
        json_schema_extra={"format": "asynctask-id"},
    ),
]


def _if_none_match(
    _tag: Annotated[
        str | SkipJsonSchema[None],
        Header(alias="If-None-Match", description="`ETag` of the answer that the client has; 304 if it is unchanged"),
    ] = None,
) -> None:
    """The header in the document; `Answers` reads it."""


class ReadingRoute(APIRoute):
    """Reads the query itself; FastAPI only documents it: to look for each parameter of a search and to call each
    dependency takes FastAPI a quarter of the time of an answer.

    Its function takes the request, the caller, who may read, and either ``search``, a model of the query, or
    ``task_id``, the ``id`` in the path, and the customer in the query."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[object, object, Response]]:
        """The coroutine that answers a request."""
        function = self.endpoint
        hints = get_type_hints(function, include_extras=True)
        is_search = "search" in hints
        parameter: TypeAdapter[object] = TypeAdapter(hints["search" if is_search else "task_id"])
        place = ("query",) if is_search else ("path", "id")
        fields = hints["search"].__origin__.model_fields.values() if is_search else ()
        known = {field.alias: get_origin(field.annotation) is list for field in fields} or {"customer": False}

        async def answer(request: Request) -> Response:
            caller = await caller_of(request, Right.READ)
            query = query_of(request, known)
            try:
                value = parameter.validate_python(query if is_search else request.path_params["id"])
            except ValidationError as exc:
                errors = [{**error, "loc": (*place, *error["loc"])} for error in exc.errors()]
                raise RequestValidationError(errors) from None
            more = () if is_search else (query.get("customer"),)
            response: Response = await function(request, caller, value, *more)
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
async def list_tasks(request: Request, caller: Reading, search: Annotated[PageSearch, Query()]) -> Response:
    """Tasks that match a search, newest first. Without the right `payloads` their values are left out, without `errors`
    their error messages."""
    parsed = _parsed(caller, search)
    parts = caller.parts

    def make(session: Connection) -> str:
        try:
            rows = page(
                caller.reader,
                session,
                parsed.filter,
                limit=search.limit,
                after=search.cursor,
                order=search.order,
                columns=task_columns(caller.reader.dialect, parts, naive=True),
            )
        except FilterError as exc:
            raise invalid("cursor", str(exc)) from None
        return document(
            {"next": rows.next, "complete": rows.looked_back_to is None, "looked_back_to": rows.looked_back_to},
            results=array(task_document(row, parts) for row in rows.tasks),
        )

    return await _answer(request, caller, make, Reader.connection, cacheable=not parsed.relative)


@router.get(
    "/async-tasks/stats",
    operation_id="async_tasks_stats",
    summary="Statistics by name",
    response_model=schema.AsyncTaskStatistics,
    response_description="Statistics of each name",
)
async def stats(request: Request, caller: Reading, search: Annotated[Search, Query()]) -> Response:
    """Statistics of the tasks that match a search, by name; of the last 24 hours if the search names no time."""
    parsed = _parsed(caller, search)
    end = caller.this_minute
    within = with_time(parsed.filter, end)

    def make(session: Session) -> str:
        total = statistics(caller.reader, session, within, end)
        shape = schema.AsyncTaskNameStatistics
        results = [
            shape.of(name, per_minute=total.per_minute(name), wait=name.wait._asdict(), run=name.run._asdict())
            for name in total.names
        ]
        complete = total.looked_back_to is None
        return document(schema.AsyncTaskStatistics.of(total, results=results, complete=complete))

    return await _answer(request, caller, make, Reader.session, end, cacheable=not parsed.relative)


@router.get(
    "/async-tasks/{id}",
    operation_id="async_tasks_retrieve",
    summary="One task",
    response_model=schema.AsyncTask,
    response_description="The task",
    responses=problems(404),
)
async def retrieve(request: Request, caller: Reading, task_id: TaskId, customer: Whose = None) -> Response:
    """One task, by its `id` or its Celery task UUID."""
    parts = caller.parts

    def make(session: Connection) -> str:
        columns = task_columns(caller.reader.dialect, parts, naive=True)
        return task_document(found_task(caller, session, task_id, customer, columns), parts)

    return await _answer(request, caller, make, partial(Reader.connection, consistent=False))


@router.get(
    "/async-tasks/{id}/attempts",
    operation_id="async_tasks_attempts",
    summary="Attempts of a task",
    response_model=schema.AsyncTaskAttempts,
    response_description="Its attempts",
    responses=problems(404),
)
async def attempts(request: Request, caller: Reading, task_id: TaskId, customer: Whose = None) -> Response:
    """The attempts of a task: one for each run of its body. If its UUID was used again, those of earlier executions
    come first."""

    def make(session: Session) -> str:
        task = found_task(caller, session, task_id, customer)
        rows = attempt_rows(caller.reader, session, task, caller.parts)
        results = array(attempt_document(row, task.order_key, caller.parts) for row in rows[:MAX_ATTEMPTS])
        return document({"complete": len(rows) <= MAX_ATTEMPTS}, results=results)

    return await _answer(request, caller, make, Reader.session)


@router.get(
    "/async-tasks/{id}/workflow",
    operation_id="async_tasks_workflow",
    summary="Workflow of a task",
    response_model=schema.AsyncTaskWorkflow,
    response_description="All tasks of the workflow",
    responses=problems(404),
)
async def workflow_of(request: Request, caller: Reading, task_id: TaskId, customer: Whose = None) -> Response:
    """The workflow of a task: chains, groups, chords, children, and steps that were never sent."""

    def make(session: Session) -> str:
        tasks = workflow(caller.reader, session, found_task(caller, session, task_id, customer))
        results = [_member(caller, placed) for placed in lineage(tasks.members)]
        return document({"results": results, "complete": not tasks.bounded})

    return await _answer(request, caller, make, Reader.session)


def _member(caller: Caller, placed: Placed) -> dict[str, object]:
    above = placed.above and placed.above[0]
    shape = schema.AsyncTaskMember
    member = shape.of(placed.member, parent_task_id=above, depth=placed.depth, critical=placed.critical)
    if not caller.errors:
        del member["errorMessage"]
    return member


def _parsed(caller: Caller, search: Search) -> ParsedSearch:
    """Raises `ProblemError`, also where the search reads what the caller may not see."""
    parsed = parse_search(search, caller.now)
    caller.may_search(parsed.filter.terms)
    return parsed


async def _answer(
    request: Request,
    caller: Caller,
    make: Callable[[S], str],
    read: Callable[[Reader], AbstractContextManager[S]],
    *depends: Hashable,
    cacheable: bool = True,
) -> Response:
    """The answer that ``make`` makes, in a thread of the service. ``depends``: what it depends on besides the caller,
    the path and the query."""
    seen = (caller.access.scope, caller.parts)  # callers who see the same get the same answer
    key = (seen, request.scope["path"], request.scope["query_string"], *depends)
    answers = caller.service.answers
    return await caller.run(lambda: answers.answer(request, caller.reader, key, make, read, cacheable=cacheable))


@overload
def found_task(caller: Caller, session: Session, task_id: str, customer: str | None) -> AsyncTask: ...
@overload
def found_task(
    caller: Caller, session: Session | Connection, task_id: str, customer: str | None, columns: TaskColumns
) -> TaskRow: ...
def found_task(
    caller: Caller,
    session: Session | Connection,
    task_id: str,
    customer: str | None,
    columns: TaskColumns | None = None,
) -> AsyncTask | TaskRow:
    """The task with this `id` or Celery id, of the ``customer`` where one is given; its ``columns`` where they are
    given. Raises `ProblemError`."""
    task: AsyncTask | TaskRow | None = exact(caller.whose(customer), session, task_id, number_of(task_id), columns)
    if task is None:
        raise not_found(f"No task has the id {task_id[:80]!r}.")
    return task
