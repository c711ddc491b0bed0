"""The members of a workflow, found from any of them, and their runs: what the pictures of it are drawn from.

A workflow is what has one root, and what hangs on that by its parents where the root is another or not known: the body
of a chord whose header tasks are roots themselves. A few queries, however many members there are.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.types import EvidentTask
from celery_asynctask.queries.workflow.tree import Member
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt

MAX_MEMBERS: Final = 10_000
"""Members that are looked at."""
MAX_RUNS: Final = 50_000
"""Runs of them that are looked at."""
_AT_ONCE: Final = 1000
"""Ids in one query."""
_MOST_ROUNDS: Final = 20
"""How often it goes on from what was found: once for every root that is found by way of another."""


class Workflow(NamedTuple):
    """The members of a workflow."""

    members: Sequence[Member]
    bounded: bool
    """There are more: these are the first that were asked for, and the member that was asked about."""


class Run(NamedTuple):
    """What a workflow's picture shows of an attempt: columns of `AsyncTaskAttempt` by their names."""

    celery_task_id: str
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
    """All members of the workflow that a task is in, of those that may be seen, in no particular order."""
    member = Member(*(getattr(task, name) for name in Member._fields))
    search = _Search(reader, session, member)
    for _ in range(_MOST_ROUNDS):
        if not search.go_on():
            break
    else:
        search.bounded = True
    first = sorted(search.known.values(), key=lambda one: (one is not member, one.created_at, one.id))
    return Workflow(first[:MAX_MEMBERS], search.bounded or len(first) > MAX_MEMBERS)


def runs(session: Session, members: Collection[str]) -> dict[str, list[Run]]:
    """The runs of tasks, by their ids, in the order in which they were meant to happen; at most `MAX_RUNS`."""
    found: dict[str, list[Run]] = {}
    room = MAX_RUNS
    columns = [getattr(AsyncTaskAttempt, name) for name in Run._fields]
    for ids in _parts(members):
        asked = select(*columns).where(AsyncTaskAttempt.celery_task_id.in_(ids)).limit(room)
        asked = asked.order_by(AsyncTaskAttempt.celery_task_id, AsyncTaskAttempt.run_key)
        for row in session.execute(asked):
            found.setdefault(row.celery_task_id, []).append(Run(*row))
            room -= 1
    return found


class _Search:
    """What is found of a workflow, and what has been asked for."""

    def __init__(self, reader: Reader, session: Session, member: Member) -> None:
        self._reader = reader
        self._session = session
        self.known = {member.celery_task_id: member}
        self.bounded = False
        self._roots: set[str] = set()
        self._children_of: set[str] = set()
        self._looked_for: set[str] = set()

    def go_on(self) -> bool:
        """Ask for what those that are known lead to; whether there was anything to ask for."""
        roots = {one.root_task_id for one in self.known.values() if one.root_task_id is not None} - self._roots
        self._roots |= roots
        for ids in _parts(roots):
            self._find(AsyncTask.root_task_id.in_(ids))
        named = {one for member in self.known.values() for one in (member.root_task_id, member.parent_task_id) if one}
        missing = named - self.known.keys() - self._looked_for
        self._looked_for |= missing
        for ids in _parts(missing):
            self._find(AsyncTask.celery_task_id.in_(ids))
        parents = self.known.keys() - self._children_of
        self._children_of |= parents
        other_root = AsyncTask.root_task_id.not_in(sorted(self._roots)[:_AT_ONCE])
        for ids in _parts(parents):
            self._find(and_(AsyncTask.parent_task_id.in_(ids), or_(AsyncTask.root_task_id.is_(None), other_root)))
        return bool(roots or missing or parents)

    def _find(self, condition: Any) -> None:
        if len(self.known) > MAX_MEMBERS:
            return
        columns = [getattr(AsyncTask, name) for name in Member._fields]
        asked = self._reader.seen(select(*columns).where(condition)).order_by(AsyncTask.id).limit(MAX_MEMBERS + 1)
        for row in self._session.execute(asked):
            self.known.setdefault(row.celery_task_id, Member(*row))


def _parts(ids: Collection[str]) -> Iterator[list[str]]:
    """Some at a time, in an order that is always the same."""
    ordered = iter(sorted(ids))
    while part := list(islice(ordered, _AT_ONCE)):
        yield part
