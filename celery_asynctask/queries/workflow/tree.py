"""The members of a workflow as trees: which task sent which, and which of them decided when the workflow ended.

Pure. The parents in the rows can be anything: each other's (a task replaced by a chain), tasks that nobody recorded, or
missing. Still, every member gets exactly one place, however deep it is.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from celery_asynctask.core.keys import is_planned, is_unsent
from celery_asynctask.core.status import FAILED, TERMINAL, AsyncTaskStatus


class Member(NamedTuple):
    """The columns of a task that a picture of its workflow needs, as in `AsyncTask`."""

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
        """Whether it will never be sent, because a task before it failed."""
        return is_unsent(self.order_key)

    @property
    def planned(self) -> bool:
        """Whether it is a later step that has not been sent yet."""
        return is_planned(self.order_key)

    @property
    def open(self) -> bool:
        """Whether it is under way: sent, but not ended."""
        return self.status not in TERMINAL and not self.planned


class Placed(NamedTuple):
    """A member with its place in the tree."""

    member: Member
    depth: int
    """Its level, 0 at the top."""
    above: str | None
    """Id of the member above it: the one that sent it or, if that is not known, its root. None: it is at the top."""
    critical: bool
    """Whether it is on the critical path."""


def lineage(members: Iterable[Member]) -> list[Placed]:
    """Every member once, each before the members below it, siblings in the order of their creation."""
    known = {member.celery_task_id: member for member in sorted(members, key=_age)}
    above = _above(known)
    below: dict[str | None, list[str]] = {}
    for task_id, upper in above.items():
        below.setdefault(upper, []).append(task_id)
    critical = _critical(known, above)
    placed = []
    waiting = [(task_id, 0) for task_id in reversed(below.get(None, ()))]
    while waiting:
        task_id, depth = waiting.pop()
        placed.append(Placed(known[task_id], depth, above[task_id], task_id in critical))
        waiting.extend((lower, depth + 1) for lower in reversed(below.get(task_id, ())))
    return placed


def failed_branches(placed: Iterable[Placed]) -> list[Placed]:
    """The failed members of a `lineage`, and all members above them."""
    branches: list[Placed] = []
    wanted: set[str | None] = set()
    for place in reversed(list(placed)):  # reversed, the members below a member come before it
        if place.member.status in FAILED or place.member.celery_task_id in wanted:
            wanted.add(place.above)
            branches.append(place)
    return branches[::-1]


def _age(member: Member) -> tuple[dt.datetime, int]:
    return member.created_at, member.id


def _above(known: Mapping[str, Member]) -> dict[str, str | None]:
    """The id above each member, without cycles: a cycle is cut above its root or, without one, its oldest member."""
    above: dict[str, str | None] = {}
    for task_id, member in known.items():
        uppers = (member.parent_task_id, member.root_task_id)
        above[task_id] = next((upper for upper in uppers if upper in known and upper != task_id), None)
    visited: dict[str, str] = {}
    for start in known:
        path = []
        at: str | None = start
        while at is not None and at not in visited:
            visited[at] = start
            path.append(at)
            at = above[at]
        if at is not None and visited[at] == start:
            cycle = [known[task_id] for task_id in path[path.index(at) :]]
            top = min(cycle, key=lambda member: (member.root_task_id != member.celery_task_id, *_age(member)))
            above[top.celery_task_id] = None
    return above


def _critical(known: Mapping[str, Member], above: Mapping[str, str | None]) -> set[str]:
    """The ids of the members that decided when the workflow ended: the one that ended last, the one it waited for, and
    so on. For a workflow that has not ended, the ones it waits for now."""
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
        # The sender is not known: like a chord's body, it comes after the last success before it.
        unread = min(unread, bisect_right(ended, (member.started_at, "\U0010ffff")))
        while unread:
            unread -= 1
            before = ended[unread][1]
            if before not in path and _may_precede(known, above, before, member):
                at = before
                break
    return path


def _may_precede(known: Mapping[str, Member], above: Mapping[str, str | None], before: str, member: Member) -> bool:
    """Whether a member can belong to the chord whose body the other one is. A task that a failure called (an errback)
    cannot."""
    earlier, upper = known[before], above[before]
    is_errback = upper is not None and known[upper].status in FAILED
    return earlier.status is AsyncTaskStatus.SUCCESS and earlier.root_task_id == member.root_task_id and not is_errback


def _decisive(known: Mapping[str, Member], ended: list[tuple[dt.datetime, str]]) -> str | None:
    under_way = [member for member in known.values() if member.open]
    if under_way:
        running = [member for member in under_way if member.started_at is not None] or under_way
        return min(running, key=lambda member: (member.started_at or member.created_at, member.id)).celery_task_id
    return ended[-1][1] if ended else next(iter(known), None)
