"""The verdict on the ledger: one sentence says whether every event has its place, and where the others are."""

from __future__ import annotations

from typing import Any

import pytest

from celery_asynctask.core.accounting import Account, Ledger
from celery_asynctask.present.ledger import verdict
from tests.unit.core.test_accounting import WHOLE, ledger


@pytest.mark.parametrize(
    ("accounts", "sentence"),
    [
        ([], "Nothing to check: no process is known to have written events."),
        ([WHOLE], "Complete: 5 events of 1 process."),
        ([WHOLE._replace(last_number=1000, stored=1000)] * 2, "Complete: 2,000 events of 2 processes."),
        (
            [WHOLE._replace(in_journal=1000)],
            "Complete: 1,005 events of 1 process, of which 1,000 are on their way to the database.",
        ),
        (
            [WHOLE._replace(last_number=6), WHOLE._replace(host="b", damaged=2, last_number=6)],
            "Not complete: of 14 events of 2 processes, 2 missing (a, b), 2 damaged in the journal (b).",
        ),
    ],
)
def test_verdicts(accounts: list[Account], sentence: str) -> None:
    assert verdict(ledger(*accounts)) == sentence


@pytest.mark.parametrize(
    ("changes", "accepted", "words"),
    [
        ({"last_number": 8}, 8, "3 missing (a)"),
        ({"dropped": {"ENOSPC": 1, "journal_max_bytes": 2}}, 8, "3 dropped (a)"),
        ({"last_number": 6, "quarantined": 1}, 6, "1 in quarantine (a)"),
        ({"in_journal": 2, "abandoned": True}, 7, "2 in a journal that nobody drains (a)"),
        ({"damaged": 1}, 6, "1 damaged in the journal (a)"),
    ],
)
def test_each_trouble_has_its_words(changes: dict[str, Any], accepted: int, words: str) -> None:
    found: Ledger = ledger(WHOLE._replace(**changes))
    assert verdict(found) == f"Not complete: of {accepted} events of 1 process, {words}."
