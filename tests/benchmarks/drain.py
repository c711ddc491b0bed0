"""The speed at which one recorder with one connection moves a prepared journal into the database, and its CPU time.

Real hooks wrote the journal (`journals`): each task was published, started and succeeded. It comes in parts, each
handed to a running recorder once the one before is stored; the interval is from a bootstrap over the parts. A first
part, which is not measured, creates the tables. One task is two rows, the task and its attempt.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from sqlalchemy import Engine, Table, create_engine, func, select, text

from celery_asynctask import AsyncTask, AsyncTaskAttempt
from celery_asynctask.recorder import Recorder
from celery_asynctask.settings import Settings
from tests import services
from tests.benchmarks import journals
from tests.benchmarks.figure import Figure, Interval, Options, bootstrap, scaled, skipping

TASKS = 50_000
PARTS = 5
FIRST = 1000
"""Tasks of the part that is not measured."""
SECONDS = 600
LOOK_SECONDS = 0.002
"""Seconds between two checks whether a part is stored."""
TARGETS = {"postgresql": 40_000, "sqlite": 40_000, "mysql": 20_000}
NAMES = {"postgresql": "PostgreSQL", "sqlite": "SQLite", "mysql": "MariaDB"}


def measure(options: Options) -> Iterator[Figure]:
    tasks = 5000 if options.quick else TASKS
    with tempfile.TemporaryDirectory() as name:
        together, apart = Path(name, "together"), Path(name, "apart")
        for directory in (together, apart):
            for number in range(PARTS + 1):
                part = directory / str(number)
                part.mkdir(parents=True)
                journals.write(part, tasks // PARTS if number else FIRST, apart=directory is apart)
        for kind, target in TARGETS.items():
            what = f"drain: {NAMES[kind]}"
            figures = partial(_figures, kind=kind, tasks=tasks)
            yield from skipping(figures(f"{what}, empty table", journal=together, target=target), what)
            if kind == "postgresql":
                yield from skipping(figures(f"{what}, processes' backlogs one by one", journal=apart), what)
                if not options.quick:
                    full = f"{what}, {options.rows:,} rows in each table"
                    yield from skipping(figures(full, journal=together, rows=options.rows), what)


def _figures(
    what: str, kind: str, journal: Path, tasks: int, target: int | None = None, rows: int = 0
) -> Iterator[Figure]:
    seconds, cpu = _drained(kind, journal, tasks, rows)
    rates = Interval(1 / seconds.value, 1 / seconds.high, 1 / seconds.low)
    yield Figure(what, "rows/s", scaled(rates, 2), at_least=target, note=f"{rates.value:,.0f} tasks/s")
    at_most = 5 if kind == "postgresql" and target else None
    yield Figure(f"{what}: CPU of the recorder per task", "µs", scaled(cpu, 1e6), at_most=at_most)


def _drained(kind: str, journal: Path, tasks: int, rows: int) -> tuple[Interval, Interval]:
    """Seconds, and seconds of CPU time, per task."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=journal)))
        url = stack.enter_context(services.new_database(kind, directory))
        engine = create_engine(url)
        stack.callback(engine.dispose)
        settings = Settings(url=url, journal_dir=directory / "journal", flush_interval=0.01)
        (directory / "journal").mkdir(mode=0o700)
        recorder = Recorder(settings)
        recorder.start()
        stack.callback(recorder.stop, SECONDS)
        _part(settings, journal / "0")
        if rows:
            _fill(engine, rows)
        before = _counts(engine)
        parts = [_part(settings, journal / str(number + 1)) for number in range(PARTS)]
        gained = [after - was for after, was in zip(_counts(engine), before, strict=True)]
        assert gained == [tasks, tasks], f"{tasks} tasks gave {gained} rows"
    seconds, cpu = ([one / (tasks // PARTS) for one in measured] for measured in zip(*parts, strict=True))
    return bootstrap([seconds]), bootstrap([cpu])


def _part(settings: Settings, journal: Path) -> tuple[float, float]:
    """Seconds, and seconds of CPU time, until the recorder has stored a journal."""
    began, used = time.perf_counter(), time.process_time()
    left = journals.hand_over(journal, settings.directory)
    while any(segment.exists() for segment in left):
        time.sleep(LOOK_SECONDS)
        assert time.perf_counter() < began + SECONDS, f"after {SECONDS} s there is still {left}"
    return time.perf_counter() - began, time.process_time() - used


def _counts(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return [connection.scalar(select(func.count()).select_from(one)) or 0 for one in (AsyncTask, AsyncTaskAttempt)]


def _fill(engine: Engine, rows: int) -> None:
    """Copy the existing rows, under new task ids and in the past, until there are ``rows``. PostgreSQL only."""
    copies = rows // FIRST
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for model in (AsyncTask, AsyncTaskAttempt):
            table = model.__table__
            assert isinstance(table, Table)
            columns = [column.name for column in table.columns if column.name != "id"]
            replaced = dict.fromkeys(("celery_task_id", "root_task_id"), "md5(celery_task_id || copy)::uuid::text")
            replaced["created_at"] = "created_at - copy * interval '1 minute'"
            values = ", ".join(replaced.get(column, column) for column in columns)
            connection.execute(
                text(
                    f"INSERT INTO {table.name} ({', '.join(columns)}) "
                    f"SELECT {values} FROM {table.name}, generate_series(1, {copies}) AS copy"
                )
            )
            connection.execute(text(f"VACUUM ANALYZE {table.name}"))
        connection.execute(text("CHECKPOINT"))
