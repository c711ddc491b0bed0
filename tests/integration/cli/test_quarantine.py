"""`celery asynctask quarantine`: what the database refused is listed, stored once it takes it, or given up; and the
ledger says so, whatever is killed and whoever appends meanwhile."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, update

from celery_asynctask.core.accounting import GIVEN_UP
from celery_asynctask.core.event import encode
from celery_asynctask.journal import Directory, Journal, spare
from celery_asynctask.operations import audit, session
from celery_asynctask.operations.quarantine import Quarantine
from celery_asynctask.operations.session import Writer
from celery_asynctask.recorder.drain import Drain
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.tables import async_task_source
from tests.histories import about, fold, published
from tests.integration.audit import columns, unwritable
from tests.integration.commands import Ended, Project
from tests.integration.draining import MakeDrain, append, quarantined, source_of, sources
from tests.integration.rows import stored
from tests.pace import patience
from tests.waiting import wait_for

SECRET = "4111 1111"
Refuse = Callable[..., None]


def event(task_id: str, **more: Any) -> dict[str, Any]:
    [made] = about([published(args=[SECRET], **more)], task_id)
    return {**made}


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Let the database refuse events with one of these words; with none, it takes all."""
    write = Store.write

    def set_words(*words: bytes) -> None:
        def refusing(store: Store, events: Any, *arguments: Any, **more: Any) -> int:
            if any(word in event for event in events for word in words):
                raise ValueError("the index of the user refuses it")
            return write(store, events, *arguments, **more)

        monkeypatch.setattr(Store, "write", refusing)

    return set_words


@pytest.fixture
def project(store: Store, tmp_path: Path) -> Project:
    return Project(tmp_path, asynctask_url=store.settings.url, asynctask_journal_dir=str(tmp_path / "journal"))


@pytest.fixture
def put_aside(store: Store, make_drain: MakeDrain, journal: Journal, refuse: Refuse) -> Drain:
    """Of one process: an event that is stored, and two in quarantine."""
    append(journal, event("good"), event("bad-1"), event("bad-2"))  # type: ignore[arg-type]
    refuse(b"bad-")
    drain = make_drain()
    drain.work()
    refuse()
    return drain


def numbers(store: Store, source: str) -> tuple[int, int, int, int]:
    """Stored, quarantined, given up and missing."""
    row = source_of(store, source)
    given_up = (row.dropped or {}).get(GIVEN_UP, 0)
    return row.stored, row.quarantined, given_up, row.last_number - row.stored - row.quarantined - given_up


def run(project: Project, *words: str) -> Ended:
    ended = project.run("quarantine", *words)
    assert SECRET not in ended.out + ended.err
    return ended


pytestmark = pytest.mark.every_database


def test_it_lists_what_is_there(project: Project, put_aside: Drain, journal: Journal) -> None:
    ended = run(project)
    assert (ended.code, ended.err) == (0, "")
    assert [line.split()[:3] for line in ended.lines[1:]] == [
        [journal.source, task, "shop.charge"] for task in ("bad-1", "bad-2")
    ]
    first = run(project, "list", "--json").values[0]
    assert first == {
        "source": journal.source,
        "task_id": "bad-1",
        "name": "shop.charge",
        "kind": "published",
        "at": first["at"],
        "bytes": len(quarantined(put_aside)[0]),
        "state": "whole",
        "events": 1,
    }
    assert first["at"].endswith("Z")
    assert run(project, "list", "another").err == "Quarantine is empty.\n"


def test_replay_stores_it_and_the_ledger_says_so(
    project: Project, put_aside: Drain, store: Store, journal: Journal
) -> None:
    assert numbers(store, journal.source) == (1, 2, 0, 0)
    ended = run(project, "replay", "--all")
    assert (ended.code, ended.out, ended.err) == (0, "Stored 2 events, 0 are left.\n", "")
    assert stored(store) == {task: fold([event(task)]) for task in ("good", "bad-1", "bad-2")}  # type: ignore[list-item]
    assert numbers(store, journal.source) == (3, 0, 0, 0)
    assert quarantined(put_aside) == []
    said = columns(store, "action", "target", "outcome", "detail")
    assert said == [
        ("replay", f"quarantine of {journal.source}", "begun", None),
        ("replay", journal.source, "done", "2 in the ledger"),
        ("replay", f"quarantine of {journal.source}", "done", "2 events stored, 0 left"),
    ]
    append(journal, event("later"))  # type: ignore[arg-type]
    put_aside.close()  # the positions are read again
    put_aside.work()
    assert numbers(store, journal.source) == (4, 0, 0, 0)
    assert run(project, "replay", "--all").err == "Quarantine is empty.\n"


def test_what_is_refused_again_stays(
    project: Project, put_aside: Drain, store: Store, journal: Journal, refuse: Refuse
) -> None:
    refuse(b"bad-2")
    ended = run(project, "replay", journal.source)
    assert (ended.code, ended.out) == (1, "Stored 1 event, 1 is left.\n")
    assert ended.err == "Task bad-2 is refused again: the index of the user refuses it.\n"
    assert sorted(stored(store)) == ["bad-1", "good"]
    assert numbers(store, journal.source) == (2, 1, 0, 0)
    assert [json.loads(line)["id"] for line in quarantined(put_aside)] == ["bad-2"]
    again = run(project, "replay", "--all", "--json")
    assert again.values == [
        {
            "source": journal.source,
            "stored": 0,
            "left": 1,
            "refused": [{"task_id": "bad-2", "reason": "the index of the user refuses it"}],
        }
    ]
    assert numbers(store, journal.source) == (2, 1, 0, 0)


def test_drop_asks_and_gives_up(project: Project, put_aside: Drain, store: Store, journal: Journal) -> None:
    assert run(project, "drop").code == 2, "no process, and not --all"
    looked = run(project, "drop", "--all", "--dry-run")
    assert (looked.code, len(looked.lines)) == (0, 3)
    asked = run(project, "drop", "--all")
    assert (asked.code, asked.out) == (2, "")
    assert "Not done: no terminal to confirm on." in asked.err
    assert numbers(store, journal.source) == (1, 2, 0, 0)
    assert columns(store, "action") == []
    done = run(project, "drop", journal.source, "--yes")
    assert (done.code, done.out) == (0, "Gave up 2 events of 1 process.\n")
    assert numbers(store, journal.source) == (1, 0, 2, 0)
    assert quarantined(put_aside) == []
    assert [outcome for _, outcome in columns(store, "action", "outcome")] == ["begun", "done", "done"]
    put_aside.close()
    append(journal, event("later"))  # type: ignore[arg-type]
    put_aside.work()
    assert numbers(store, journal.source) == (2, 0, 2, 0), "the recorder keeps what was given up"
    unknown = run(project, "drop", journal.source, "--yes")
    assert (unknown.code, unknown.out) == (1, "")
    assert f"Nothing of {journal.source} is in quarantine here." in unknown.err


def test_damaged_lines_can_only_be_dropped(
    project: Project, make_drain: MakeDrain, store: Store, journal: Journal
) -> None:
    append(journal, *(event(f"t{number}") for number in range(4)))  # type: ignore[arg-type]
    journal.close()
    drain = make_drain()
    [segment] = drain.directory.segments()
    lines = segment.path.read_bytes().splitlines()
    lines[2] = lines[2].replace(SECRET.encode(), b"4222")
    lines[3] = b"\xff\r" * 5
    segment.path.write_bytes(b"\n".join(lines) + b"\n")
    drain.work()
    assert numbers(store, journal.source) == (2, 2, 0, 0)
    listed = run(project, "list", "--json").values
    about_them = [(one["task_id"], one["name"], one["kind"], one["state"]) for one in listed]
    assert about_them == [("t1", "shop.charge", "published", "unreadable"), (None, None, None, "unreadable")]
    ended = run(project, "replay", "--all")
    assert (ended.code, ended.out) == (1, "Stored 0 events, 2 are left.\n")
    assert numbers(store, journal.source) == (2, 2, 0, 0)
    assert run(project, "drop", "--all", "--yes").code == 0
    assert numbers(store, journal.source) == (2, 0, 2, 0)
    assert quarantined(drain) == []


def test_an_event_that_was_cut(project: Project, put_aside: Drain, journal: Journal) -> None:
    cut = encode(event("large", kwargs={"text": "x" * 9000}))[:4096]  # type: ignore[arg-type]
    put_aside.directory.quarantine(journal.source, cut)
    last = run(project, "--json").values[-1]
    assert (last["task_id"], last["kind"], last["bytes"], last["state"]) == ("large", "published", 4096, "cut")


def test_what_was_counted_and_not_kept(
    project: Project, make_drain: MakeDrain, store: Store, journal: Journal, refuse: Refuse
) -> None:
    """It is listed, stays in quarantine in the ledger when the rest is replayed, and can be dropped."""
    count = 100
    append(journal, *(event(f"bad-{number}") for number in range(count)))  # type: ignore[arg-type]
    refuse(b"bad-")
    make_drain(journal_max_bytes=200_000).work()
    refuse()
    *entries, last = run(project, "--json").values
    kept = len(entries)
    assert 0 < kept < count
    assert last == {"source": journal.source, "state": "not kept", "events": count - kept}
    assert f"{count - kept} more events of {journal.source}: counted and not kept" in run(project).out
    assert run(project, "replay", "--all").code == 0
    assert numbers(store, journal.source) == (kept, count - kept, 0, 0)
    assert run(project, "drop", "--all", "--yes").out == f"Gave up {count - kept} events of 1 process.\n"
    assert numbers(store, journal.source) == (kept, 0, count - kept, 0)


def test_a_line_that_is_there_twice_counts_once(
    project: Project, put_aside: Drain, store: Store, journal: Journal, refuse: Refuse
) -> None:
    """The recorder died before its commit, and put the event aside again."""
    for line in quarantined(put_aside)[:1]:
        put_aside.directory.quarantine(journal.source, line)
    refuse(b"bad-2")
    assert run(project, "replay", "--all").out == "Stored 1 event, 1 is left.\n"
    assert numbers(store, journal.source) == (2, 1, 0, 0)


def test_a_line_that_was_stored_after_all_moves_no_number(
    project: Project, put_aside: Drain, store: Store, journal: Journal, refuse: Refuse
) -> None:
    """The recorder's commit failed, and then the database took the event: another one must stay counted."""
    put_aside.directory.quarantine(journal.source, encode(event("good")))  # type: ignore[arg-type]
    refuse(b"bad-")
    assert run(project, "replay", "--all").out == "Stored 1 event, 2 are left.\n"
    assert numbers(store, journal.source) == (1, 2, 0, 0)


def test_a_process_that_the_ledger_does_not_know(
    project: Project, put_aside: Drain, store: Store, journal: Journal
) -> None:
    gone = "20260102T030405-1-a1b2c3d4"
    put_aside.directory.quarantine(gone, encode(event("old")))  # type: ignore[arg-type]
    assert run(project, "replay", gone).out == "Stored 1 event, 0 are left.\n"
    assert "old" in stored(store)
    assert [source.source for source in sources(store)] == [journal.source]
    put_aside.directory.quarantine(gone, b"damaged")
    assert run(project, "drop", gone, "--yes").out == "Gave up 0 events of 1 process.\n"
    assert len(quarantined(put_aside)) == 2, "the other process's"


def test_a_process_whose_host_is_gone_can_be_given_up(
    project: Project, put_aside: Drain, store: Store, journal: Journal, tmp_path: Path
) -> None:
    (tmp_path / "journal").rename(tmp_path / "gone")
    assert run(project, "list").err == f"This host has no journal directory {tmp_path}/journal.\n"
    Directory(tmp_path / "journal", store.settings.store_id)
    assert run(project, "drop", "--all", "--yes").err == "Quarantine is empty.\n"
    assert numbers(store, journal.source) == (1, 2, 0, 0)
    assert run(project, "drop", journal.source, "--yes").code == 0
    assert numbers(store, journal.source) == (1, 0, 2, 0)


def test_a_process_that_is_just_being_stored_is_left_alone(
    project: Project, store: Store, journal: Journal, make_drain: MakeDrain
) -> None:
    """Its recorder has appended to the file and not yet committed the first row of the ledger."""
    append(journal, event("bad-1"))  # type: ignore[arg-type]
    make_drain().directory.quarantine(journal.source, encode(event("bad-1")))  # type: ignore[arg-type]
    for words in (("replay", "--all"), ("drop", "--all", "--yes")):
        run(project, *words)
        assert len(list((project.path / "journal").glob("*.quarantine"))) == 1
    assert stored(store) == {}


def test_two_commands_at_once(project: Project, put_aside: Drain) -> None:
    with Quarantine(put_aside.directory, Writer(put_aside.settings)).alone():
        ended = run(project, "replay", "--all")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("Error: Another command works on the quarantine in ")
    assert run(project, "replay", "--all").code == 0


@pytest.mark.parametrize("words", [("replay", "--all"), ("drop", "--all", "--yes")])
def test_without_its_entry_nothing_is_done(
    project: Project, put_aside: Drain, store: Store, journal: Journal, words: tuple[str, ...]
) -> None:
    with unwritable():
        ended = run(project, *words)
    assert ended.code == 3
    assert f"Error: Not done, for every {words[0]} is audited. " in ended.err
    assert numbers(store, journal.source) == (1, 2, 0, 0)
    assert sorted(stored(store)) == ["good"]
    assert len(quarantined(put_aside)) == 2


def test_a_foreign_record(project: Project, put_aside: Drain, store: Store, tmp_path: Path) -> None:
    """The audit of its app would not say so."""
    own = f"sqlite:///{tmp_path}/own.db"
    Project(tmp_path, asynctask_url=own, asynctask_journal_dir=str(tmp_path / "own"))
    directory = Directory(Settings(url=store.settings.url).directory, store.settings.store_id)
    directory.quarantine("1-1-1", encode(event("bad-3")))  # type: ignore[arg-type]
    ended = project.run("quarantine", "replay", "--all", group=("--url", store.settings.url))
    assert (ended.code, ended.out) == (1, "")
    assert "is not the record of this app. Run this with the app whose record it is" in ended.err
    assert sorted(stored(store)) == ["good"]


def test_a_second_place(project: Project, put_aside: Drain, store: Store, journal: Journal) -> None:
    """Where the disk takes nothing, the recorder puts events aside in memory, too."""
    directory = put_aside.directory
    assert directory.spare is not None
    assert spare.make(directory.spare)
    [line, _] = quarantined(put_aside)
    shutil.move(directory.path / f"{journal.source}.quarantine", directory.spare)
    assert [one["task_id"] for one in run(project, "--json").values] == ["bad-1", "bad-2"]
    directory.quarantine(journal.source, line)
    assert run(project, "replay", "--all").code == 0
    assert numbers(store, journal.source) == (3, 0, 0, 0)
    assert list(directory.paths(".quarantine")) == []


def test_while_the_database_is_away(project: Project, put_aside: Drain, tmp_path: Path) -> None:
    """What is there can be listed, and nothing is taken away."""
    url = "postgresql+psycopg://shop@127.0.0.1:9/shop"
    directory = Directory(tmp_path / "away", Settings(url=url).store_id)
    directory.quarantine("1-1-1", encode(event("bad")))  # type: ignore[arg-type]
    away = Project(tmp_path, asynctask_url=url, asynctask_journal_dir=str(tmp_path / "away"))
    listed = run(away)
    assert listed.code == 0
    assert "bad" in listed.out
    assert listed.err.startswith("The ledger cannot be read: ")
    for words in (("replay", "--all"), ("drop", "--all", "--yes")):
        assert run(away, *words).code == 3
    assert [path.name for path in directory.paths(".quarantine")] == ["1-1-1.quarantine"]


def put_one_more_aside(drain: Drain, source: str, connection: Connection) -> None:
    """As a recorder does: the ledger, then the file, then the commit."""
    columns = async_task_source.c
    more: Any = {"quarantined": columns.quarantined + 1, "last_number": columns.last_number + 1}
    connection.execute(update(async_task_source).where(columns.source == source).values(more))
    drain.directory.quarantine(source, encode(event("bad-3")))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "expected"), [(("replay", "--all"), (3, 1, 0, 0)), (("drop", "--all", "--yes"), (1, 1, 2, 0))]
)
def test_what_is_put_aside_meanwhile_stays(
    project: Project,
    put_aside: Drain,
    store: Store,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    expected: tuple[int, ...],
) -> None:
    take = Quarantine._take

    def taking(work: Quarantine, source: str) -> Any:
        taken = take(work, source)
        with store.engine.begin() as connection:
            put_one_more_aside(put_aside, source, connection)
        return taken

    monkeypatch.setattr(Quarantine, "_take", taking)
    assert run(project, *words).code == 0
    assert numbers(store, journal.source) == expected
    assert [json.loads(line)["id"] for line in quarantined(put_aside)] == ["bad-3"]


@pytest.mark.databases("postgresql", "mysql")
def test_it_waits_for_the_recorder(
    put_aside: Drain, store: Store, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a recorder has appended and not yet committed is not known before its commit. SQLite has one writer."""
    writer = Writer(store.settings)
    work = Quarantine(put_aside.directory, writer)
    begun: list[int] = []
    counted: list[int] = []
    begin, movable = session._begin, Quarantine._movable

    def beginning(connection: Connection) -> None:
        begun.append(1)
        begin(connection)

    def counting(work: Quarantine, source: str, *arguments: Any) -> int:
        counted.append(arguments[0])
        return movable(work, source, *arguments)

    monkeypatch.setattr(session, "_begin", beginning)
    monkeypatch.setattr(Quarantine, "_movable", counting)
    command = threading.Thread(target=work.replay, args=(journal.source, audit.Entry(audit.Action.REPLAY, "ada", "")))
    with store.engine.connect() as connection:
        put_one_more_aside(put_aside, journal.source, connection)
        command.start()
        wait_for(lambda: len(begun) > 1, 30, "the command has met the lock")
        connection.commit()
    command.join(patience(30))
    work.close()
    writer.close()
    assert counted == [3]
    # The third was in the file in time, or is in the next one.
    assert numbers(store, journal.source) in ((4, 0, 0, 0), (3, 1, 0, 0))
