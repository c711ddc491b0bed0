"""The evidence for why a task has its status, as far as the rows have it. `present.diagnosis` puts it into words."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session, defer

from celery_asynctask.core.keys import is_planned, is_unsent
from celery_asynctask.core.reasons import NotSent
from celery_asynctask.core.status import TERMINAL, AsyncTaskStatus
from celery_asynctask.queries.attempts import of_newest, seen_of
from celery_asynctask.queries.completeness import unheard_since
from celery_asynctask.queries.failures.fingerprint import place
from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.task import exact, related
from celery_asynctask.queries.types import EvidentTask
from celery_asynctask.queries.workflow.members import workflow
from celery_asynctask.queries.workflow.tree import Meanings, Member
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt, AsyncTaskSource

Process: TypeAlias = AsyncTaskSource
"""A process that runs a task, or has its message."""
MAX_AHEAD: Final = 1000
"""Waiting tasks that are counted."""
_MAX_CAUSES: Final = 5
"""Tasks in a chain of causes."""


class Evidence(NamedTuple):
    """The rows about a task that explain its status."""

    task: EvidentTask
    last: AsyncTaskAttempt | None = None
    """Its latest attempt; None: it never ran."""
    attempts: int = 0
    """Number of its attempts, including the latest, without those of earlier executions under its id."""
    earlier: Mapping[str, int] = {}
    """Number of the attempts before the latest one, by error class or, without an error, by outcome; the empty text
    stands for an end that nobody saw."""
    place: str | None = None
    """Where in the user's own code the error of the latest attempt came from; None: not known, or no error."""
    source: Process | None = None
    """The process of the latest attempt; None: not known."""
    holder: Process | None = None
    """The process that has received its message, and may be gone since; None: not known, or none has."""
    sources_are_seen: bool = True
    """Whether the reader may see processes. If not, a missing one means nothing."""
    cause: Evidence | None = None
    """For a task that was not sent: the task before it in its workflow that prevented it, or that it waits for."""
    open: Sequence[Member] = ()
    """For a task that was not sent and has no known cause: the tasks of its workflow that are under way."""
    ahead: int | None = None
    """For a task that waits in its queue: the number of waiting tasks, in any queue, that were created before it; None:
    not counted."""
    ahead_is_bounded: bool = False
    """Whether only the last `MAX_AHEAD` tasks before it were counted, so that there may be more."""
    of_earlier_executions: int = 0
    """Number of the attempts of earlier executions under its id."""
    unheard: Mapping[str, dt.datetime] = {}
    """For a task without an end: the hosts with processes that were alive once it was created and may have ended it
    without anybody knowing, and when the last of these was seen."""


def evidence(reader: Reader, session: Session, task: EvidentTask) -> Evidence:
    """The evidence for a task and, link by link, for the tasks that it waits for."""
    chain: list[EvidentTask] = [task]
    known = {task.id}
    open_members: list[Member] = []
    while len(chain) < _MAX_CAUSES and (is_unsent(chain[-1].order_key) or is_planned(chain[-1].order_key)):
        cause, open_members = _cause(reader, session, chain[-1])
        if cause is None or cause.id in known:
            break
        known.add(cause.id)
        chain.append(cause)
    result: Evidence | None = None
    for link in reversed(chain):
        result = _about(reader, session, link)._replace(cause=result, open=open_members if result is None else ())
    assert result is not None
    return result


def _cause(reader: Reader, session: Session, task: EvidentTask) -> tuple[AsyncTask | None, list[Member]]:
    """The task that prevented a step from being sent, or that it waits for; if it is not known, the tasks under way in
    the workflow."""
    reason = NotSent.parse(task.error_message or "") if is_unsent(task.order_key) else None
    if reason is not None and (cause := related(reader, session, reason.task_id, task)) is not None:
        return cause, []
    members = {member.identity: member for member in workflow(reader, session, task).members}
    meanings = Meanings(members.values())
    visited = {(task.celery_task_id, task.customer_key)}
    at = meanings.of(task.parent_task_id, task)
    while at is not None and at not in visited:
        visited.add(at)
        member = members[at]
        if not member.planned and not member.unsent:
            return exact(reader, session, "", member.id), []
        at = meanings.of(member.parent_task_id, member)
    return None, [member for member in members.values() if member.open]


def _about(reader: Reader, session: Session, task: EvidentTask) -> Evidence:
    holder = session.get(AsyncTaskSource, task.holder) if task.holder else None
    latest = select(AsyncTaskAttempt).where(of_newest(task)).order_by(AsyncTaskAttempt.run_key.desc()).limit(1)
    last = session.scalars(latest.options(defer(AsyncTaskAttempt.attempt))).first()
    is_newest = case((of_newest(task), 1), else_=0)
    ending = func.coalesce(AsyncTaskAttempt.error_type, AsyncTaskAttempt.outcome, "")
    counted = select(ending, is_newest, func.count()).where(seen_of(reader.scope, task)).group_by(ending, is_newest)
    earlier: Counter[str] = Counter()
    before = 0
    for end, newest, count in session.execute(counted):
        if newest:
            earlier[end] = count
        else:
            before += count
    unheard = {} if task.status in TERMINAL else _unheard(session, task)
    if last is None:
        waits = task.status is AsyncTaskStatus.PENDING and not is_planned(task.order_key)
        ahead, bounded = _ahead(reader, session, task) if waits else (None, False)
        return Evidence(
            task,
            holder=holder,
            ahead=ahead,
            ahead_is_bounded=bounded,
            of_earlier_executions=before,
            unheard=unheard,
        )
    attempts = earlier.total()
    earlier[last.outcome or "" if last.error_type is None else last.error_type] -= 1
    return Evidence(
        task,
        last,
        attempts=attempts,
        earlier=dict(sorted((+earlier).items(), key=lambda item: (-item[1], item[0]))),
        place=place(last.traceback, last.name.partition(".")[0]),
        source=session.get(AsyncTaskSource, last.source) if last.source else None,
        holder=holder,
        of_earlier_executions=before,
        unheard=unheard,
    )


def _unheard(session: Session, task: EvidentTask) -> dict[str, dt.datetime]:
    """`Evidence.unheard`, those seen last first."""
    hosts: dict[str, dt.datetime] = {}
    for process in unheard_since(session, dt.datetime.now(dt.timezone.utc), task.created_at):
        hosts[process.host] = max(process.last_seen_at, hosts.get(process.host, process.last_seen_at))
    return dict(sorted(hosts.items(), key=lambda item: (item[1], item[0]), reverse=True))


def _ahead(reader: Reader, session: Session, task: EvidentTask) -> tuple[int, bool]:
    """`Evidence.ahead` and `Evidence.ahead_is_bounded`. Steps that were not sent yet wait in no queue."""
    waiting = reader.seen(select(AsyncTask.order_key))
    waiting = waiting.where(AsyncTask.status == AsyncTaskStatus.PENDING, AsyncTask.created_at < task.created_at)
    waiting = waiting.order_by(AsyncTask.status.desc(), AsyncTask.created_at.desc()).limit(MAX_AHEAD)
    keys = session.scalars(waiting).all()
    return sum(not is_planned(key) for key in keys), len(keys) >= MAX_AHEAD
