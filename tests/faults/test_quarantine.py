"""`kill -9` of a process that replays or drops what is in quarantine, before and after each of its calls: the next one
ends the work, and the ledger is exact. And a recorder that puts events aside at the same time.

ASYNCTASK_QUARANTINE_STRIDE is the number of calls from one kill to the next.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import create_engine, delete, insert, select, update

from celery_asynctask.core.accounting import GIVEN_UP
from celery_asynctask.core.event import Event, encode
from celery_asynctask.core.time import now, time_of
from celery_asynctask.journal import Directory
from celery_asynctask.operations.audit import Action, Entry
from celery_asynctask.operations.quarantine import Quarantine
from celery_asynctask.operations.session import Writer
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.tables import async_task, async_task_attempt, async_task_audit, async_task_source
from tests import services
from tests.faults import moments
from tests.faults.proc import fork, reap
from tests.histories import about, published

pytestmark = pytest.mark.faults

SOURCE = "20260102T030405-4711-a1b2c3d4"
BY = Entry(Action.REPLAY, "ada", "here")
GOOD = [encode(event) for task in ("a", "b", "c") for event in about([published()], task)]
REFUSED = encode(Event(id="x", kind="started", at=10**30, name="shop.charge"))
DAMAGED = b"1a2b3c4d 7 {"
NOT_KEPT = 1
COUNTED = len([*GOOD, REFUSED, DAMAGED]) + NOT_KEPT
STORED = 7
STRIDE = int(os.environ.get("ASYNCTASK_QUARANTINE_STRIDE", "5"))


class Ledger(NamedTuple):
    stored: int
    quarantined: int
    given_up: int


class World:
    """A database with the ledger of one process, and the journal directory with its quarantine."""

    def __init__(self, url: str, path: Path) -> None:
        self.settings = Settings(url=url, journal_dir=path)
        self.store = Store(self.settings)
        self.store.prepare()
        self.directory = Directory(path, self.settings.store_id)
        self.store.close()

    def reset(self) -> None:
        """Three good entries, one that is refused again, and a damaged line; another one was not kept."""
        at = time_of(now())
        row = {"host": "here", "pid": 1, "role": "child", "started_at": at, "last_seen_at": at, "segment": 1}
        counts = {"position": 1, "last_number": STORED + COUNTED, "stored": STORED, "quarantined": COUNTED}
        with self.store.engine.begin() as connection:
            for table in (async_task, async_task_attempt, async_task_audit, async_task_source):
                connection.execute(delete(table))
            connection.execute(
                insert(async_task_source), {"source": SOURCE, "journal": self.directory.id, **row, **counts}
            )
        self.store.close()
        for path in self.directory.path.glob("*.quarantine"):
            path.unlink()
        for line in (GOOD[0], REFUSED, DAMAGED, *GOOD[1:]):
            self.directory.quarantine(SOURCE, line)

    def work(self, drop: bool = False) -> None:
        writer = Writer(self.settings)
        work = Quarantine(self.directory, writer)
        try:
            with work.alone():
                if drop:
                    work.drop(SOURCE, BY)
                else:
                    work.replay(SOURCE, BY)
        finally:
            work.close()
            writer.close()

    @property
    def ledger(self) -> Ledger:
        columns = async_task_source.c
        with self.store.engine.connect() as connection:
            row = connection.execute(select(columns.stored, columns.quarantined, columns.dropped)).one()
        self.store.close()
        return Ledger(row.stored, row.quarantined, (row.dropped or {}).get(GIVEN_UP, 0))

    @property
    def rows(self) -> list[str]:
        with self.store.engine.connect() as connection:
            ids = list(connection.scalars(select(async_task.c.celery_task_id).order_by(async_task.c.celery_task_id)))
        self.store.close()
        return ids

    @property
    def files(self) -> dict[str, list[bytes]]:
        files = self.directory.path.glob("*.quarantine")
        return {path.name: path.read_bytes().splitlines() for path in files}


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with services.new_database(request.param, tmp_path) as url:
        yield World(url, tmp_path / "journal")


def dies(world: World, way: str, moment: int, *, drop: bool) -> bool:
    """Whether the moment came at which the process dies."""
    code = reap(fork(moments.WAYS[way](lambda: world.work(drop), moment)))
    assert code in (0, -signal.SIGKILL)
    return code != 0


def check_truth(world: World) -> None:
    """The ledger never says that more is stored than is, and everything that was counted still is."""
    ledger, rows = world.ledger, world.rows
    assert sum(ledger) == STORED + COUNTED
    assert ledger.stored <= STORED + len(rows)
    lines = {line for lines in world.files.values() for line in lines}
    assert len(rows) == len(GOOD) or {*GOOD, REFUSED, DAMAGED} <= lines or ledger.given_up == COUNTED


@pytest.mark.parametrize("way", ["before", "after"])
@pytest.mark.parametrize(("first", "second"), [("replay", "replay"), ("replay", "drop"), ("drop", "drop")])
def test_killed_at_every_moment(world: World, way: str, first: str, second: str) -> None:
    first_moment = moment = random.SystemRandom().randrange(STRIDE)  # others in each run of the tests
    while True:
        world.reset()
        died = dies(world, way, moment, drop=first == "drop")
        check_truth(world)
        world.work(second == "drop")
        ledger, rows, files = world.ledger, world.rows, world.files
        assert sum(ledger) == STORED + COUNTED, moment
        if second == "replay":
            assert ledger == Ledger(STORED + len(GOOD), COUNTED - len(GOOD), 0), moment
            assert rows == ["a", "b", "c"]
            assert files.keys() == {f"{SOURCE}.quarantine"}
            assert {*files[f"{SOURCE}.quarantine"]} == {REFUSED, DAMAGED}
        else:
            assert (ledger.quarantined, files) == (0, {}), moment
            assert ledger.stored <= STORED + len(rows)
            assert ledger.stored in (STORED, STORED + len(GOOD))
        if not died:
            break
        moment += STRIDE
    print(f"{first}, {second}: each {STRIDE}. moment {way} a call from {first_moment}, before {moment}")
    assert moment > 10


ROUNDS = 60


def test_beside_a_recorder(world: World) -> None:
    """It has the row of the ledger locked from before it appends until its commit, as `Store.write` does."""
    world.reset()

    def record() -> None:
        engine = create_engine(world.settings.url)
        columns = async_task_source.c
        for number in range(ROUNDS):
            [event] = about([published()], f"n{number}")
            with engine.connect() as connection:
                if engine.dialect.name == "sqlite":
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                more: Any = {"quarantined": columns.quarantined + 1, "last_number": columns.last_number + 1}
                connection.execute(update(async_task_source).values(more))
                world.directory.quarantine(SOURCE, encode(event))
                connection.commit()

    pid = fork(record)
    commands = 0
    while len(world.rows) < ROUNDS + len(GOOD):
        world.work()
        commands += 1
        assert Path(f"/proc/{pid}").exists()
    assert reap(pid) == 0
    world.work()
    print(f"{commands} commands beside {ROUNDS} events put aside")
    assert world.ledger == Ledger(STORED + ROUNDS + len(GOOD), COUNTED - len(GOOD), 0)
    assert {line for lines in world.files.values() for line in lines} == {REFUSED, DAMAGED}
