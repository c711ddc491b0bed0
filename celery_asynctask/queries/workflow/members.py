"""The members of a workflow, found from any one of them, and their attempts.

A workflow consists of the tasks with one root, and of the tasks connected with them by a parent although their root is
another or not known, such as the body of a chord whose header tasks are roots themselves. A few queries find them all,
however many members there are.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from celery_asynctask.core.fold import Identity
from celery_asynctask.core.keys import is_of_earlier_execution
from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.types import EvidentTask
from celery_asynctask.queries.workflow.tree import Member, connected
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt

MAX_MEMBERS: Final = 10_000
"""Members that are read."""
MAX_ATTEMPTS: Final = 50_000
"""Attempts of them that are read."""
_IDS_PER_QUERY: Final = 1000
_MAX_ROUNDS: Final = 20
"""Rounds of a search. Each root that is found by way of another takes one more."""


class Workflow(NamedTuple):
    """The members of a workflow."""

    members: Sequence[Member]
    bounded: bool
    """Whether there are more members. These are the ones created first, and the task that the search began with."""


class MemberAttempt(NamedTuple):
    """The columns of an attempt that a picture of its workflow shows, as in `AsyncTaskAttempt`."""

    celery_task_id: str
    customer_key: str
    run_key: str
    retries: int
    published_at: dt.datetime | None
    received_at: dt.datetime | None
    eta: dt.datetime | None
    started_at: dt.datetime | None
    ended_at: dt.datetime | None
    outcome: str | None
    error_type: str | None
    worker: str | None


def workflow(reader: Reader, session: Session, task: EvidentTask) -> Workflow:
    """All members of a task's workflow that the reader may see: first the task itself, then the others in the order of
    their creation."""
    member = Member(*(getattr(task, name) for name in Member._fields))
    search = _Search(reader, session, member)
    for _ in range(_MAX_ROUNDS):
        if not search.go_on():
            break
    else:
        search.bounded = True
    members = sorted(search.found(), key=lambda other: (other is not member, other.created_at, other.id))
    return Workflow(members[:MAX_MEMBERS], search.bounded or len(members) > MAX_MEMBERS)


def attempts_of(session: Session, members: Collection[Member]) -> dict[Identity, list[MemberAttempt]]:
    """The attempts of some members in order; at most `MAX_ATTEMPTS` of them. Those of earlier executions under the same
    id are left out."""
    order_keys = {member.identity: member.order_key for member in members}
    by_task: dict[Identity, list[MemberAttempt]] = {}
    room = MAX_ATTEMPTS
    columns = [getattr(AsyncTaskAttempt, name) for name in MemberAttempt._fields]
    theirs = AsyncTaskAttempt.customer_key.in_(sorted({member.customer_key for member in members}))
    for ids in _parts({member.celery_task_id for member in members}):
        statement = select(*columns).where(AsyncTaskAttempt.celery_task_id.in_(ids), theirs).limit(room)
        statement = statement.order_by(
            AsyncTaskAttempt.celery_task_id, AsyncTaskAttempt.customer_key, AsyncTaskAttempt.run_key
        )
        for row in session.execute(statement):
            room -= 1
            order_key = order_keys.get(identity := (row.celery_task_id, row.customer_key))
            if order_key is not None and not is_of_earlier_execution(row.run_key, order_key):
                by_task.setdefault(identity, []).append(MemberAttempt(*row))
    return by_task


class _Search:
    """The search for the members of a workflow: those found by their ids, and the ids already searched for."""

    def __init__(self, reader: Reader, session: Session, member: Member) -> None:
        self._reader = reader
        self._session = session
        self._member = member
        self._members = {member.identity: member}
        self._ids = {member.celery_task_id}
        self.bounded = False
        self._roots: set[str] = set()
        self._parents: set[str] = set()
        self._sought: set[str] = set()

    def found(self) -> Collection[Member]:
        """The members: where several customers use one id, those that are connected with the first one."""
        if len(self._ids) == len(self._members):
            return self._members.values()
        identities = connected(self._members.values(), self._member)
        return [member for identity, member in self._members.items() if identity in identities]

    def go_on(self) -> bool:
        """Search for the tasks that the known members lead to. Returns whether there was anything to search for."""
        members = self._members.values()
        roots = {member.root_task_id for member in members if member.root_task_id is not None} - self._roots
        self._roots |= roots
        for ids in _parts(roots):
            self._find(AsyncTask.root_task_id.in_(ids))
        named = {
            (task_id, member.customer_key)
            for member in members
            for task_id in (member.root_task_id, member.parent_task_id)
            if task_id
        }
        missing = {task_id for task_id, _ in named - self._members.keys()} - self._sought
        self._sought |= missing
        for ids in _parts(missing):
            self._find(AsyncTask.celery_task_id.in_(ids))
        parents = self._ids - self._parents
        self._parents |= parents
        other_root = AsyncTask.root_task_id.not_in(sorted(self._roots)[:_IDS_PER_QUERY])
        for ids in _parts(parents):
            self._find(and_(AsyncTask.parent_task_id.in_(ids), or_(AsyncTask.root_task_id.is_(None), other_root)))
        return bool(roots or missing or parents)

    def _find(self, condition: Any) -> None:
        if len(self._members) > MAX_MEMBERS:
            return
        columns = [getattr(AsyncTask, name) for name in Member._fields]
        statement = self._reader.seen(select(*columns).where(condition))
        for row in self._session.execute(statement.order_by(AsyncTask.id).limit(MAX_MEMBERS + 1)):
            member = Member(*row)
            self._members.setdefault(member.identity, member)
            self._ids.add(member.celery_task_id)


def _parts(ids: Collection[str]) -> Iterator[list[str]]:
    """The ids in parts of at most `_IDS_PER_QUERY`, always in the same order."""
    ordered = iter(sorted(ids))
    while part := list(islice(ordered, _IDS_PER_QUERY)):
        yield part
