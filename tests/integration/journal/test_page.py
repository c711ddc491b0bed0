"""The control page of a process: it says what was accepted and which runs are in hand, whatever ends the process."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_asynctask.journal import Directory, Journal, frame, page
from celery_asynctask.journal.files import is_being_written
from celery_asynctask.journal.page import BLOCK, COUNTS_AT, SLOTS, ControlPage, merged, read
from tests.integration.journals import STORE, events_in
from tests.processes import at_once

DESCRIPTION = frame.pack(0, b'{"source":"s","pid":1}')


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    made = Journal(path, STORE)
    yield made
    made.close()


def view_of(journal: Journal) -> page.View:
    view = Directory(journal.path, STORE).view(journal.source)
    assert view is not None
    return view


def test_a_run_in_hand_has_its_start_in_the_page_and_one_event_in_the_end(journal: Journal, path: Path) -> None:
    slot = journal.begin(b"start")
    assert slot is not None
    assert view_of(journal).starts == {slot: b"start"}
    assert events_in(path) == {journal.source: []}
    assert journal.append(b"end with start", slot)
    assert view_of(journal).starts == {}
    assert events_in(path) == {journal.source: [(1, b"end with start")]}
    assert journal.begin(b"next") == slot


def test_as_many_runs_as_there_are_slots(journal: Journal) -> None:
    slots = [journal.begin(b"start %d" % number) for number in range(SLOTS + 1)]
    assert slots == [*range(1, SLOTS + 1), None]
    assert list(view_of(journal).starts.values()) == [b"start %d" % number for number in range(SLOTS)]
    assert slots[5] is not None
    journal.append(b"end", slots[5])
    assert journal.begin(b"again") == slots[5]


def test_a_start_that_is_larger_than_a_slot_is_an_event(journal: Journal) -> None:
    assert journal.begin(b"x" * BLOCK) is None
    assert journal.begin(b"x" * (BLOCK - 20)) == 1


def test_what_was_accepted_is_known_after_a_kill(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text of what waited in memory is gone with the process; the number is not."""
    monkeypatch.setattr("celery_asynctask.journal.spare.spare_of", lambda *_: None)

    def child(_number: int) -> str:
        journal = Journal(path, STORE)
        journal.append(b"written")
        journal.begin(b"start")
        assert journal._handle is not None
        os.dup2(os.open(path, os.O_RDONLY), journal._handle)  # it cannot be written to any more
        assert not journal.append(b"held")
        journal.retry()
        return journal.source

    [source] = at_once(1, child)
    view = Directory(path, STORE).view(source)
    assert view is not None
    assert (view.numbered, view.held, view.dropped, view.starts) == (2, 1, {}, {1: b"start"})
    assert view.description["source"] == source


@pytest.mark.parametrize("damage", ["truncated", "empty", "removed", "replaced"])
def test_whatever_somebody_does_to_the_page_the_process_goes_on(journal: Journal, path: Path, damage: str) -> None:
    """Nothing raises, least of all SIGBUS, and every event is written."""
    slot = journal.begin(b"start")
    assert slot is not None
    [page_path] = path.glob("*.page")
    if damage in ("truncated", "empty"):
        os.truncate(page_path, 100 if damage == "truncated" else 0)
    else:
        page_path.unlink()
        if damage == "replaced":
            page_path.write_bytes(b"x" * 10_000)
    before = signal.getsignal(signal.SIGBUS)
    assert journal.append(b"end", slot)
    for number in range(5):
        again = journal.begin(b"start %d" % number)
        assert again is not None
        assert journal.append(b"end %d" % number, again)
    assert signal.getsignal(signal.SIGBUS) is before
    assert len(events_in(path)[journal.source]) == 6


def test_a_page_that_is_gone_is_made_again_with_the_next_segment(journal: Journal, path: Path) -> None:
    journal.append(b"1")
    next(path.glob("*.page")).unlink()
    journal.close()
    journal.append(b"2")
    slot = journal.begin(b"start")
    assert slot is not None
    assert view_of(journal).starts == {slot: b"start"}


def test_a_page_that_takes_no_more_is_followed_by_one_in_the_second_place(journal: Journal, path: Path) -> None:
    """At once, so that the number of what is accepted from then on survives whatever comes next."""
    first = journal.begin(b"first")
    control = journal._accounts._page
    assert control is not None
    assert control._handle is not None
    os.dup2(os.open(path, os.O_RDONLY), control._handle)  # as on a file system that became read-only
    journal.append(b"1")
    journal.close()
    directory = Directory(path, STORE)
    assert [page.parent for page in directory.pages()[journal.source]] == directory.places()
    assert len(directory.places()) == 2
    second = journal.begin(b"second")
    assert (first, second) == (1, 2), "the first is still taken"
    view = view_of(journal)
    assert set(view.starts.values()) == {b"first", b"second"}
    assert view.numbered == 1


def test_slots_are_freed_once(path: Path) -> None:
    path.mkdir()
    control = ControlPage(path / "s.page", DESCRIPTION)
    slot = control.begin(frame.pack(0, b"start"))
    assert slot is not None
    for _ in range(3):
        control.end(slot, True)
    control.end(77, True)
    assert [control.begin(frame.pack(0, b"x")) for _ in range(3)] == [1, 2, 3]
    control.close()


def test_an_end_that_only_waits_leaves_its_start(path: Path) -> None:
    """A kill would take the end, and nobody would know that there was a run."""
    path.mkdir()
    control = ControlPage(path / "s.page", DESCRIPTION)
    slot = control.begin(frame.pack(0, b"start"))
    assert slot is not None
    control.end(slot, False)
    view = read(control.path)
    assert view is not None
    assert view.starts == {slot: b"start"}
    control.close()


@pytest.mark.parametrize("at", [0, COUNTS_AT, BLOCK])
def test_what_is_damaged_says_nothing(path: Path, at: int) -> None:
    path.mkdir()
    control = ControlPage(path / "s.page", DESCRIPTION)
    control.count(7, {"ENOSPC": 2}, 3)
    control.begin(frame.pack(5, b"start"))
    control.close()
    with control.path.open("r+b") as file:
        file.seek(at + 12)
        file.write(b"\xff")
    view = read(control.path)
    assert view is not None
    whole = ({"source": "s", "pid": 1}, 7, {"ENOSPC": 2}, 3, {1: b"start"})
    expected = {
        0: ({}, *whole[1:]),
        COUNTS_AT: (whole[0], 5, {}, 0, whole[4]),
        BLOCK: (*whole[:4], {}),
    }[at]
    assert (view.description, view.numbered, view.dropped, view.held, view.starts) == expected


def test_two_pages_say_the_larger_numbers() -> None:
    one = page.View({"pid": 1}, 5, {"ENOSPC": 2, "EIO": 1}, 4, {1: b"a", 2: b"b"})
    two = page.View({}, 9, {"ENOSPC": 3}, 0, {2: b"c"})
    assert merged([]) is None
    assert merged([one]) == one
    assert merged([one, two]) == page.View({"pid": 1}, 9, {"ENOSPC": 3, "EIO": 1}, 0, {1: b"a", 2: b"b", 3: b"c"})


class Nowhere:
    """No disk takes a write to a segment; what is in its place already can be written to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("celery_asynctask.journal.spare.spare_of", lambda *_: None)
        monkeypatch.setattr("celery_asynctask.journal.writer.RETRY_SECONDS", 0)
        monkeypatch.setattr(os, "write", self.write)

    @staticmethod
    def write(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_process_that_holds_events_in_memory_has_not_ended(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last app is closed, but the events may still be written. It ends when they are given up."""
    journal.append(b"1")
    with monkeypatch.context() as patch:
        Nowhere(patch)
        journal.append(b"2")
        journal.close()
        [segment] = Directory(path, STORE).segments()
        assert is_being_written(segment.path)
        assert (view_of(journal).numbered, view_of(journal).held) == (2, 1)
        journal.abandon()
        assert not is_being_written(segment.path)
        view = view_of(journal)
        assert (view.numbered, view.held, view.dropped) == (1, 0, {"ENOSPC": 1})


def test_what_is_accepted_after_the_journal_was_closed_is_counted(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.append(b"1")
    journal.close()
    assert journal._accounts._page is None
    Nowhere(monkeypatch)
    assert not journal.append(b"2")
    assert (view_of(journal).numbered, view_of(journal).held) == (2, 1)


def test_a_page_that_is_gone_is_made_again_where_no_segment_can_be(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.append(b"1")
    journal.close()
    next(path.glob("*.page")).unlink()  # its recorder has accounted for all
    Nowhere(monkeypatch)
    assert not journal.append(b"2")
    assert (view_of(journal).numbered, view_of(journal).held) == (2, 1)
