"""`kill -9` at random moments and at every chosen one, of a process that writes events and of one that stores them.

Forked children never return. Each reports through a pipe which appends had returned before it died, and the end of the
pipe shows its death. ASYNCTASK_KILL_SEED is the seed.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from celery_asynctask.journal import writer
from celery_asynctask.settings import Settings
from tests import services
from tests.faults import moments
from tests.faults.journals import Life, check, drain_all, drain_of, new_settings, write
from tests.faults.proc import fork, reap

pytestmark = pytest.mark.faults

SEED = int(os.environ.get("ASYNCTASK_KILL_SEED", str(random.SystemRandom().randrange(10**6))))
DEAD = -signal.SIGKILL


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small, so that segments end and are removed all the time; children inherit it."""
    monkeypatch.setattr(writer, "SEGMENT_BYTES", 4096)
    monkeypatch.setattr(writer, "CHECK_BYTES", 4096)
    print(f"\nseed {SEED}")


@contextmanager
def writing(settings: Settings, life: int, count: int = 10**9) -> Iterator[tuple[int, int]]:
    """A child that writes: its process id, and a descriptor that closes with it."""
    reading, telling = os.pipe()

    def body() -> None:
        os.close(reading)
        write(settings, life, count, telling)

    pid = fork(body)
    os.close(telling)
    try:
        yield pid, reading
    finally:
        os.close(reading)


def rest_of(descriptor: int) -> bytes:
    return b"".join(iter(lambda: os.read(descriptor, 65536), b""))


def test_writers(tmp_path: Path) -> None:
    """Hundreds of lives of a few milliseconds."""
    dice = random.Random(SEED)
    settings = new_settings(f"sqlite:///{tmp_path}/x.db", tmp_path)
    lives = []
    for number in range(200):
        with writing(settings, number) as (pid, pipe):
            begun = dice.choice((0, 1, 4))
            first = os.read(pipe, 100)
            while first.count(b".") < begun:
                more = os.read(pipe, 100)
                assert more, "the writer has ended"
                first += more
            time.sleep(dice.uniform(0, 0.006))  # now kill it at any instruction
            os.kill(pid, signal.SIGKILL)
            assert reap(pid) == DEAD
            lives.append(Life(first + rest_of(pipe)))
    drain_all(settings)
    events = check(settings, lives)
    print(f"{len(lives)} writers killed, {events} events")
    assert events >= len(lives)


@pytest.mark.parametrize(("kind", "rounds"), [("sqlite", 100), ("postgresql", 40), ("mysql", 25)])
def test_drains(tmp_path: Path, kind: str, rounds: int) -> None:
    """Drains die during the lives of writers, and writers during drains."""
    dice = random.Random(SEED)
    with services.new_database(kind, tmp_path) as url:
        settings = new_settings(url, tmp_path, batch_size=40)

        def drain() -> None:
            drain = drain_of(settings)
            while True:
                drain.batch()

        lives = []
        for number in range(rounds):
            with writing(settings, number, count=dice.choice((60, 400, 10**9))) as (pid, pipe):
                first = os.read(pipe, 100)
                drain_pid = fork(drain)
                time.sleep(dice.uniform(0, 0.08))
                for victim in dice.sample((pid, drain_pid), 2):
                    os.kill(victim, signal.SIGKILL)
                    time.sleep(dice.uniform(0, 0.005))
                assert reap(drain_pid) == DEAD
                assert reap(pid) in (DEAD, 0)
                lives.append(Life(first + rest_of(pipe)))
        drain_all(settings)
        print(f"{rounds} drains killed on {kind}, {check(settings, lives)} events")


EVENTS = 17
"""Enough for a few segments of 4 KiB."""


def _dies_at(settings: Settings, way: moments.Way, moment: int, count: int = EVENTS) -> tuple[Life, bool]:
    """Write until the moment; returns the written life, and whether the moment came."""
    reading, telling = os.pipe()
    pid = fork(way(lambda: write(settings, 0, count, telling).close(), moment))
    os.close(telling)
    life = Life(rest_of(reading))
    os.close(reading)
    code = reap(pid)
    assert code in (0, DEAD)
    return life, code == DEAD


def _first_and_stride(way: str, calls: int, lines: int) -> tuple[int, int]:
    """Every n-th call or line, others in each run of the tests."""
    stride = lines if way == "line" else calls
    return random.Random(SEED).randrange(stride), stride


@pytest.mark.parametrize("way", moments.WAYS)
def test_a_writer_at_every_moment(tmp_path: Path, way: str) -> None:
    """Before and after each system call, and at lines."""
    number, stride = _first_and_stride(way, calls=1, lines=17)
    lives = 0
    while True:
        settings = new_settings(f"sqlite:///{tmp_path}/{number}.db", tmp_path / str(number))
        life, died = _dies_at(settings, moments.WAYS[way], number)
        drain_all(settings)
        if (settings.directory / "store").exists():
            check(settings, [life])
        if not died:
            break
        number += stride
        lives += 1
    print(f"{way}: {lives} moments of a writer")
    assert lives >= EVENTS


def test_a_write_that_is_cut_short(tmp_path: Path) -> None:
    """A kill between two pages leaves a part of an event: it goes into quarantine and is counted, and the rest is
    stored."""
    number = 0
    while True:
        settings = new_settings(f"sqlite:///{tmp_path}/{number}.db", tmp_path / str(number))
        life, died = _dies_at(settings, moments.within_write, number, count=80)
        drain_all(settings)
        check(settings, [life])
        if not died:
            break
        number += 1
    assert number >= 3


@pytest.mark.parametrize("way", moments.WAYS)
def test_a_drain_at_every_moment(tmp_path: Path, way: str) -> None:
    """Of two writers, one is alive, as the drain can see, and one was killed."""
    number, stride = _first_and_stride(way, calls=4, lines=97)
    lives = 0
    while True:
        settings = new_settings(f"sqlite:///{tmp_path}/{number}.db", tmp_path / str(number), batch_size=11)
        dead, died = _dies_at(settings, moments.WAYS["after"], 30)
        assert died
        living = writer.Journal(settings.directory, settings.store_id)
        write(settings, 1, EVENTS, journal=living)
        pid = fork(moments.WAYS[way](partial(drain_all, settings), number))
        code = reap(pid)
        assert code in (0, DEAD)
        living.close()
        drain_all(settings)
        other = Life(f"1 {living.source} {'.' * EVENTS}".encode())
        check(settings, [dead, other])
        if code == 0:
            break
        number += stride
        lives += 1
    print(f"{way}: {lives} moments of a drain")
    assert lives > 20
