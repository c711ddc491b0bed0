"""Attempts whose process is gone are lost, after two looks; those of a living process never are."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DatabaseError

from celery_asynctask.core.event import Kind, encode, json_text
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.journal import Directory, Journal
from celery_asynctask.recorder import liveness
from celery_asynctask.recorder.drain import Drain
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.histories import ID, Delivery, event, ms, variant
from tests.integration.draining import source_of
from tests.integration.rows import stored

pytestmark = pytest.mark.every_database

EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)


class Clock:
    """Both clocks of the watch, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = 1000.0
        monkeypatch.setattr("celery_asynctask.recorder.liveness.time.monotonic", lambda: self.at)
        monkeypatch.setattr("celery_asynctask.store.store._now", lambda: EPOCH + dt.timedelta(seconds=self.at))


class Node:
    """A host with a journal directory of its own, and the recorder that it has elected."""

    def __init__(self, path: Path, store: Store, clock: Clock) -> None:
        settings = Settings(url=store.settings.url, journal_dir=path)
        self.directory = Directory(path, store.settings.store_id)
        self.journal = Journal(path, store.settings.store_id)
        self.drain = Drain(self.directory, settings)
        self.clock = clock

    def after(self, seconds: float) -> None:
        """Let time pass, then let the recorder work."""
        self.clock.at += seconds
        self.drain.work()


@pytest.fixture
def make_node(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Node]]:
    clock = Clock(monkeypatch)
    made: list[Node] = []

    def make(name: str = "node") -> Node:
        made.append(Node(tmp_path / name, store, clock))
        return made[-1]

    yield make
    for node in made:
        node.journal.close()
        node.drain.close()


def status(store: Store) -> AsyncTaskStatus:
    status: AsyncTaskStatus = stored(store)[ID].task["status"]
    return status


def started(node: Node, **fields: Any) -> bytes:
    return encode(Delivery(2, **fields).started(3, source=node.journal.source))


def test_an_attempt_whose_process_is_gone_is_lost(store: Store, make_node: Callable[..., Node]) -> None:
    node = make_node()
    node.journal.append(started(node))
    node.after(0)
    node.journal.close()  # as the kernel does for a process that was killed
    node.after(liveness.LOOK_SECONDS)
    assert source_of(store, node.journal.source).ended_at is not None
    node.after(liveness.LOST_SECONDS - 1)
    assert status(store) == "STARTED", "its worker may still tell what became of it"
    node.after(liveness.LOOK_SECONDS)
    partial = stored(store)[ID]
    assert partial.task["status"] == "LOST"
    [attempt] = partial.attempts.values()
    assert (attempt["outcome"], attempt["error_type"]) == ("lost", "WorkerLostError")
    assert "This attempt never reported its end, and its process is gone: producer" in attempt["error_message"]
    assert f"producer {os.getpid()} on " in attempt["error_message"]
    assert "last seen 2026-01-01 00:" in attempt["error_message"]


def test_a_run_of_hours_is_not(store: Store, make_node: Callable[..., Node]) -> None:
    node = make_node()
    node.journal.append(started(node))
    for _ in range(50):
        node.after(3600)
    assert status(store) == "STARTED"
    source = source_of(store, node.journal.source)
    assert source.ended_at is None
    assert source.last_seen_at.day == 3


def test_what_is_still_to_be_stored_is_waited_for(store: Store, make_node: Callable[..., Node]) -> None:
    node = make_node()
    node.journal.append(started(node))
    node.after(0)
    node.journal.append(encode(Delivery(2).ended(Kind.SUCCEEDED, 9)))
    node.journal.close()
    node.after(1000)
    node.after(1000)
    assert status(store) == "SUCCESS"


def test_a_late_end_corrects_it(store: Store, make_node: Callable[..., Node]) -> None:
    node = make_node()
    node.journal.append(started(node))
    node.journal.close()
    for seconds in (0, liveness.LOOK_SECONDS, liveness.LOST_SECONDS):
        node.after(seconds)
    assert status(store) == "LOST"
    node.journal.append(encode(Delivery(2).ended(Kind.SUCCEEDED, 9)))
    node.after(1)
    assert status(store) == "SUCCESS"


def test_a_redelivery_corrects_it(store: Store, make_node: Callable[..., Node]) -> None:
    node, again = make_node("one"), make_node("two")
    node.journal.append(started(node))
    node.journal.close()
    for seconds in (0, liveness.LOOK_SECONDS, liveness.LOST_SECONDS):
        node.after(seconds)
    assert status(store) == "LOST"
    again.journal.append(started(again, redelivered=True))
    again.after(1)
    partial = stored(store)[ID]
    assert partial.task["status"] == "STARTED"
    assert partial.task["completed_at"] is None
    assert [attempt["outcome"] for _, attempt in sorted(partial.attempts.items())] == ["lost", None]


def test_a_retry_s_own_end_is_left_alone(store: Store, make_node: Callable[..., Node]) -> None:
    """Only attempts without an end are lost."""
    node = make_node()
    node.journal.append(started(node))
    node.journal.append(encode(Delivery(2).ended(Kind.RETRIED, 9)))
    node.journal.close()
    for seconds in (0, liveness.LOOK_SECONDS, liveness.LOST_SECONDS):
        node.after(seconds)
    assert status(store) == "RETRY"


# -- messages ------------------------------------------------------------------------


def received(node: Node, **fields: Any) -> bytes:
    return encode(Delivery(2, **fields).received(holder=node.journal.source))


@pytest.mark.parametrize("retries", [0, 2])
def test_a_message_whose_process_is_gone_waits_for_a_worker_again(
    store: Store, make_node: Callable[..., Node], retries: int
) -> None:
    node = make_node()
    node.journal.append(received(node, retries=retries, customer_key="acme"))
    node.after(0)
    node.journal.close()
    node.after(liveness.LOOK_SECONDS)
    node.after(liveness.LOST_SECONDS - 1)
    before = status(store)
    node.after(liveness.LOOK_SECONDS)
    if not retries:
        assert (before, status(store)) == ("RECEIVED", "PENDING")
    else:
        assert (before, status(store)) == ("RETRY", "RETRY")
    assert stored(store)[ID].task["holder"] == node.journal.source


def test_a_worker_that_ends_releases_what_it_holds(store: Store, make_node: Callable[..., Node]) -> None:
    """At once, and nothing of another's."""
    node = make_node()
    node.journal.append(received(node))
    other = encode(variant(event(Kind.RECEIVED, 2, created=ms(0), holder="another"), id="other"))
    node.journal.append(other)
    node.after(0)
    node.drain.release(node.journal.source)
    rows = stored(store)
    assert (rows[ID].task["status"], rows["other"].task["status"]) == ("PENDING", "RECEIVED")


def test_a_message_that_another_worker_has_by_then_stays_received(store: Store, make_node: Callable[..., Node]) -> None:
    node, other = make_node("one"), make_node("other")
    node.journal.append(received(node))
    node.after(0)
    node.journal.close()
    other.journal.append(encode(Delivery(5, redelivered=True).received(holder=other.journal.source)))
    other.after(0)
    for _ in range(10):
        node.after(liveness.LOOK_SECONDS)
        other.after(0)
    assert (status(store), stored(store)[ID].task["holder"]) == ("RECEIVED", other.journal.source)


def test_a_message_of_a_node_that_comes_back_is_received_again(store: Store, make_node: Callable[..., Node]) -> None:
    away, other = make_node("away"), make_node("other")
    away.journal.append(received(away))
    away.after(0)
    for _ in range(11):
        other.after(liveness.LOOK_SECONDS)
    assert status(store) == "PENDING"
    away.after(1)
    assert status(store) == "RECEIVED"
    away.journal.append(started(away))
    away.after(1)
    assert (status(store), stored(store)[ID].task["holder"]) == ("STARTED", None)


def test_a_task_that_is_not_to_be_recorded_is_forgotten_after_a_day(
    store: Store, make_node: Callable[..., Node]
) -> None:
    node = make_node()
    at = int((EPOCH + dt.timedelta(seconds=node.clock.at)).timestamp() * 1_000_000)
    event = {"id": ID, "kind": "unrecorded", "at": at, "name": "a.task", "created": at}
    node.journal.append(json_text(event).encode())
    node.after(0)
    for _ in range(23):
        node.after(3600)
    assert status(store) == "UNRECORDED"
    node.after(3700)
    assert stored(store) == {}


# -- other nodes ---------------------------------------------------------------------


def test_a_node_that_is_gone(store: Store, make_node: Callable[..., Node], tmp_path: Path) -> None:
    """Nobody is left there to see that the process is gone."""
    gone, other = make_node("gone"), make_node("other")
    gone.journal.append(started(gone))
    gone.after(0)
    shutil.rmtree(tmp_path / "gone")
    other.after(0)
    for _ in range(8):
        other.after(liveness.LOOK_SECONDS)
    assert status(store) == "STARTED"
    other.after(liveness.LOOK_SECONDS)
    partial = stored(store)[ID]
    assert partial.task["status"] == "LOST"
    assert "its node has been silent for 90 s" in partial.task["error_message"]


def test_a_node_that_notes_its_processes_is_there(store: Store, make_node: Callable[..., Node]) -> None:
    busy, other = make_node("busy"), make_node("other")
    busy.journal.append(started(busy))
    for _ in range(40):
        busy.after(liveness.LOOK_SECONDS / 2)
        other.after(liveness.LOOK_SECONDS / 2)
    assert status(store) == "STARTED"


def test_a_node_that_comes_back_finds_what_was_lost(store: Store, make_node: Callable[..., Node]) -> None:
    """It was cut off from the database; its processes run on."""
    away, other = make_node("away"), make_node("other")
    away.journal.append(started(away))
    away.after(0)
    for _ in range(11):
        other.after(liveness.LOOK_SECONDS)
    assert status(store) == "LOST"
    away.after(1)
    partial = stored(store)[ID]
    assert partial.task["status"] == "STARTED"
    assert (partial.task["completed_at"], partial.task["error_type"]) == (None, None)
    assert source_of(store, away.journal.source).ended_at is None
    for _ in range(20):
        away.after(liveness.LOOK_SECONDS / 2)
        other.after(liveness.LOOK_SECONDS / 2)
    assert status(store) == "STARTED"
    away.journal.append(encode(Delivery(2).ended(Kind.SUCCEEDED, 9)))
    away.after(1)
    assert status(store) == "SUCCESS"


def test_when_the_database_was_away_everybody_gets_time(store: Store, make_node: Callable[..., Node]) -> None:
    """Nobody could note anything."""
    one, other = make_node("one"), make_node("other")
    one.journal.append(started(one))
    one.after(0)
    other.after(0)
    for _ in range(30):
        other.drain.close()  # as the recorder does when the database fails
        other.clock.at += 60
    other.after(liveness.LOOK_SECONDS)
    other.after(liveness.LOOK_SECONDS)
    assert status(store) == "STARTED"


def test_when_the_database_is_back_life_is_noted_at_once(
    store: Store, make_node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed look does not count."""
    node = make_node()
    node.journal.append(started(node))
    node.after(0)
    before = source_of(store, node.journal.source).last_seen_at
    with monkeypatch.context() as patch:
        patch.setattr(Store, "note_alive", fail)
        with pytest.raises(OSError, match="away"):
            node.after(liveness.LOOK_SECONDS)
    node.drain.close()  # as the recorder does then
    node.after(1)
    assert source_of(store, node.journal.source).last_seen_at - before == dt.timedelta(
        seconds=liveness.LOOK_SECONDS + 1
    )


def fail(*_: object) -> None:
    raise OSError("away")


def test_life_is_noted_while_poison_is_looked_for(
    store: Store, make_node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take many transactions until all are found."""
    node = make_node()
    node.journal.append(started(node))
    node.after(0)
    for number in range(8):
        node.journal.append(encode({**event(Kind.PUBLISHED, 1), "id": f"bad-{number}", "name": "bad"}))
    write, heard = Store.write, []

    def slow(of: Store, events: Sequence[bytes], *arguments: Any, **options: Any) -> int:
        node.clock.at += liveness.LOOK_SECONDS
        heard.append(node.clock.at - (source_of(store, node.journal.source).last_seen_at - EPOCH).total_seconds())
        if any(b'"name":"bad"' in one for one in events):
            raise DatabaseError("INSERT", {}, Exception("no"))
        return write(of, events, *arguments, **options)

    monkeypatch.setattr(Store, "write", slow)
    node.after(0)
    assert len(heard) > 10
    assert max(heard) <= 8 * liveness.LOOK_SECONDS


def test_a_killed_process_s_lock_is_free(store: Store, make_node: Callable[..., Node], tmp_path: Path) -> None:
    """A real process, killed."""
    node = make_node()
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        mine = Journal(tmp_path / "node", store.settings.store_id)
        mine.append(encode(Delivery(2).started(3, source=mine.source)))
        os.write(tell, b"!")
        signal.pause()
    assert os.read(ready, 1) == b"!"
    try:
        for _ in range(5):
            node.after(liveness.LOOK_SECONDS)
        assert status(store) == "STARTED"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(tell)
    for _ in range(5):
        node.after(liveness.LOOK_SECONDS)
    assert status(store) == "LOST"
