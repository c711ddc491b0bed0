"""The ledger: how many events each process accepted, and what became of them.

Pure. ``accepted = stored + in the journal + damaged there + quarantined + given up + dropped + missing``, for each
process alone: what one has too much hides nothing of another.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol, TypeVar

SILENT: Final = dt.timedelta(seconds=90)
"""A process is silent when its ``last_seen_at`` is older than this: no recorder watches it, and other nodes take it for
gone. Recorders write every ten seconds which processes live (`recorder.liveness`), and wait for less than half of this
between two tries while the database is away (`recorder.recorder.MAX_BACKOFF`)."""


UNSIGNED: Final = "unsigned header"
"""Beside the reasons in the column ``dropped``: how many messages a process received that named a customer or creator
and were not signed. Nothing is lost by that."""
GIVEN_UP: Final = "given up"
"""Beside them, too: how many events in quarantine a person has dropped. They have a number, which dropped ones have
not, so they are no longer in ``quarantined`` and not `Account.missing` either."""


def dropped_of(counted: Mapping[str, int] | None) -> dict[str, int]:
    """The events that a process dropped, by reason, of its column ``dropped``."""
    return {reason: count for reason, count in (counted or {}).items() if reason not in (UNSIGNED, GIVEN_UP)}


class _Number(Protocol):
    """An int, or an SQL column of integers."""

    def __sub__(self, other: Any, /) -> Any: ...


N = TypeVar("N", bound=_Number)


def left_over(numbered: N, stored: N, quarantined: N) -> N:
    """The events of one process that are neither stored nor quarantined, as a number or, for columns, in SQL. It is
    negative where more events are known than were numbered (a damaged line may have been two), so only the positive
    numbers of several processes may be added up."""
    left: N = numbered - stored - quarantined
    return left


class Sight(Protocol):
    """What the ledger says of a process being there or gone."""

    @property
    def last_seen_at(self) -> dt.datetime: ...
    @property
    def ended_at(self) -> dt.datetime | None: ...
    @property
    def settled_at(self) -> dt.datetime | None: ...
    @property
    def numbered(self) -> int | None: ...


def is_unheard(process: Sight, now: dt.datetime) -> bool:
    """Whether the ledger cannot say what a process did last: it is silent, or ended without its recorder having
    accounted for all of its events. Earlier releases settle nothing, nor do they store ``numbered``: for what ended
    under one of them, its recorder had stored all if it was the one to find it gone."""
    if process.settled_at is not None:
        return False
    if process.ended_at is None:
        return process.last_seen_at < now - SILENT
    return process.numbered is not None or not found_by_its_own(process)


def found_by_its_own(process: Sight) -> bool:
    """Whether the recorder of its own journal found a process gone. Others wait until it has been silent."""
    return process.ended_at is not None and process.ended_at - process.last_seen_at < SILENT


class Account(NamedTuple):
    """The account of one process. The fields are those of `models.AsyncTaskSource`, except the last ones, which come
    from its journal or say what follows from the others."""

    source: str
    host: str
    pid: int
    role: str
    journal: str
    last_seen_at: dt.datetime
    ended_at: dt.datetime | None
    segment: int = 0
    position: int = 0
    last_number: int = 0
    stored: int = 0
    quarantined: int = 0
    dropped: Mapping[str, int] = {}
    numbered: int | None = None
    settled_at: dt.datetime | None = None
    given_up_at: dt.datetime | None = None
    in_journal: int | None = 0
    """Events in its journal, or only in its memory, that are not stored yet; None: a recorder of an earlier release has
    its journal, and does not say."""
    damaged: int = 0
    """Damaged lines in its journal, which will go into quarantine."""
    oldest: int | None = None
    """When the first event in its journal happened, in microseconds since the epoch; None: there is none."""
    abandoned: bool = False
    """Whether no recorder drains its journal."""
    lost: int = 0
    """Events that it numbered after ``last_number``, and that are not in its journal: it is gone, or a segment is."""
    discarded: int = 0
    """Events that a person dropped from quarantine."""
    left_behind: int = 0
    """Events that were in its journal when it was last seen, and that a person gave up with it."""
    unheard: bool = False
    """Whether nobody knows what it did after ``last_seen_at``: `is_unheard`, and its journal is not at hand or cannot
    be read."""

    @property
    def missing(self) -> int:
        """Events that it numbered, and that are neither stored nor kept anywhere."""
        return max(0, left_over(self.last_number, self.stored, self.quarantined) - self.discarded) + self.lost

    @property
    def given_up(self) -> int:
        """Events that it numbered and a person gave up."""
        return self.discarded + self.left_behind

    @property
    def dropped_total(self) -> int:
        """Events that it could not write to its journal, for all reasons."""
        return sum(self.dropped.values())

    @property
    def waiting(self) -> int:
        """Events in its journal, if no recorder drains that; else 0."""
        return self.in_journal or 0 if self.abandoned else 0

    @property
    def accepted(self) -> int:
        """Events that it was given to write, as far as is known on this node."""
        known = self.stored + self.quarantined + self.given_up + self.missing
        return known + self.dropped_total + (self.in_journal or 0) + self.damaged

    @property
    def is_unknown(self) -> bool:
        """Whether nobody knows what it did last, and nobody has accepted that."""
        return self.unheard and self.given_up_at is None

    @property
    def is_whole(self) -> bool:
        """Whether every event is stored, or in a journal that a recorder drains, as far as anybody can know."""
        lacks = self.missing or self.dropped_total or self.quarantined or self.damaged or self.waiting
        return not (lacks or self.is_unknown)


class Answer(str, Enum):
    """Whether the record is complete."""

    COMPLETE = "complete"
    NOT_COMPLETE = "not complete"
    NOT_KNOWN = "not known"

    def __str__(self) -> str:
        return self.value


class Unheard(NamedTuple):
    """The processes of a host of which nobody knows what they did last."""

    processes: int
    since: dt.datetime
    """When the first of them was seen last."""
    until: dt.datetime | None
    """When all of them had been found gone; None: one of them may still live."""
    tasks: int | None = 0
    """Tasks without an end, as far as is known here, that they may have ended, at most; None: too many to count."""

    def add(self, account: Account) -> Unheard:
        """With one more process."""
        until = account.ended_at if found_by_its_own(account) else None
        return Unheard(
            self.processes + 1,
            min(self.since, account.last_seen_at),
            None if until is None or self.until is None else max(self.until, until),
        )

    @classmethod
    def of(cls, account: Account) -> Unheard:
        """Of one process."""
        until = account.ended_at if found_by_its_own(account) else None
        return cls(1, account.last_seen_at, until)


@dataclass
class Ledger:
    """The sum of accounts. Numbers are of events, unless they say otherwise."""

    processes: int = 0
    accepted: int = 0
    stored: int = 0
    in_journal: int = 0
    oldest: int | None = None
    """When the first event in the journal happened, in microseconds since the epoch."""
    quarantined: int = 0
    damaged: int = 0
    waiting: int = 0
    """The part of ``in_journal`` that no recorder drains."""
    given_up: int = 0
    """By a person: nothing that is still to be found out."""
    missing: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """By reason."""
    unknown: dict[str, Unheard] = field(default_factory=dict)
    """By host: of which processes nobody knows what they did last."""
    accepted_unknown: dict[str, Unheard] = field(default_factory=dict)
    """The same, where a person has accepted that."""
    hosts: dict[str, list[str]] = field(default_factory=dict)
    """The hosts with events that are missing, dropped, quarantined, damaged or waiting, by that word."""

    def add(self, account: Account) -> None:
        """Add the account of one more process."""
        self.processes += 1
        self.accepted += account.accepted
        self.stored += account.stored
        self.in_journal += account.in_journal or 0
        self.quarantined += account.quarantined
        self.damaged += account.damaged
        self.waiting += account.waiting
        self.given_up += account.given_up
        self.missing += account.missing
        self.dropped.update(account.dropped)
        if account.oldest is not None:
            self.oldest = min(account.oldest, self.oldest or account.oldest)
        if account.unheard:
            by_host = self.unknown if account.is_unknown else self.accepted_unknown
            known = by_host.get(account.host)
            by_host[account.host] = Unheard.of(account) if known is None else known.add(account)
        for trouble, count in (
            ("missing", account.missing),
            ("dropped", account.dropped_total),
            ("quarantined", account.quarantined),
            ("damaged", account.damaged),
            ("waiting", account.waiting),
        ):
            hosts = self.hosts.setdefault(trouble, []) if count else None
            if hosts is not None and account.host not in hosts:
                hosts.append(account.host)

    @property
    def answer(self) -> Answer:
        """What is known to be wrong comes before what is not known."""
        if self.hosts:
            return Answer.NOT_COMPLETE
        return Answer.NOT_KNOWN if self.unknown else Answer.COMPLETE

    @property
    def complete(self) -> bool | None:
        """Whether every event is stored, or in a journal that a recorder drains; None: not known."""
        return {Answer.COMPLETE: True, Answer.NOT_COMPLETE: False}.get(self.answer)


def counts(account: Account | Ledger) -> dict[str, int | Mapping[str, int] | None]:
    """The numbers of the equation by their JSON names. ``accepted`` is the sum of the others except ``abandoned``, the
    part of ``in_journal`` that no recorder drains."""
    return {
        "accepted": account.accepted,
        "stored": account.stored,
        "in_journal": account.in_journal,
        "abandoned": account.waiting,
        "quarantined": account.quarantined,
        "damaged": account.damaged,
        "given_up": account.given_up,
        "dropped": dict(account.dropped),
        "missing": account.missing,
    }


def by_host(unheard: Mapping[str, Unheard]) -> list[dict[str, Any]]:
    """What is not known, as JSON has it."""
    return [
        {"host": host, "processes": one.processes, "since": one.since, "tasks": one.tasks}
        for host, one in sorted(unheard.items())
    ]


def plural(count: int, word: str) -> str:
    """The word in the number that fits the count; regular English words only."""
    if count == 1:
        return word
    return f"{word}es" if word.endswith("s") else f"{word}s"


def listed(names: Sequence[str], limit: int = 3) -> str:
    """The first names, and the number of the others."""
    others = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {others} more" if others > 0 else "")
