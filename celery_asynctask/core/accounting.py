"""The ledger: how many events each process accepted, and what became of them.

Pure. ``accepted = stored + in the journal + damaged there + quarantined + dropped + missing``.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


class Account(NamedTuple):
    """The account of one process. The fields are those of `models.AsyncTaskSource`, except the last four, which come
    from its journal."""

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
    in_journal: int | None = 0
    """Events in its journal that are not stored yet; None: its journal is not on this node."""
    damaged: int = 0
    """Damaged lines in its journal, which will go into quarantine."""
    oldest: int | None = None
    """When the first event in its journal happened, in microseconds since the epoch; None: there is none."""
    abandoned: bool = False
    """Whether no recorder drains its journal."""

    @property
    def missing(self) -> int:
        """Events that it numbered, and that are neither stored nor kept anywhere."""
        return max(0, left_over(self.last_number, self.stored, self.quarantined))

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
        known = self.stored + self.quarantined + self.missing
        return known + self.dropped_total + (self.in_journal or 0) + self.damaged

    @property
    def is_whole(self) -> bool:
        """Whether every event is stored, or in a journal that a recorder drains."""
        return not (self.missing or self.dropped_total or self.quarantined or self.damaged or self.waiting)


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
    missing: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """By reason."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Processes whose journal is not on this node, by host."""
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
        self.missing += account.missing
        self.dropped.update(account.dropped)
        if account.oldest is not None:
            self.oldest = min(account.oldest, self.oldest or account.oldest)
        if account.in_journal is None:
            self.unknown[account.host] += 1
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
    def complete(self) -> bool:
        """Whether every event is stored, or in a journal that a recorder drains."""
        return not self.hosts


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
        "dropped": dict(account.dropped),
        "missing": account.missing,
    }


def plural(count: int, word: str) -> str:
    """The word in the number that fits the count; regular English words only."""
    if count == 1:
        return word
    return f"{word}es" if word.endswith("s") else f"{word}s"


def listed(names: Sequence[str], limit: int = 3) -> str:
    """The first names, and the number of the others."""
    others = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {others} more" if others > 0 else "")
