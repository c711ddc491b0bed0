"""The ledger of what processes wrote: how many events each accepted, and what became of every one of them.

Pure. ``accepted = stored + still in the journal + quarantined + dropped``; what is left over is missing.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, TypeVar

SILENT: Final = dt.timedelta(seconds=90)
"""How long nothing must have been noted of a process for it to be silent: nobody has looked after it, and other nodes
take it for gone. Recorders note every ten seconds who lives (`recorder.liveness`), and wait for less than half of this
between two tries of a database that is away (`recorder.recorder.MAX_BACKOFF`)."""


class _Number(Protocol):
    """An int, or a column of them."""

    def __sub__(self, other: Any, /) -> Any: ...


N = TypeVar("N", bound=_Number)


def left_over(numbered: N, stored: N, quarantined: N) -> N:
    """Events of one process of which nobody knows what became of them; also of columns, in SQL. Less than 0 where more
    is known than was numbered, for a line that was damaged may have been two: of several processes, only what is more
    than 0 of each may be added up."""
    left: N = numbered - stored - quarantined
    return left


class Account(NamedTuple):
    """One source; the fields are those of `models.AsyncTaskSource`, but for the last four."""

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
    """Events that lie in its journal and are not stored; None: not known here."""
    damaged: int = 0
    """Damaged lines there, which will go into quarantine."""
    oldest: int | None = None
    """When the first of the events that lie there happened, in microseconds since the epoch; None: there is none."""
    abandoned: bool = False
    """Nobody drains its journal."""

    @property
    def missing(self) -> int:
        """Events of which nobody knows what became of them."""
        return max(0, left_over(self.last_number, self.stored, self.quarantined))

    @property
    def dropped_total(self) -> int:
        """Events that it could not write to its journal."""
        return sum(self.dropped.values())

    @property
    def waiting(self) -> int:
        """Events that lie in a journal that nobody drains."""
        return self.in_journal or 0 if self.abandoned else 0

    @property
    def accepted(self) -> int:
        """Events that it was asked to write, as far as is known here."""
        known = self.stored + self.quarantined + self.missing
        return known + self.dropped_total + (self.in_journal or 0) + self.damaged

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong with it."""
        return not (self.missing or self.dropped_total or self.quarantined or self.damaged or self.waiting)


@dataclass
class Ledger:
    """Accounts added up."""

    processes: int = 0
    accepted: int = 0
    stored: int = 0
    in_journal: int = 0
    oldest: int | None = None
    """When the first event in the journal happened, in microseconds since the epoch."""
    quarantined: int = 0
    damaged: int = 0
    waiting: int = 0
    """Of those in the journal, what nobody drains."""
    missing: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    """Processes whose journal is not seen from here, by host."""
    hosts: dict[str, list[str]] = field(default_factory=dict)
    """Where something is wrong: hosts by what it is (missing, dropped, quarantined, damaged, waiting)."""

    def add(self, account: Account) -> None:
        """Take one in."""
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
        for what, count in (
            ("missing", account.missing),
            ("dropped", account.dropped_total),
            ("quarantined", account.quarantined),
            ("damaged", account.damaged),
            ("waiting", account.waiting),
        ):
            known = self.hosts.setdefault(what, []) if count else None
            if known is not None and account.host not in known:
                known.append(account.host)

    @property
    def complete(self) -> bool:
        """Whether every event is stored, or in a journal that somebody drains."""
        return not self.hosts

    def sentence(self) -> str:
        """The verdict in one sentence."""
        of = f"{self.accepted:,} {plural(self.accepted, 'event')} of {self.processes:,} "
        of += plural(self.processes, "process")
        if not self.processes:
            return "Nothing to check: no process is known to have written events."
        if self.complete:
            way = f", of which {self.in_journal:,} are on their way to the database" if self.in_journal else ""
            return f"Complete: {of}{way}."
        counts = {
            "missing": (self.missing, "missing"),
            "dropped": (self.dropped.total(), "dropped"),
            "quarantined": (self.quarantined, "in quarantine"),
            "damaged": (self.damaged, "damaged in the journal"),
            "waiting": (self.waiting, "in a journal that nobody drains"),
        }
        told = [f"{count:,} {words} ({listed(self.hosts[what])})" for what, (count, words) in counts.items() if count]
        return f"Not complete: of {of}, {', '.join(told)}."


def counts(of: Account | Ledger) -> dict[str, int | Mapping[str, int] | None]:
    """The equation's numbers by name: ``accepted`` is the sum of the others but ``abandoned``, which is that part of
    ``in_journal`` that nobody drains."""
    return {
        "accepted": of.accepted,
        "stored": of.stored,
        "in_journal": of.in_journal,
        "abandoned": of.waiting,
        "quarantined": of.quarantined,
        "damaged": of.damaged,
        "dropped": dict(of.dropped),
        "missing": of.missing,
    }


def plural(count: int, word: str) -> str:
    """The word for so many."""
    if count == 1:
        return word
    return f"{word}es" if word.endswith("s") else f"{word}s"


def listed(names: Sequence[str], limit: int = 3) -> str:
    """Some names, and how many more there are."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
