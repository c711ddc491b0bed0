"""The members of a workflow as trees: who sent whom, and which of them decided when it ended.

Pure. Rows may say anything of their parents: that they are each other's (a task replaced by a chain), that they are
tasks nobody has recorded, or nothing. Every member has exactly one place all the same, however deep it is.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from celery_asynctask.core.keys import is_planned, is_unsent
from celery_asynctask.core.status import FAILED, TERMINAL, AsyncTaskStatus


class Member(NamedTuple):
    """What a workflow's picture shows of a task: columns of `AsyncTask` by their names."""

    celery_task_id: str
    name: str
    status: AsyncTaskStatus
    root_task_id: str | None
    parent_task_id: str | None
    created_at: dt.datetime
    started_at: dt.datetime | None
    completed_at: dt.datetime | None
    retries: int
    error_type: str | None
    error_message: str | None
    order_key: str
    id: int

    @property
    def unsent(self) -> bool:
        """Whether it will never be sent, for a task before it failed."""
        return is_unsent(self.order_key)

    @property
    def planned(self) -> bool:
        """Whether it is a later step that has not been sent yet."""
        return is_planned(self.order_key)

    @property
    def open(self) -> bool:
        """Whether it is under way: sent, and not over."""
        return self.status not in TERMINAL and not self.planned


class Placed(NamedTuple):
    """A member in its place."""

    member: Member
    depth: int
    """0 at the top."""
    above: str | None
    """Id of the member it hangs on: the one that sent it; where that is not known, its root. None: it is at the top."""
    critical: bool
    """Whether it is of the critical path."""


def lineage(members: Iterable[Member]) -> list[Placed]:
    """Every member once, each before what hangs on it, siblings in the order in which they were asked for."""
    known = {member.celery_task_id: member for member in sorted(members, key=_age)}
    above = _above(known)
    below: dict[str | None, list[str]] = {}
    for task_id, upper in above.items():
        below.setdefault(upper, []).append(task_id)
    critical = _critical(known, above)
    found = []
    waiting = [(task_id, 0) for task_id in reversed(below.get(None, ()))]
    while waiting:
        task_id, depth = waiting.pop()
        found.append(Placed(known[task_id], depth, above[task_id], task_id in critical))
        waiting.extend((lower, depth + 1) for lower in reversed(below.get(task_id, ())))
    return found


def failed_branches(placed: Iterable[Placed]) -> list[Placed]:
    """Of `lineage` what failed, and what that hangs on."""
    found: list[Placed] = []
    wanted: set[str | None] = set()
    for one in reversed(list(placed)):  # what hangs on a member comes before it
        if one.member.status in FAILED or one.member.celery_task_id in wanted:
            wanted.add(one.above)
            found.append(one)
    return found[::-1]


def _age(member: Member) -> tuple[dt.datetime, int]:
    return member.created_at, member.id


def _above(known: Mapping[str, Member]) -> dict[str, str | None]:
    """What each member hangs on, without cycles: they are cut above their root, or else their oldest member."""
    above: dict[str, str | None] = {}
    for task_id, member in known.items():
        uppers = (member.parent_task_id, member.root_task_id)
        above[task_id] = next((one for one in uppers if one in known and one != task_id), None)
    met: dict[str, str] = {}
    for start in known:
        path = []
        at: str | None = start
        while at is not None and at not in met:
            met[at] = start
            path.append(at)
            at = above[at]
        if at is not None and met[at] == start:
            cycle = [known[one] for one in path[path.index(at) :]]
            top = min(cycle, key=lambda member: (member.root_task_id != member.celery_task_id, *_age(member)))
            above[top.celery_task_id] = None
    return above


def _critical(known: Mapping[str, Member], above: Mapping[str, str | None]) -> set[str]:
    """The members that decided when the workflow ended: the one that ended last, what that waited for, and so on. Of
    one that is not over: what it waits for now."""
    ended = sorted(
        (member.completed_at, task_id)
        for task_id, member in known.items()
        if member.completed_at is not None and not member.unsent
    )
    path: set[str] = set()
    at = _decisive(known, ended)
    unread = len(ended)
    while at is not None and at not in path:
        path.add(at)
        member = known[at]
        at = above[at]
        if at is None or at == member.parent_task_id or member.started_at is None:
            continue
        # Nobody knows who sent it: as a chord's body, it comes after the last success before it.
        unread = min(unread, bisect_right(ended, (member.started_at, "\U0010ffff")))
        while unread:
            unread -= 1
            before = ended[unread][1]
            if before not in path and _may_precede(known, above, before, member):
                at = before
                break
    return path


def _may_precede(known: Mapping[str, Member], above: Mapping[str, str | None], before: str, member: Member) -> bool:
    """Whether a member can be of the chord whose body the other one is: what a failure called (errbacks) is not."""
    one, upper = known[before], above[before]
    called_by_failure = upper is not None and known[upper].status in FAILED
    return one.status is AsyncTaskStatus.SUCCESS and one.root_task_id == member.root_task_id and not called_by_failure


def _decisive(known: Mapping[str, Member], ended: list[tuple[dt.datetime, str]]) -> str | None:
    under_way = [member for member in known.values() if member.open]
    if under_way:
        running = [member for member in under_way if member.started_at is not None] or under_way
        return min(running, key=lambda member: (member.started_at or member.created_at, member.id)).celery_task_id
    return ended[-1][1] if ended else next(iter(known), None)
