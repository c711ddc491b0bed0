"""Reruns for callers of a server: one per task unless the caller overrides that; a refusal is a problem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from celery_asynctask.core.fold import Identity
from celery_asynctask.core.reasons import Code, Reason
from celery_asynctask.core.text import one_line, rfc3339
from celery_asynctask.errors import AsyncTaskError, AuditError, logger
from celery_asynctask.operations import rerun
from celery_asynctask.operations.audit import Action
from celery_asynctask.operations.rerun import Candidate, Options
from celery_asynctask.present.reasons import reasons
from celery_asynctask.queries.reruns import reruns, routing_keys
from celery_asynctask.queries.search.page import MAX_SCANNED
from celery_asynctask.queries.types import OwnedTask
from celery_asynctask.store.models import AsyncTask
from celery_asynctask.web.problem import ProblemError
from celery_asynctask.web.service import Caller
from celery_asynctask.web.share import RERUNS

_JUST_SENT: Final = Reason(Code.JUST_SENT, remedy="again")


def preview(caller: Caller, task: AsyncTask, options: Options) -> Candidate:
    """The rerun of a task, with its refusals and remarks; nothing is sent. Raises `ProblemError` where this server
    cannot rerun tasks."""
    candidate = _candidate(caller, task, options)
    if not candidate.refusals and not options.again and _identity(task) in caller.service.sent:
        return candidate._replace(refusals=[_JUST_SENT])
    return candidate


def send_again(
    caller: Caller, task: AsyncTask, options: Options, by: str, remedies: Mapping[str, str]
) -> tuple[Candidate, str]:
    """Rerun a task, for ``by``: the rerun, and its new task id. Raises `ProblemError` where nothing was sent."""
    caller.take(RERUNS)
    app, sent = caller.service.celery, caller.service.sent
    candidate = _candidate(caller, task, options)
    if candidate.refusals:
        raise _refused(caller, task, candidate.refusals, remedies)
    with _set_up():
        rerun.link(app)
    is_first = sent.add(_identity(task))
    if not is_first and not options.again:
        raise _refused(caller, task, [_JUST_SENT], remedies)
    try:
        with caller.service.audit.operation(caller.entry(Action.RERUN, task.celery_task_id)) as operation:
            new = _send(app, candidate, by)
            operation.detail = f"as {new}"
    except (ProblemError, AuditError):
        if is_first:
            sent.discard(_identity(task))
        raise
    return candidate, new


@contextmanager
def _set_up() -> Iterator[None]:
    """Turns errors of the server's setup into a problem; their text is for the log, not for callers."""
    try:
        yield
    except AsyncTaskError as exc:
        logger.error("No task is rerun over HTTP: %s", exc)
        detail = "This server is not set up to rerun tasks. Its log says why."
        raise ProblemError("refused", 409, detail) from exc


def refused(refusals: Iterable[Reason], remedies: Mapping[str, str] = {}) -> ProblemError:
    """The problem of a task that is not rerun. ``remedies`` as in `present.reasons.reason`."""
    return ProblemError("refused", 409, f"Not rerun: {'; '.join(reasons(refusals, remedies))}.")


def _refused(caller: Caller, task: AsyncTask, refusals: Iterable[Reason], remedies: Mapping[str, str]) -> ProblemError:
    """`refused`, audited by the codes of the refusals: their sentences may quote values."""
    codes = ", ".join(reason.code.name.lower() for reason in refusals)
    caller.service.refused(caller.entry(Action.RERUN, task.celery_task_id, codes))
    return refused(refusals, remedies)


def _send(app: Any, candidate: Candidate, by: str) -> str:
    """The new task id. Raises `ProblemError`."""
    is_reached = False
    try:
        rerun.reach_broker(app)
        is_reached = True
        return rerun.send(app, candidate, by)
    except Exception as exc:
        task_id = one_line(candidate.task.celery_task_id)
        logger.error("%s could not be rerun: %s: %s", task_id, type(exc).__name__, exc)
        if is_reached and not rerun.is_unreachable(app, exc):
            raise refused([Reason(Code.UNSENDABLE)]) from exc
        detail = "Not rerun: the broker could not be reached. The server's log says why; try again later."
        raise ProblemError("broker-unavailable", 503, detail, headers={"Retry-After": "5"}) from exc


def _identity(task: OwnedTask) -> Identity:
    return task.celery_task_id, task.customer_key


def _candidate(caller: Caller, task: AsyncTask, options: Options) -> Candidate:
    """Raises `ProblemError` where this server cannot rerun tasks."""
    app = caller.service.celery
    with _set_up():
        rerun.prepare(app)
    with caller.reader.session() as session:
        before = reruns(caller.reader, session, [task])
        came_by = routing_keys(session, [task]).get(_identity(task))
    earlier = before.by_task.get(_identity(task), ())
    options = options._replace(from_elsewhere=caller.service.from_elsewhere)
    elsewhere = caller.service.is_elsewhere
    candidate = rerun.assess(app, task, options, earlier, came_by, values=caller.payloads, elsewhere=elsewhere)
    if before.looked_back_to is None:
        return candidate
    bounded = Reason(Code.BOUNDED, {"tasks": MAX_SCANNED, "since": rfc3339(before.looked_back_to)})
    return candidate._replace(remarks=[*candidate.remarks, bounded])
