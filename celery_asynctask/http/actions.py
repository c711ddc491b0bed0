"""The routes that do something: each needs its right, and records who did it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Response

from celery_asynctask.errors import AsyncTaskError, FilterError, logger
from celery_asynctask.http.openapi import problems
from celery_asynctask.http.tasks import TaskId, found_task
from celery_asynctask.operations import retention
from celery_asynctask.operations.purge import Purge, Purged
from celery_asynctask.operations.rerun import (
    Candidate,
    Options,
    assess,
    is_unreachable,
    link,
    prepare,
    reach_broker,
    send,
)
from celery_asynctask.operations.session import Writer
from celery_asynctask.queries.reruns import reruns, routing_keys
from celery_asynctask.queries.search.page import MOST_LOOKED_AT
from celery_asynctask.queries.task import exact
from celery_asynctask.store.models import AsyncTask
from celery_asynctask.web import document, schema
from celery_asynctask.web.access import Right
from celery_asynctask.web.answer import json_response
from celery_asynctask.web.parameters import in_values, searched
from celery_asynctask.web.problem import ProblemError, invalid
from celery_asynctask.web.service import Caller, needing

MOST_PURGED: Final = 20_000
"""Tasks that one request deletes: a few seconds of work."""
MOST_COUNTED: Final = 1_000_000
"""Tasks that a dry run looks at."""
REMEDIES: Final = {"again": "`again` sends it once more", "unfinished": "`unfinished` sends it all the same"}
"""By field of `Options`, what who asks the API does who wants it all the same."""

router: Final = APIRouter(tags=["async-tasks"])


@router.post(
    "/async-tasks/{id}/rerun",
    operation_id="async_tasks_rerun",
    summary="Send a task again",
    response_model=schema.Rerun,
    responses={201: {"model": schema.Rerun, "description": "It was sent"}, **problems(404, 409, 413)},
    response_description="What would be sent",
)
def rerun(
    caller: Annotated[Caller, Depends(needing(Right.RERUN))], task_id: TaskId, asked: schema.RerunRequest
) -> Response:
    """Send a recorded task again, with the arguments that were recorded: a new execution, linked to the old one by its
    content (rerun_of, rerun_by). It is the task alone: what followed it in a workflow is not sent. A number that is the
    `id` of one task and the Celery id of another sends neither."""
    how = Options(unfinished=asked.unfinished, again=asked.again)
    with caller.reader.session() as session:
        task = _meant(caller, session, task_id)
    if asked.dry_run:
        one = preview(caller, task, how)
        if one.refusals:
            raise _refused(one.refusals)
        return _sent(one, None, 200)
    one, new = send_again(caller, task, how, caller.access.name or "HTTP API")
    return _sent(one, new, 201)


def _meant(caller: Caller, session: Any, task_id: str) -> AsyncTask:
    """The one task that has this `id` or Celery id. Raises `ProblemError`."""
    task: AsyncTask = found_task(caller, session, task_id)
    other = exact(caller.reader, session, task_id)
    if other is None or other.id == task.id:
        return task
    detail = (
        f"{task_id} is the `id` of the task {task.celery_task_id!r}, and the Celery id of the task with the `id` "
        f"{other.id}. Ask by the other id of the one that is meant."
    )
    raise ProblemError("refused", 409, detail)


def preview(caller: Caller, task: AsyncTask, how: Options, remedies: Mapping[str, str] = REMEDIES) -> Candidate:
    """What sending a task again would mean. Raises `ProblemError` where this server cannot."""
    with _set_up():
        prepare(caller.service.celery)
    one = _candidate(caller, task, how, remedies)
    if not one.refusals and not how.again and one.task.celery_task_id in caller.service.sent:
        return one._replace(refusals=_just_sent(remedies))
    return one


def send_again(
    caller: Caller, task: AsyncTask, how: Options, by: str, remedies: Mapping[str, str] = REMEDIES
) -> tuple[Candidate, str]:
    """Send a task again, for ``by``; what was sent, and its new task id. Raises `ProblemError` where it was not."""
    app = caller.service.celery
    with _set_up():
        prepare(app)
    one = _candidate(caller, task, how, remedies)
    if one.refusals:
        raise _refused(one.refusals)
    with _set_up():
        link(app)
    sent, original = caller.service.sent, one.task.celery_task_id
    is_first = sent.add(original)
    if not is_first and not how.again:
        raise _refused(_just_sent(remedies))
    try:
        return one, _send(app, one, by)
    except ProblemError:
        if is_first:
            sent.discard(original)
        raise


def _just_sent(remedies: Mapping[str, str]) -> Sequence[str]:
    return (f"it was sent again a moment ago ({remedies['again']})",)


@contextmanager
def _set_up() -> Iterator[None]:
    """Answer what this server is not set up for; how it is, is not for those who ask."""
    try:
        yield
    except AsyncTaskError as exc:
        logger.error("Nothing is sent again over HTTP: %s", exc)
        detail = "This server is not set up to send tasks again. Its log says why."
        raise ProblemError("refused", 409, detail) from exc


def _refused(why: Sequence[str]) -> ProblemError:
    return ProblemError("refused", 409, f"It is not sent again: {'; '.join(why)}.")


def _send(app: Any, one: Candidate, by: str) -> str:
    """The new task id. Raises `ProblemError`."""
    try:
        reach_broker(app)
    except AsyncTaskError as exc:
        raise _unsent(one, exc, away=True) from exc
    try:
        return send(app, one, by)
    except Exception as exc:
        raise _unsent(one, exc, away=is_unreachable(app, exc)) from exc


def _unsent(one: Candidate, exc: Exception, *, away: bool) -> ProblemError:
    logger.error("%s could not be sent again: %s: %s", one.task.celery_task_id, type(exc).__name__, exc)
    if away:
        detail = "It could not be sent. The server's log says why."
        return ProblemError("broker-unavailable", 503, detail, headers={"Retry-After": "5"})
    why = "its arguments cannot be serialized, or the app does not want it sent like this. The server's log says which"
    return _refused([why])


def _candidate(caller: Caller, task: AsyncTask, how: Options, remedies: Mapping[str, str]) -> Candidate:
    with caller.reader.session() as session:
        before = reruns(caller.reader, session, [task])
        came_by = routing_keys(session, [task]).get(task.celery_task_id)
    earlier = before.by_task.get(task.celery_task_id, ())
    values = caller.access.may(Right.PAYLOADS)
    one = assess(caller.service.celery, task, how, earlier, came_by, remedies, values=values)
    if before.looked_back_to is None:
        return one
    since = f"{before.looked_back_to.astimezone(dt.timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
    bounded = f"earlier reruns were looked for in the newest {MOST_LOOKED_AT:,} tasks of its name alone, since {since}"
    return one._replace(remarks=[*one.remarks, bounded])


def _sent(one: Candidate, new: str | None, status: int) -> Response:
    body = document.document(
        {
            "celery_task_id": new,
            "rerun_of": one.task.celery_task_id,
            "queue": one.queue,
            "remarks": list(one.remarks),
        }
    )
    return json_response(body, status)


@router.post(
    "/async-tasks/purge",
    operation_id="async_tasks_purge",
    summary="Delete old tasks",
    response_model=schema.Purge,
    responses=problems(413),
    response_description="What was deleted, or would be",
)
def purge(caller: Annotated[Caller, Depends(needing(Right.PURGE))], asked: schema.PurgeRequest) -> Response:
    """Delete tasks that were over so long ago, with their attempts; only counts them unless `dryRun` is false. Deletes
    some thousands at once: ask again until it is complete. Counts among a million tasks and no more."""
    terms, _ = searched(asked.search, caller.now)
    if in_values(terms):
        caller.need(Right.PAYLOADS, "search")
    try:
        rules = retention.older_than(asked.older_than, asked.search, caller.now)
    except FilterError as exc:
        raise invalid("olderThan", str(exc)) from None
    _ = caller.reader  # has looked at the tables
    due = None
    with closing(Writer(caller.service.settings)) as writer:
        work = Purge(writer, rules, caller.now, unfinished=asked.unfinished, customers=caller.access.customers)
        if asked.dry_run:
            due = sum(count.due for count in work.count(_unheard, most=MOST_COUNTED))
        else:
            try:
                work.run(_unheard, most=MOST_PURGED)
            finally:  # where it was broken off, what it had deleted is
                _note(caller, work.purged, rules[0])
    tasks, attempts, *_ = work.purged
    return json_response(
        document.document({"due": due, "tasks": tasks, "attempts": attempts, "complete": work.complete})
    )


def _note(caller: Caller, purged: Purged, rule: retention.Rule) -> None:
    """Nothing that is left says who did it. Of the search its keys, for what it looks for are values."""
    keys = sorted({term.key for term in rule.search.terms})
    logger.warning(
        "%r deleted %d tasks and %d attempts over HTTP: older than %s%s.",
        caller.access.name or "HTTP API",
        purged.tasks,
        purged.attempts,
        retention.in_words(rule.age),
        f", found by {', '.join(keys)}" if keys else "",
    )


def _unheard(_done: int) -> None:
    """Nobody looks at the progress."""
