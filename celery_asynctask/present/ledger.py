"""The verdict on the ledger in words."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from celery_asynctask.core.accounting import Answer, Ledger, Unheard, listed, plural


def verdict(ledger: Ledger) -> str:
    """Whether every event has its place, in a sentence or two: if not, how many have not, why, and on which hosts; if
    that is not known, of whom, and since when."""
    events = f"{ledger.accepted:,} {plural(ledger.accepted, 'event')} of {_processes(ledger.processes)}"
    if not ledger.processes:
        return "Nothing to check: no process is known to have written events."
    if ledger.answer is Answer.NOT_COMPLETE:
        counts = {
            "missing": (ledger.missing, "missing"),
            "dropped": (ledger.dropped.total(), "dropped"),
            "quarantined": (ledger.quarantined, "in quarantine"),
            "damaged": (ledger.damaged, "damaged in the journal"),
            "waiting": (ledger.waiting, "in a journal that nobody drains"),
        }
        parts = [
            f"{count:,} {words} ({listed(ledger.hosts[trouble])})"
            for trouble, (count, words) in counts.items()
            if count
        ]
        besides = f" Nor is it known {_what(ledger.unknown)}." if ledger.unknown else ""
        return f"Not complete: of {events}, {', '.join(parts)}.{besides}"
    on_the_way = f", of which {ledger.in_journal:,} are on their way to the database" if ledger.in_journal else ""
    excepted = _given_up(ledger)
    if ledger.answer is Answer.NOT_KNOWN:
        return (
            f"Not known: {_what(ledger.unknown)}, for nobody has heard of {_them(ledger.unknown)} since. "
            f"{_tasks(ledger)}The rest is complete{excepted}: {events}{on_the_way}."
        )
    return f"Complete{excepted}: {events}{on_the_way}."


def _given_up(ledger: Ledger) -> str:
    """What a person has given up, as an exception to "complete"; empty: nothing."""
    parts = []
    if ledger.given_up:
        were = "was" if ledger.given_up == 1 else "were"
        parts.append(f"for {ledger.given_up:,} {plural(ledger.given_up, 'event')} that {were} given up")
    if ledger.accepted_unknown:
        parts.append(f"for {_what(ledger.accepted_unknown)}, which was given up")
    return f", but {' and '.join(parts)}" if parts else ""


def _what(unheard: Mapping[str, Unheard]) -> str:
    count = sum(one.processes for one in unheard.values())
    since = min(one.since for one in unheard.values())
    return f"what {_processes(count)} of {listed(sorted(unheard))} did after {written(since)}"


def _them(unheard: Mapping[str, Unheard]) -> str:
    return "it" if sum(one.processes for one in unheard.values()) == 1 else "them"


def _tasks(ledger: Ledger) -> str:
    counts = [one.tasks for one in ledger.unknown.values()]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return "Any of the tasks that have no end here may have ended there. "
    count = max(known)
    if not count:
        return "Every task that is known here has ended. "
    return f"At most {count:,} of the tasks that have no end here may have ended there. "


def _processes(count: int) -> str:
    return f"{count:,} {plural(count, 'process')}"


def written(at: dt.datetime) -> str:
    """A time in a sentence."""
    return f"{at.astimezone(dt.timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
