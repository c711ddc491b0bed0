"""The ledger: every event has its place, or is missing."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from celery_asynctask.core.accounting import (
    GIVEN_UP,
    SILENT,
    UNSIGNED,
    Account,
    Answer,
    Ledger,
    Unheard,
    by_host,
    counts,
    dropped_of,
    is_unheard,
    listed,
    plural,
)

NOW = dt.datetime(2026, 1, 31, tzinfo=dt.timezone.utc)
WHOLE = Account("s", "a", 1, "worker", "j", NOW, None, last_number=5, stored=5)


def ledger(*accounts: Account) -> Ledger:
    total = Ledger()
    for one in accounts:
        total.add(one)
    return total


def test_nothing() -> None:
    assert ledger().complete
    assert ledger().processes == 0


def test_complete() -> None:
    assert WHOLE.is_whole
    many = ledger(*[WHOLE._replace(last_number=1000, stored=1000)] * 2)
    assert (many.complete, many.accepted, many.processes) == (True, 2000, 2)


@pytest.mark.parametrize(
    ("changes", "accepted", "trouble"),
    [
        ({"last_number": 8}, 8, "missing"),
        ({"dropped": {"ENOSPC": 1, "journal_max_bytes": 2}}, 8, "dropped"),
        ({"last_number": 6, "quarantined": 1}, 6, "quarantined"),
        ({"in_journal": 2, "abandoned": True}, 7, "waiting"),
        ({"damaged": 1}, 6, "damaged"),
    ],
)
def test_not_complete(changes: dict[str, Any], accepted: int, trouble: str) -> None:
    account = WHOLE._replace(**changes)
    total = ledger(account)
    assert (account.is_whole, total.complete, account.accepted) == (False, False, accepted)
    assert total.hosts == {trouble: ["a"]}
    parts = (
        total.stored,
        total.in_journal,
        total.quarantined,
        total.damaged,
        total.missing,
        total.dropped.total(),
    )
    assert total.accepted == sum(parts)


def test_an_account_of_a_process_that_has_written_nothing() -> None:
    new = Account("s", "a", 1, "worker", "j", NOW, None)
    assert new.is_whole
    assert (new.segment, new.position, new.last_number) == (0, 0, 0), "where its first event will be"
    assert counts(new) == {
        "accepted": 0,
        "stored": 0,
        "in_journal": 0,
        "abandoned": 0,
        "quarantined": 0,
        "damaged": 0,
        "given_up": 0,
        "dropped": {},
        "missing": 0,
    }
    assert WHOLE._replace(in_journal=2).waiting == 0, "somebody drains its journal, as long as nobody says otherwise"


def test_counts_of_everything_that_can_become_of_an_event() -> None:
    one = WHOLE._replace(
        last_number=110, stored=100, quarantined=7, in_journal=20, abandoned=True, damaged=4, dropped={"ENOSPC": 5}
    )
    expected = {
        "accepted": 139,
        "stored": 100,
        "in_journal": 20,
        "abandoned": 20,
        "quarantined": 7,
        "damaged": 4,
        "given_up": 0,
        "dropped": {"ENOSPC": 5},
        "missing": 3,
    }
    assert counts(one) == expected
    total = ledger(one, WHOLE._replace(in_journal=1, dropped={"ENOSPC": 1, "closed": 2}))
    assert counts(total) == {
        **expected,
        "accepted": 148,
        "stored": 105,
        "in_journal": 21,
        "dropped": {"ENOSPC": 6, "closed": 2},
    }


def test_not_complete_for_several_reasons_on_several_hosts() -> None:
    total = ledger(WHOLE._replace(last_number=6), WHOLE._replace(host="b", damaged=2, last_number=6))
    assert total.hosts == {"missing": ["a", "b"], "damaged": ["b"]}


def test_complete_while_some_are_on_their_way() -> None:
    total = ledger(WHOLE._replace(in_journal=1000))
    assert (total.complete, total.accepted, total.in_journal) == (True, 1005, 1000)


def test_more_stored_than_was_known_to_be_written_is_not_missing() -> None:
    assert WHOLE._replace(last_number=3).missing == 0
    assert WHOLE._replace(last_number=3).accepted == 5


def test_a_process_that_an_earlier_release_records_is_not_wrong() -> None:
    total = ledger(WHOLE._replace(in_journal=None), WHOLE)
    assert (total.complete, total.answer) == (True, Answer.COMPLETE)
    assert total.unknown == {}


SECOND = dt.timedelta(seconds=1)
ENDED = WHOLE._replace(ended_at=NOW, last_seen_at=NOW - 5 * SECOND, numbered=5)


@pytest.mark.parametrize(
    ("process", "unheard"),
    [
        (WHOLE._replace(numbered=5), False),
        (WHOLE._replace(last_seen_at=NOW - SILENT), False),
        (WHOLE._replace(last_seen_at=NOW - SILENT - SECOND), True),
        (WHOLE._replace(last_seen_at=NOW - SILENT - SECOND, settled_at=NOW), False),
        (ENDED, True),
        (ENDED._replace(settled_at=NOW), False),
        (ENDED._replace(numbered=None), False),
        (ENDED._replace(numbered=None, last_seen_at=NOW - SILENT), True),
        (ENDED._replace(given_up_at=NOW), True),
    ],
    ids=[
        "lives",
        "seen just now",
        "silent",
        "settled, and long ago",
        "ended without a last word",
        "settled",
        "its recorder was of an earlier release and found it gone",
        "others found it silent then",
        "given up, but no more is known",
    ],
)
def test_of_whom_nobody_knows_the_last_deeds(process: Account, unheard: bool) -> None:
    assert is_unheard(process, NOW) is unheard


def test_three_answers() -> None:
    """What is wrong comes before what is not known."""
    unknown = WHOLE._replace(unheard=True, host="far", last_seen_at=NOW - 2 * SECOND)
    assert not unknown.is_whole
    wrong = WHOLE._replace(last_number=6)
    answers = [(one.answer.value, one.complete) for one in map(ledger, (WHOLE, wrong, unknown))]
    assert answers == [("complete", True), ("not complete", False), ("not known", None)]
    assert str(ledger(WHOLE, wrong, unknown).answer) == "not complete"
    assert ledger(WHOLE, unknown, unknown._replace(last_seen_at=NOW)).unknown == {"far": Unheard(2, unknown[5], None)}


def test_until_when_they_may_have_done_something() -> None:
    """Only the recorder of its own journal can say that a process was gone."""
    gone, later = (WHOLE._replace(unheard=True, numbered=5, ended_at=NOW + number * SECOND) for number in (0, 1))
    assert ledger(gone, later).unknown["a"].until == later.ended_at
    silent = gone._replace(ended_at=NOW + SILENT)
    for accounts in ((gone, silent), (silent, gone)):
        assert ledger(*accounts).unknown["a"].until is None
    assert by_host(ledger(gone).unknown) == [{"host": "a", "processes": 1, "since": NOW, "tasks": 0}]


def test_what_was_given_up_is_counted_and_not_wrong() -> None:
    """Events that were dropped from quarantine had numbers; so had those that went down with a node."""
    given_up = WHOLE._replace(last_number=8, discarded=3, left_behind=2, unheard=True, given_up_at=NOW, host="far")
    assert (given_up.missing, given_up.accepted, given_up.is_whole) == (0, 10, True)
    assert given_up._replace(last_number=9).missing == 1
    total = ledger(given_up, WHOLE)
    assert (total.answer, total.given_up, total.accepted) == (Answer.COMPLETE, 5, 15)
    assert total.accepted_unknown == {"far": Unheard(1, NOW, None)}
    assert counts(total)["given_up"] == 5


def test_one_process_hides_nothing_of_another() -> None:
    """A damaged line may have been two events, so one may have more than it numbered."""
    total = ledger(WHOLE._replace(quarantined=1), WHOLE._replace(lost=1))
    assert (total.missing, total.accepted) == (1, 12)


@pytest.mark.parametrize("unseen", [0, None])
def test_nothing_waits_in_an_empty_journal_that_nobody_drains(unseen: int | None) -> None:
    account = WHOLE._replace(in_journal=unseen, abandoned=True)
    assert account.waiting == 0
    assert account.is_whole


def test_the_oldest() -> None:
    assert ledger(WHOLE, WHOLE._replace(oldest=7), WHOLE._replace(oldest=5), WHOLE).oldest == 5


def test_words() -> None:
    assert [plural(count, word) for word in ("event", "process") for count in (0, 1, 2)] == [
        "events",
        "event",
        "events",
        "processes",
        "process",
        "processes",
    ]
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b, c"
    assert listed(["a", "b", "c", "d"]) == "a, b, c and 1 more"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_what_was_not_signed_is_not_dropped() -> None:
    assert UNSIGNED == "unsigned header", "it stands in rows"
    assert GIVEN_UP == "given up", "it stands in rows, too"
    assert dropped_of({"ENOSPC": 1, UNSIGNED: 7, GIVEN_UP: 3, "zzz": 2}) == {"ENOSPC": 1, "zzz": 2}
    assert dropped_of(None) == {}
