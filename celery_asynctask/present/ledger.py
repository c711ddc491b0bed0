"""The verdict on the ledger in words."""

from __future__ import annotations

from celery_asynctask.core.accounting import Ledger, listed, plural


def verdict(ledger: Ledger) -> str:
    """One sentence: whether every event has its place and, if not, how many have not, why, and on which hosts."""
    events = f"{ledger.accepted:,} {plural(ledger.accepted, 'event')} of {ledger.processes:,} "
    events += plural(ledger.processes, "process")
    if not ledger.processes:
        return "Nothing to check: no process is known to have written events."
    if ledger.complete:
        on_the_way = f", of which {ledger.in_journal:,} are on their way to the database" if ledger.in_journal else ""
        return f"Complete: {events}{on_the_way}."
    counts = {
        "missing": (ledger.missing, "missing"),
        "dropped": (ledger.dropped.total(), "dropped"),
        "quarantined": (ledger.quarantined, "in quarantine"),
        "damaged": (ledger.damaged, "damaged in the journal"),
        "waiting": (ledger.waiting, "in a journal that nobody drains"),
    }
    parts = [
        f"{count:,} {words} ({listed(ledger.hosts[trouble])})" for trouble, (count, words) in counts.items() if count
    ]
    return f"Not complete: of {events}, {', '.join(parts)}."
