"""Sending a task again for who asks a server: once, unless it is wanted again, and with a problem where it is not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from celery_asynctask.core.reasons import Code, Reason
from celery_asynctask.core.text import rfc3339
from celery_asynctask.errors import AsyncTaskError, logger
from celery_asynctask.operations import rerun
from celery_asynctask.operations.rerun import Candidate, Options
from celery_asynctask.present.reasons import reasons
from celery_asynctask.queries.reruns import reruns, routing_keys
from celery_asynctask.queries.search.page import MAX_SCANNED
from celery_asynctask.store.models import AsyncTask
from celery_asynctask.web.problem import ProblemError
from celery_asynctask.web.service import Caller

_JUST_SENT: Final = Reason(Code.JUST_SENT, remedy="again")


def preview(caller: Caller, task: AsyncTask, how: Options) -> Candidate:
    """What sending a task again would mean. Raises `ProblemError` where this server cannot."""
    one = _candidate(caller, task, how)
    if not one.refusals and not how.again and task.celery_task_id in caller.service.sent:
        return one._replace(refusals=[_JUST_SENT])
    return one


def send_again(
    caller: Caller, task: AsyncTask, how: Options, by: str, remedies: Mapping[str, str]
) -> tuple[Candidate, str]:
    """Send a task again, for ``by``; what was sent, and its new task id. Raises `ProblemError` where it was not."""
    app, sent = caller.service.celery, caller.service.sent
    one = _candidate(caller, task, how)
    if one.refusals:
        raise refused(one.refusals, remedies)
    with _set_up():
        rerun.link(app)
    is_first = sent.add(task.celery_task_id)
    if not is_first and not how.again:
        raise refused([_JUST_SENT], remedies)
    try:
        return one, _send(app, one, by)
    except ProblemError:
        if is_first:
            sent.discard(task.celery_task_id)
        raise


@contextmanager
def _set_up() -> Iterator[None]:
    """Answer what this server is not set up for; how it is, is not for those who ask."""
    try:
        yield
    except AsyncTaskError as exc:
        logger.error("No task is rerun over HTTP: %s", exc)
        detail = "This server is not set up to rerun tasks. Its log says why."
        raise ProblemError("refused", 409, detail) from exc


def refused(why: Iterable[Reason], remedies: Mapping[str, str] = {}) -> ProblemError:
    """A task is not sent again. ``remedies`` as in `present.reasons.reason`."""
    return ProblemError("refused", 409, f"Not rerun: {'; '.join(reasons(why, remedies))}.")


def _send(app: Any, one: Candidate, by: str) -> str:
    """The new task id. Raises `ProblemError`."""
    is_reached = False
    try:
        rerun.reach_broker(app)
        is_reached = True
        return rerun.send(app, one, by)
    except Exception as exc:
        logger.error("%s could not be rerun: %s: %s", one.task.celery_task_id, type(exc).__name__, exc)
        if is_reached and not rerun.is_unreachable(app, exc):
            raise refused([Reason(Code.UNSENDABLE)]) from exc
        detail = "Not rerun: the broker could not be reached. The server's log says why; try again later."
        raise ProblemError("broker-unavailable", 503, detail, headers={"Retry-After": "5"}) from exc


def _candidate(caller: Caller, task: AsyncTask, how: Options) -> Candidate:
    """Raises `ProblemError` where this server cannot send anything."""
    app = caller.service.celery
    with _set_up():
        rerun.prepare(app)
    with caller.reader.session() as session:
        before = reruns(caller.reader, session, [task])
        came_by = routing_keys(session, [task]).get(task.celery_task_id)
    earlier = before.by_task.get(task.celery_task_id, ())
    one = rerun.assess(app, task, how, earlier, came_by, values=caller.payloads)
    if before.looked_back_to is None:
        return one
    bounded = Reason(Code.BOUNDED, {"tasks": MAX_SCANNED, "since": rfc3339(before.looked_back_to)})
    return one._replace(remarks=[*one.remarks, bounded])
