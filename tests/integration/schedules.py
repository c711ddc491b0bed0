"""Schedules of everything that can go wrong with a journal, its recorder and its database, compared with the model in
`ledger`.

A schedule is some steps in any order, each with a seed of its own, so that a failing one can be made smaller by leaving
steps out.
"""

from __future__ import annotations

import datetime as dt
import os
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from copy import copy
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from weakref import WeakSet

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import OperationalError

from celery_asynctask.core import forking
from celery_asynctask.core.event import decode, encode
from celery_asynctask.core.fold import fold_all
from celery_asynctask.journal import Directory, Journal, frame
from celery_asynctask.journal.survey import survey_of
from celery_asynctask.journal.waiting import Waiting
from celery_asynctask.queries.completeness import completeness
from celery_asynctask.queries.reader import Reader
from celery_asynctask.recorder.drain import Drain
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt, AsyncTaskSource
from tests.histories import HISTORIES, ID, published
from tests.integration.faulty import FAULTS, Disk, FailingStore, KilledError
from tests.integration.ledger import DAMAGES, Ledger, Source
from tests.integration.rows import stored_rows

TOLD = [[encode(event) for event in history()] for history in HISTORIES.values()]
POISON: list[dict[str, Any]] = [
    {"kind": "started", "at": 10**30},
    {"at": "yesterday"},
    {"created": 10**30},
    {"retries": "many"},
    {"name": None},
]
NO_EVENTS = [b"[]", b"no json", b'{"kind":"exploded","id":"a","name":"n","at":1}']
TABLES: list[Any] = [model.__table__ for model in (AsyncTask, AsyncTaskAttempt, AsyncTaskSource)]
ENOUGH = 10**9
MAX_BATCHES = 1000

Step = tuple[str, int]


class World:
    """One schedule: processes, a recorder, a disk and a database, each of which may fail."""

    def __init__(self, path: Path, store: FailingStore, disk: Disk, happened: Counter[str]) -> None:
        self.path, self.store, self.disk, self.happened = path, store, disk, happened
        self.aside = path.with_name("aside")
        self.ledger = Ledger(path, disk.second, disk.let_go)
        self.forked: list[Journal] = []
        """Those of processes that were forked and have not noticed it."""
        self.backup: dict[Any, list[dict[str, Any]]] = {}
        store.most = 0
        self.recorder: int | None = None
        self.tasks: list[list[bytes]] = []
        self.drain: Drain
        self._restart()

    # -- processes

    def _living(self) -> list[Source]:
        return [source for source in self.ledger.sources.values() if source.alive]

    def start(self, _rng: Random) -> None:
        journal = Journal(self.path, self.store.settings.store_id, ENOUGH)
        number = len(self.ledger.sources)
        journal.source = (
            f"20250615T120000-{number}-{number:08x}"  # the random part decides which segment is drained first
        )
        self.ledger.sources[journal.source] = Source(journal.source, journal)

    def append(self, rng: Random) -> None:
        if len(self._living()) < 2:
            self.start(rng)
        source = rng.choice(self._living())
        for _ in range(rng.randint(1, 5)):
            source.append(self._event(rng))

    def _event(self, rng: Random) -> bytes:
        kind = rng.random()
        number = sum(len(source.sent) for source in self.ledger.sources.values())
        if kind < 0.9:
            if len(self.tasks) < 4:
                task = b"task-%d" % len(self.tasks)
                self.tasks.append([line.replace(ID.encode(), task) for line in rng.choice(TOLD)])
            return rng.choice(rng.choice(self.tasks))
        if kind < 0.95:
            self.happened["poison"] += 1
            bad: Any = {**published(), "id": f"bad-{number}", **rng.choice(POISON)}
            data = encode(bad)
        else:
            self.happened["no event"] += 1
            data = rng.choice(NO_EVENTS)
        self.ledger.poison.add(data)
        return data

    def crash(self, rng: Random) -> bool:
        if not (living := self._living()):
            return False
        source = rng.choice(living)
        journal = source.journal
        self.ledger.see()
        if journal._handle is not None:
            if rng.random() < 0.5 and not journal._trouble and os.fstat(journal._handle).st_nlink:
                self.happened["torn line"] += 1
                source.torn = number = len(source.sent) + 1
                source.sent[number] = data = self._event(rng)
                line = frame.pack(number, data)
                os.write(journal._handle, line[: rng.randint(1, len(line) - 1)])
            os.close(journal._handle)
            journal._handle = None
        source.has_no_place = journal._accounts._page is None and source.closed
        journal._accounts.close(even_if_used=True)
        self.happened["killed while the disk is full"] += self.disk.fault in ("full", "part")
        source.lost = source.waiting()
        self.happened["memory lost"] += bool(source.lost)
        source.alive = False
        return True

    def fork(self, rng: Random) -> bool:
        """As uWSGI does, which tells nobody: the child has all that its parent has, and the same lock."""
        if not (living := self._living()):
            return False
        parent = rng.choice(living).journal
        child = Journal(self.path, self.store.settings.store_id, parent.max_bytes)
        accounts = copy(parent._accounts)
        child.__dict__ |= {**parent.__dict__, "_lock": child._lock, "_accounts": accounts, "_kept": Waiting()}
        child.give_back(list(parent._kept))
        child.dropped = parent.dropped.copy()
        if parent._handle is not None:
            child._handle = os.dup(parent._handle)
        if accounts._page is not None:
            page = accounts._page = copy(accounts._page)
            page._handle = None if page._handle is None else os.dup(page._handle)
        self.forked.append(child)
        return True

    def child_notices(self, rng: Random) -> bool:
        """It appends an event, which is the first of a process of its own."""
        if not self.forked:
            return False
        child = self.forked.pop(rng.randrange(len(self.forked)))
        before, known = forking._pid, forking._resettable
        forking._pid, forking._resettable = os.getpid() + 1, WeakSet([child])
        try:
            forking.notice_fork()
        finally:
            forking._pid, forking._resettable = before, known
        assert not child._kept
        number = len(self.ledger.sources)
        child.source = f"20250615T120000-{number}-{number:08x}"
        source = self.ledger.sources[child.source] = Source(child.source, child)
        source.append(self._event(rng))
        return True

    def close(self, rng: Random) -> bool:
        """A clean end; or it goes on with another segment."""
        if not (living := self._living()):
            return False
        source = rng.choice(living)
        source.closed = True
        source.journal.close()
        if rng.random() < 0.5:
            self.ledger.see()
            source.abandon()
            source.alive = False
        return True

    # -- the disk

    def disk_fails(self, rng: Random) -> None:
        self.disk.fault, self.disk.room = rng.choice(["full", "part", "open"]), rng.choice([0, 20, 300, 700])

    def directory_goes_away(self, _rng: Random) -> bool:
        if self.aside.exists():
            return False
        self.path.rename(self.aside)
        self.path.touch()
        self.ledger.directory = self.aside
        return True

    def journal_is_full(self, _rng: Random) -> bool:
        for source in self._living():
            source.journal.max_bytes = 0
        return bool(self._living())

    def journal_is_small(self, rng: Random) -> bool:
        """It has more than it may have, until some of that is stored."""
        if self.aside.exists():
            return False
        most = rng.randint(0, Directory.size(self.path))
        for source in self._living():
            source.journal.max_bytes = most
        return bool(self._living())

    def heal(self, _rng: Random) -> None:
        self.disk.fault = ""
        for source in self._living():
            source.journal.max_bytes = ENOUGH
        if self.aside.exists():
            self.path.unlink()
            self.aside.rename(self.path)
            self.ledger.directory = self.path

    # -- damage in segments that are not drained yet

    def damage(self, rng: Random) -> bool:
        self.ledger.see()
        if undrained := self.ledger.undrained():
            source, image, end = rng.choice(undrained)
            damage = rng.choice(DAMAGES)
            self.ledger.hurt(source, image, *damage(image.data, end, rng))
            self.happened[f"damage: {damage.__name__}"] += 1
        return bool(undrained)

    def remove_segment(self, rng: Random) -> bool:
        self.ledger.see()
        if undrained := self.ledger.undrained():
            source, image, _ = rng.choice(undrained)
            self.ledger.remove(source, image)
            handle = source.journal._handle
            self.happened["removed while written to"] += handle is not None and not os.fstat(handle).st_nlink
        return bool(undrained)

    # -- the database

    def refuse(self, rng: Random) -> None:
        """It works, and takes few events at once."""
        self.store.most = rng.choice([1, 1, 2, 3, 0])

    def back_up(self, _rng: Random) -> None:
        with self.store.engine.connect() as connection:
            self.backup = {
                table: [dict(row) for row in connection.execute(select(table)).mappings()] for table in TABLES
            }

    def fail_over(self, _rng: Random) -> bool:
        """It is as it was."""
        if not self.backup or any(self.ledger.path_of(image).exists() for image in self.ledger.removed()):
            return False
        self.ledger.see()
        with self.store.engine.begin() as connection:
            for table, rows in self.backup.items():
                connection.execute(delete(table))
                if rows:
                    connection.execute(insert(table), rows)
        self._read()
        self.ledger.fail_over()
        return True

    def verify(self, _rng: Random) -> bool:
        """It never says that the record is complete if it is not."""
        if self.disk.fault or self.aside.exists():
            return False
        with closing(Reader(self.store.settings.url)) as reader:
            ledger = completeness(reader, survey_of(self.path)).ledger
        self.happened[f"verify: {ledger.answer}"] += 1
        self.ledger.see()
        self.ledger.check_answer(complete=ledger.complete is True)
        return True

    # -- the recorder

    def _restart(self) -> None:
        """Another recorder, once the last one has given up its lock."""
        settings = self.store.settings
        made = Directory(settings.directory, settings.store_id)
        if self.recorder is not None:
            assert made.elect() is None, "two recorders"
            os.close(self.recorder)
        self.recorder = made.elect()
        assert self.recorder is not None
        self.drain = Drain(made, settings)
        self.drain.store = self.store
        self.drain._prepared = True
        self.drain._watch.look = lambda *_, **__: None  # type: ignore[method-assign]  # what ran is not the question

    def restart(self, _rng: Random) -> bool:
        if self.disk.fault or self.aside.exists():
            return False
        self._restart()
        return True

    def batch(self, rng: Random) -> None:
        self._batch(rng.choice([1, 2, 3, 5, 20]), rng)

    def failing_batch(self, rng: Random) -> bool:
        self.store.fault, self.store.fails_at = rng.choice(FAULTS), rng.choice([1, 1, 1, 2, 3])
        fault = self.store.fault
        self._batch(rng.choice([2, 20]), rng)
        failed = self.store.fails_at <= 0
        self.happened[f"batch: {fault}"] += failed
        self.store.fails_at = 0
        return failed

    def _batch(self, size: int, rng: Random) -> None:
        self.drain.settings = replace(self.drain.settings, batch_size=size)
        self._drain(self.drain.batch, rng)

    def look(self, rng: Random) -> None:
        self._drain(self.drain.look, rng)

    def _drain(self, work: Callable[[], Any], rng: Random) -> None:
        self.ledger.see()
        expected = (OperationalError, KilledError) if self.store.fails_at > 0 else ()
        if self.disk.fault or self.aside.exists():
            expected = (*expected, OSError)
        try:
            work()
        except expected as exc:
            self.ledger.again = True
            self.happened["batch: the disk"] += isinstance(exc, OSError)
            if isinstance(exc, KilledError):
                self.heal(rng)
                self._restart()
            else:
                self.drain.close()  # as the recorder does
        self._read()
        self.ledger.see_drained()
        self.ledger.check()

    def _read(self) -> None:
        with self.store.engine.connect() as connection:
            rows = connection.execute(select(TABLES[2])).mappings()
            self.ledger.rows = {row["source"]: dict(row) for row in rows}

    def replay(self, rng: Random) -> bool:
        """Segments that were stored and removed are there again."""
        drained = [image for _, image, _ in self.ledger.images(drained=True)]
        for image in rng.sample(drained, min(len(drained), 2)):
            self.ledger.path_of(image).write_bytes(image.data)
        return bool(drained)

    # -- the end

    def finish(self, rng: Random) -> None:
        """All is well again; the processes end and everything is drained."""
        self.heal(rng)
        self._end_forked()
        for source in self._living():
            assert source.journal.retry()
            source.journal.close()
            self.ledger.see()
            assert not source.waiting()
            source.alive = False
        size = rng.choice([1, 3, 1000])
        for _ in range(3):  # a look may find that the database has lost something
            self.drain.behind = True
            for _ in range(MAX_BATCHES):
                self._batch(size, rng)
                if not self.drain.behind:
                    break
            assert not self.drain.behind, "the drain does not come to an end"
            self._batch(size, rng)
            self.look(rng)
        self.verify(rng)
        assert sorted(path.suffix for path in self.path.iterdir() if path.suffix in (".events", ".events-new")) == []
        rows, folded = stored_rows(self.store), fold_all(map(decode, self.ledger.check()))
        early = self.ledger.early()
        assert {identity: row for identity, row in rows.items() if identity[0] not in early} == {
            identity: row for identity, row in folded.items() if identity[0] not in early
        }, "rows"

    def lose_host(self) -> None:
        """Its journal is gone, and nobody hears of it any more."""
        self._read()
        with self.store.engine.begin() as connection:
            table = TABLES[2]
            long_ago = dt.timedelta(hours=1)
            for row in self.ledger.rows.values():
                seen = {name: row[name] and row[name] - long_ago for name in ("last_seen_at", "ended_at")}
                connection.execute(update(table).where(table.c.source == row["source"]).values(seen))
        with closing(Reader(self.store.settings.url)) as reader:
            answer = completeness(reader, None).ledger
        self.happened[f"host gone: {answer.answer}"] += 1
        self.ledger.see()
        self.ledger.check_answer(complete=answer.complete is True, has_host=False)

    def _end_forked(self) -> None:
        for child in self.forked:
            child._accounts.close(even_if_used=True)
            if child._handle is not None:
                os.close(child._handle)
                child._handle = None
        self.forked.clear()

    def let_go(self) -> None:
        """Close everything that is open."""
        self._end_forked()
        self.heal(Random(0))
        for source in self._living():
            source.journal.close()
        if self.recorder is not None:
            os.close(self.recorder)


WEIGHTS = {
    World.append: 40,
    World.start: 2,
    World.crash: 4,
    World.close: 3,
    World.disk_fails: 4,
    World.directory_goes_away: 1,
    World.journal_is_full: 2,
    World.journal_is_small: 2,
    World.fork: 2,
    World.child_notices: 3,
    World.refuse: 2,
    World.back_up: 3,
    World.fail_over: 2,
    World.verify: 3,
    World.look: 4,
    World.heal: 6,
    World.damage: 5,
    World.remove_segment: 1,
    World.batch: 12,
    World.failing_batch: 5,
    World.restart: 2,
    World.replay: 4,
}
STEPS = {step.__name__: step for step in WEIGHTS}
EFFECTS = (
    *("poison", "no event", "torn line", "memory lost", "dropped", "removed while written to", "batch: the disk"),
    *(f"disk: {fault}" for fault in ("full", "part", "open")),
    *(f"batch: {fault}" for fault in FAULTS),
    *(f"damage: {damage.__name__}" for damage in DAMAGES),
    *("refused together", "killed while the disk is full", "in the second place", "host gone: not known"),
    *(f"verify: {answer}" for answer in ("complete", "not complete")),
)


def schedule(seed: str) -> list[Step]:
    rng = Random(seed)
    names = rng.choices(list(STEPS), list(WEIGHTS.values()), k=rng.randint(15, 30))
    return [(name, rng.getrandbits(32)) for name in names]


class Runner:
    """Runs schedules one after the other, in one directory and one database."""

    def __init__(self, path: Path, store: FailingStore, disk: Disk) -> None:
        self.path, self.store, self.disk = path, store, disk
        self.happened: Counter[str] = Counter()
        self.has_second = False

    def run(self, steps: list[Step], *, has_second: bool = False, loses_host: bool = False) -> None:
        for file in (*self.path.glob("*.*"), *self.disk.second.glob("*")):
            file.unlink()
        self.has_second = has_second
        self.disk.let_go.clear()
        with self.store.engine.begin() as connection:
            for table in TABLES:
                connection.execute(delete(table))
        world = World(self.path, self.store, self.disk, self.happened)
        try:
            for name, seed in steps:
                self.happened[name] += STEPS[name](world, Random(seed)) is not False
            self.happened["in the second place"] += any(self.disk.second.glob("*.events"))
            if loses_host:
                world.lose_host()
            else:
                world.finish(Random(len(steps)))
        finally:
            self.happened["refused together"] += self.store.refused
            self.store.refused = 0
            world.let_go()
        dropped = sum(sum(source.journal.dropped.values()) for source in world.ledger.sources.values())
        self.happened["dropped"] += dropped > 0
        self.happened.update(self.disk.struck)
        self.disk.struck.clear()

    def fails(self, steps: list[Step], **kind: bool) -> str:
        try:
            self.run(steps, **kind)
        except Exception as exc:  # noqa: BLE001 - a bug may show as anything
            return f"{type(exc).__name__}: {exc}"
        return ""

    def shrink(self, steps: list[Step], **kind: bool) -> list[Step]:
        """Without the steps that it does not need in order to fail."""
        size = len(steps)
        while size:
            for at in range(0, len(steps), size):
                fewer = steps[:at] + steps[at + size :]
                if self.fails(fewer, **kind):
                    steps = fewer
                    break
            else:
                size //= 2
        return steps
