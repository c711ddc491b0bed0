"""The members of a workflow as trees: which task sent which, and which of them decided when the workflow ended.

Pure. The parents in the rows can be anything: each other's (a task replaced by a chain), tasks that nobody recorded, or
missing. Still, every member gets exactly one place, however deep it is.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from celery_asynctask.core.fold import Identity
from celery_asynctask.core.keys import is_planned, is_unsent
from celery_asynctask.core.status import FAILED, TERMINAL, AsyncTaskStatus
from celery_asynctask.queries.types import OwnedTask


class Member(NamedTuple):
    """The columns of a task that a picture of its workflow needs, as in `AsyncTask`."""

    celery_task_id: str
    customer_key: str
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
    def identity(self) -> Identity:
        """What no other member has: two customers may use the same id."""
        return self.celery_task_id, self.customer_key

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
    above: Identity | None
    """The member above it: the one that sent it or, if that is not known, its root. None: it is at the top."""
    critical: bool
    """Whether it is on the critical path."""


def lineage(members: Iterable[Member]) -> list[Placed]:
    """Every member once, each before the members below it, siblings in the order of their creation."""
    known = {member.identity: member for member in sorted(members, key=_age)}
    above = _above(known)
    below: dict[Identity | None, list[Identity]] = {}
    for identity, upper in above.items():
        below.setdefault(upper, []).append(identity)
    critical = _critical(known, above)
    placed = []
    waiting = [(identity, 0) for identity in reversed(below.get(None, ()))]
    while waiting:
        identity, depth = waiting.pop()
        placed.append(Placed(known[identity], depth, above[identity], identity in critical))
        waiting.extend((lower, depth + 1) for lower in reversed(below.get(identity, ())))
    return placed


class Meanings:
    """Which member another one means by an id: that of its own customer, or else the newest."""

    def __init__(self, members: Iterable[Member]) -> None:
        self._newest: dict[str, Identity] = {}
        self._known: set[Identity] = set()
        for member in sorted(members, key=_age):
            self._newest[member.celery_task_id] = member.identity
            self._known.add(member.identity)

    def of(self, task_id: str | None, task: OwnedTask) -> Identity | None:
        """The member that ``task`` means by an id; None: none has it."""
        if task_id is None:
            return None
        own = task_id, task.customer_key
        return own if own in self._known else self._newest.get(task_id)


def connected(members: Iterable[Member], member: Member) -> set[Identity]:
    """The members that are in the workflow of ``member``, by their parents and roots: where two customers use the same
    ids, each has a workflow of its own. A root or parent that is no member is that of the customer who names it."""
    by_identity = {one.identity: one for one in members}
    meanings = Meanings(by_identity.values())
    neighbors: dict[Identity, list[Identity]] = {}
    for one in by_identity.values():
        for task_id in {one.parent_task_id, one.root_task_id} - {None}:
            assert task_id is not None
            other = meanings.of(task_id, one) or (task_id, one.customer_key)
            neighbors.setdefault(one.identity, []).append(other)
            neighbors.setdefault(other, []).append(one.identity)
    found = {member.identity}
    waiting = [member.identity]
    while waiting:
        for other in neighbors.get(waiting.pop(), ()):
            if other not in found:
                found.add(other)
                waiting.append(other)
    return found & by_identity.keys()


def failed_branches(placed: Iterable[Placed]) -> list[Placed]:
    """The failed members of a `lineage`, and all members above them."""
    branches: list[Placed] = []
    wanted: set[Identity | None] = set()
    for place in reversed(list(placed)):  # reversed, the members below a member come before it
        if place.member.status in FAILED or place.member.identity in wanted:
            wanted.add(place.above)
            branches.append(place)
    return branches[::-1]


def _age(member: Member) -> tuple[dt.datetime, int]:
    return member.created_at, member.id


def _above(known: Mapping[Identity, Member]) -> dict[Identity, Identity | None]:
    """The member above each, without cycles: a cycle is cut above its root or, without one, its oldest member."""
    meanings = Meanings(known.values())
    above: dict[Identity, Identity | None] = {}
    for identity, member in known.items():
        uppers = (meanings.of(task_id, member) for task_id in (member.parent_task_id, member.root_task_id))
        above[identity] = next((upper for upper in uppers if upper is not None and upper != identity), None)
    visited: dict[Identity, Identity] = {}
    for start in known:
        path = []
        at: Identity | None = start
        while at is not None and at not in visited:
            visited[at] = start
            path.append(at)
            at = above[at]
        if at is not None and visited[at] == start:
            cycle = [known[identity] for identity in path[path.index(at) :]]
            top = min(cycle, key=lambda member: (member.root_task_id != member.celery_task_id, *_age(member)))
            above[top.identity] = None
    return above


def _critical(known: Mapping[Identity, Member], above: Mapping[Identity, Identity | None]) -> set[Identity]:
    """The members that decided when the workflow ended: the one that ended last, the one it waited for, and
    so on. For a workflow that has not ended, the ones it waits for now."""
    ended = sorted(
        (member.completed_at, identity)
        for identity, member in known.items()
        if member.completed_at is not None and not member.unsent
    )
    path: set[Identity] = set()
    at = _decisive(known, ended)
    unread = len(ended)
    while at is not None and at not in path:
        path.add(at)
        member = known[at]
        at = above[at]
        if at is None or at[0] == member.parent_task_id or member.started_at is None:
            continue
        # The sender is not known: like a chord's body, it comes after the last success before it.
        unread = min(unread, bisect_right(ended, (member.started_at, _LAST)))
        while unread:
            unread -= 1
            before = ended[unread][1]
            if before not in path and _may_precede(known, above, before, member):
                at = before
                break
    return path


_LAST: Final = ("\U0010ffff", "")
"""Sorts after every identity."""


def _may_precede(
    known: Mapping[Identity, Member], above: Mapping[Identity, Identity | None], before: Identity, member: Member
) -> bool:
    """Whether a member can belong to the chord whose body the other one is. A task that a failure called (an errback)
    cannot."""
    earlier, upper = known[before], above[before]
    is_errback = upper is not None and known[upper].status in FAILED
    return earlier.status is AsyncTaskStatus.SUCCESS and earlier.root_task_id == member.root_task_id and not is_errback


def _decisive(known: Mapping[Identity, Member], ended: list[tuple[dt.datetime, Identity]]) -> Identity | None:
    under_way = [member for member in known.values() if member.open]
    if under_way:
        running = [member for member in under_way if member.started_at is not None] or under_way
        return min(running, key=lambda member: (member.started_at or member.created_at, member.id)).identity
    return ended[-1][1] if ended else next(iter(known), None)
