"""Whether a purge delays anything: it deletes most rows of a full PostgreSQL while a live worker runs and records as
fast as it can.

It compares the longest transaction of the recorder and the longest turn of ten tasks, during the purge and before it.
"""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Engine, create_engine, func, select, text

from celery_asynctask import AsyncTask
from celery_asynctask.store.fold import EVENTS
from tests import services
from tests.benchmarks import rows
from tests.benchmarks.figure import Figure, Interval, Options, skipping
from tests.benchmarks.live import Worker, worker

REDIS_DATABASE = 12
QUICK_ROWS = 50_000
OLD_SECONDS = 40 * 86_400
"""Age in seconds of the newest rows that are deleted."""
ALONE_SECONDS = 15.0
LOOK_SECONDS = 0.01
TURN = 10
_CELERY = (sys.executable, "-m", "celery", "asynctask")
AT_MOST = 1000
"""Milliseconds."""
_LONGEST = text(
    "SELECT max(extract(epoch FROM clock_timestamp() - xact_start)) FROM pg_stat_activity "
    "WHERE datname = current_database() AND state <> 'idle' AND pid <> pg_backend_pid() "
    f"AND (query LIKE 'WITH {EVENTS} AS%' OR query LIKE 'INSERT INTO async_task_source%')"
)


def measure(options: Options) -> Iterator[Figure]:
    yield from skipping(_figures(QUICK_ROWS if options.quick else options.rows), "purge")


def _figures(count: int) -> Iterator[Figure]:
    with worker("recorded", services.redis_url(REDIS_DATABASE), 1) as live:
        live.settle()
        rows.fill(live.url, count, last=time.time() - OLD_SECONDS)
        load = _Load(live)
        load.for_seconds(ALONE_SECONDS)
        alone = load.take()
        engine = create_engine(live.url)
        began = time.perf_counter()
        purge = subprocess.Popen(
            [*_CELERY, "--url", live.url, "purge", "--older-than", "30d", "--yes", "--json"],
            stdout=subprocess.DEVNULL,
        )
        while purge.poll() is None:
            load.for_seconds(0.5)
        seconds = time.perf_counter() - began
        beside = load.take()
        assert purge.returncode == 0, purge.returncode
        live.fed += _old_rows(engine)
        engine.dispose()
        load.close()
    yield Figure("purge: deleting old tasks with their attempts", "tasks/s", _exactly(count / seconds))
    for name, one in (("alone", alone), ("beside a purge", beside)):
        at_most = AT_MOST if one is beside else None
        yield Figure(f"purge: longest recorder transaction, {name}", "ms", _exactly(one.transaction), at_most=at_most)
        yield Figure(f"purge: longest turn of ten tasks, {name}", "ms", _exactly(one.turn), at_most=at_most)


def _old_rows(engine: Engine) -> int:
    """Tasks that have succeeded and remain, without those of the worker."""
    before = dt.datetime.now(dt.timezone.utc) - dt.timedelta(seconds=OLD_SECONDS / 2)
    old = select(func.count()).select_from(AsyncTask)
    with engine.connect() as connection:
        return connection.scalar(old.where(AsyncTask.status == "SUCCESS", AsyncTask.created_at < before)) or 0


def _exactly(value: float) -> Interval:
    return Interval(value, value, value)


class Longest(NamedTuple):
    """Milliseconds."""

    transaction: float
    turn: float


class _Load:
    """Turns of tasks, one after the other, with a thread that watches the recorder's transactions."""

    def __init__(self, live: Worker) -> None:
        self._live = live
        self._transaction = self._turn = 0.0
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()

    def for_seconds(self, seconds: float) -> None:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            began = time.perf_counter()
            self._live.turn(TURN)
            self._turn = max(self._turn, time.perf_counter() - began)

    def take(self) -> Longest:
        found = Longest(self._transaction * 1000, self._turn * 1000)
        self._transaction = self._turn = 0.0
        return found

    def close(self) -> None:
        self._ended.set()
        self._watcher.join()

    def _watch(self) -> None:
        engine = create_engine(self._live.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            while not self._ended.wait(LOOK_SECONDS):
                self._transaction = max(self._transaction, float(connection.scalar(_LONGEST) or 0))
        engine.dispose()
