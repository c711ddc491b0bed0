"""Why a task is where it is, as far as the rows say; `present.diagnosis` makes sentences of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session, defer

from celery_asynctask.core.keys import is_planned, is_unsent
from celery_asynctask.core.reasons import NotSent
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.queries.failures.fingerprint import place
from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.task import exact
from celery_asynctask.queries.types import EvidentTask
from celery_asynctask.queries.workflow.members import workflow
from celery_asynctask.queries.workflow.tree import Member
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt, AsyncTaskSource

MAX_AHEAD: Final = 1000
"""Waiting tasks that are counted."""
_MOST_CAUSES: Final = 5
"""How many tasks are looked at, one the cause of the other."""


class Evidence(NamedTuple):
    """What the rows say about a task."""

    task: EvidentTask
    last: AsyncTaskAttempt | None = None
    """Its latest run; None: it never ran."""
    runs: int = 0
    """How many runs there were, the latest included."""
    earlier: Mapping[str, int] = {}
    """How the runs before it ended, with the class of which error or else with which outcome, and how often; the empty
    text: nobody saw it."""
    place: str | None = None
    """Where in the user's own code the error of the latest run came from; None: not known, or there is none."""
    source: AsyncTaskSource | None = None
    """The process of the latest run; None: not known."""
    sources_are_seen: bool = True
    """False: who asks may not see processes, so that none is known says nothing."""
    cause: Evidence | None = None
    """Of a task that was not sent: the one before it in its workflow for which it was not, or for which it waits."""
    open: Sequence[Member] = ()
    """Of a task that was not sent, where nobody knows which task will: what else is under way in its workflow."""
    ahead: int | None = None
    """Of a task that waits on its queue: how many that were created before it wait, too, in any queue; None: not
    counted."""
    ahead_is_bounded: bool = False
    """Whether only the `MAX_AHEAD` tasks created last before it were looked at, so that there may be more."""


def evidence(reader: Reader, session: Session, task: EvidentTask) -> Evidence:
    """All that tells why a task is where it is, and why those are that it waits for."""
    chain: list[EvidentTask] = [task]
    known = {task.celery_task_id}
    open_members: list[Member] = []
    while len(chain) < _MOST_CAUSES and (is_unsent(chain[-1].order_key) or is_planned(chain[-1].order_key)):
        cause, open_members = _cause(reader, session, chain[-1])
        if cause is None or cause.celery_task_id in known:
            break
        known.add(cause.celery_task_id)
        chain.append(cause)
    found: Evidence | None = None
    for one in reversed(chain):
        found = _about(reader, session, one)._replace(cause=found, open=open_members if found is None else ())
    assert found is not None
    return found


def _cause(reader: Reader, session: Session, task: EvidentTask) -> tuple[AsyncTask | None, list[Member]]:
    """The task that a step was not sent for, or waits for; where nobody knows: what is under way in its workflow."""
    told = NotSent.parse(task.error_message or "") if is_unsent(task.order_key) else None
    if told is not None and (cause := exact(reader, session, told.task_id)) is not None:
        return cause, []
    members = {one.celery_task_id: one for one in workflow(reader, session, task).members}
    met = {task.celery_task_id}
    at = task.parent_task_id
    while at in members and at not in met:
        met.add(at)
        if not members[at].planned and not members[at].unsent:
            return exact(reader, session, at), []
        at = members[at].parent_task_id
    return None, [one for one in members.values() if one.open]


def _about(reader: Reader, session: Session, task: EvidentTask) -> Evidence:
    of_task = AsyncTaskAttempt.celery_task_id == task.celery_task_id
    latest = select(AsyncTaskAttempt).where(of_task).order_by(AsyncTaskAttempt.run_key.desc()).limit(1)
    last = session.scalars(latest.options(defer(AsyncTaskAttempt.attempt))).first()
    if last is None:
        waits = task.status is AsyncTaskStatus.PENDING and not is_planned(task.order_key)
        ahead, bounded = _ahead(reader, session, task) if waits else (None, False)
        return Evidence(task, ahead=ahead, ahead_is_bounded=bounded)
    how = func.coalesce(AsyncTaskAttempt.error_type, AsyncTaskAttempt.outcome, "")
    counted = select(how, func.count()).where(of_task, AsyncTaskAttempt.id != last.id).group_by(how)
    earlier = sorted(session.execute(counted).all(), key=lambda one: (-one[1], one[0]))
    source = session.get(AsyncTaskSource, last.source) if last.source else None
    return Evidence(
        task,
        last,
        runs=1 + sum(count for _, count in earlier),
        earlier={str(how): count for how, count in earlier},
        place=place(last.traceback, last.name.partition(".")[0]),
        source=source,
    )


def _ahead(reader: Reader, session: Session, task: EvidentTask) -> tuple[int, bool]:
    """`Evidence.ahead` and `Evidence.ahead_is_bounded`. Steps that were not sent yet wait in no queue."""
    waiting = reader.seen(select(AsyncTask.order_key))
    waiting = waiting.where(AsyncTask.status == AsyncTaskStatus.PENDING, AsyncTask.created_at < task.created_at)
    waiting = waiting.order_by(AsyncTask.status.desc(), AsyncTask.created_at.desc()).limit(MAX_AHEAD)
    keys = session.scalars(waiting).all()
    return sum(not is_planned(key) for key in keys), len(keys) >= MAX_AHEAD
