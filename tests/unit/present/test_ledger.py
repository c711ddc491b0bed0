"""The verdict on the ledger: one sentence says whether every event has its place, and where the others are."""

from __future__ import annotations

from typing import Any

import pytest

from celery_asynctask.core.accounting import Account, Ledger
from celery_asynctask.present.ledger import verdict
from tests.unit.core.test_accounting import NOW, WHOLE, ledger


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


FAR = WHOLE._replace(host="far", unheard=True)
SINCE = "2026-01-31 00:00:00 UTC"


@pytest.mark.parametrize(
    ("accounts", "tasks", "sentence"),
    [
        (
            [FAR],
            12,
            f"Not known: what 1 process of far did after {SINCE}, for nobody has heard of it since. At most 12 of the "
            "tasks that have no end here may have ended there. The rest is complete: 5 events of 1 process.",
        ),
        (
            [FAR, FAR._replace(host="a", in_journal=2), WHOLE],
            0,
            f"Not known: what 2 processes of a, far did after {SINCE}, for nobody has heard of them since. Every task "
            "that is known here has ended. The rest is complete: 17 events of 3 processes, of which 2 are on their way "
            "to the database.",
        ),
        (
            [FAR],
            None,
            f"Not known: what 1 process of far did after {SINCE}, for nobody has heard of it since. Any of the tasks "
            "that have no end here may have ended there. The rest is complete: 5 events of 1 process.",
        ),
        (
            [FAR, WHOLE._replace(last_number=6)],
            12,
            "Not complete: of 11 events of 2 processes, 1 missing (a). Nor is it known what 1 process of far did after "
            f"{SINCE}.",
        ),
        (
            [FAR._replace(given_up_at=NOW)] * 3,
            0,
            f"Complete, but for what 3 processes of far did after {SINCE}, which was given up: 15 events of 3 "
            "processes.",
        ),
        (
            [FAR._replace(given_up_at=NOW, left_behind=1)],
            0,
            f"Complete, but for 1 event that was given up and for what 1 process of far did after {SINCE}, which was "
            "given up: 6 events of 1 process.",
        ),
        (
            [WHOLE._replace(last_number=7, discarded=2)],
            0,
            "Complete, but for 2 events that were given up: 7 events of 1 process.",
        ),
        (
            [FAR, WHOLE._replace(last_number=7, discarded=2)],
            1,
            f"Not known: what 1 process of far did after {SINCE}, for nobody has heard of it since. At most 1 of the "
            "tasks that have no end here may have ended there. The rest is complete, but for 2 events that were given "
            "up: 12 events of 2 processes.",
        ),
    ],
)
def test_what_is_not_known_or_given_up(accounts: list[Account], tasks: int | None, sentence: str) -> None:
    found = ledger(*accounts)
    found.unknown = {host: one._replace(tasks=tasks) for host, one in found.unknown.items()}
    assert verdict(found) == sentence
