"""The verdict on the ledger: every event has its place, and one sentence says where what lacks is."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from celery_asynctask.ledger import Account, Ledger, listed, plural

NOW = dt.datetime(2026, 1, 31, tzinfo=dt.timezone.utc)
WHOLE = Account("s", "a", 1, "worker", "j", NOW, None, last_number=5, stored=5)


def ledger(*accounts: Account) -> Ledger:
    found = Ledger()
    for one in accounts:
        found.add(one)
    return found


def test_nothing() -> None:
    assert ledger().complete
    assert ledger().sentence() == "Nothing to check: no process is known to have written events."


def test_complete() -> None:
    assert WHOLE.is_whole
    many = ledger(*[WHOLE._replace(last_number=1000, stored=1000)] * 2)
    assert many.sentence() == "Complete: 2,000 events of 2 processes."


@pytest.mark.parametrize(
    ("more", "accepted", "told"),
    [
        ({"last_number": 8}, 8, "3 missing (a)"),
        ({"dropped": {"ENOSPC": 1, "journal_max_bytes": 2}}, 8, "3 dropped (a)"),
        ({"last_number": 6, "quarantined": 1}, 6, "1 in quarantine (a)"),
        ({"in_journal": 2, "abandoned": True}, 7, "2 in a journal that nobody drains (a)"),
        ({"damaged": 1}, 6, "1 damaged in the journal (a)"),
    ],
)
def test_not_complete(more: dict[str, Any], accepted: int, told: str) -> None:
    account = WHOLE._replace(**more)
    found = ledger(account)
    assert (account.is_whole, found.complete, account.accepted) == (False, False, accepted)
    assert found.sentence() == f"Not complete: of {accepted} events of 1 process, {told}."
    parts = (found.stored, found.in_journal, found.quarantined, found.damaged, found.missing, found.dropped.total())
    assert found.accepted == sum(parts)


def test_a_journal_that_is_not_seen_is_not_wrong() -> None:
    found = ledger(WHOLE._replace(in_journal=None), WHOLE._replace(in_journal=None, host="b"))
    assert found.complete
    assert dict(found.unknown) == {"a": 1, "b": 1}


def test_the_oldest() -> None:
    assert ledger(WHOLE, WHOLE._replace(oldest=7), WHOLE._replace(oldest=5), WHOLE).oldest == 5


def test_words() -> None:
    assert [plural(count, word) for word in ("event", "process") for count in (1, 2)] == [
        "event",
        "events",
        "process",
        "processes",
    ]
    assert listed(["a", "b", "c"]) == "a, b, c"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
