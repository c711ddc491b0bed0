"""``python -m example_worker [DIR]``: take a census with a real worker, and show what was recorded."""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

from celery.exceptions import ImproperlyConfigured
from celery.utils import uuid
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy.exc import SQLAlchemyError

from celery_asynctask import AsyncTaskError, AsyncTaskStatus
from example_worker import app, census, hints, report, spans, tree
from example_worker.records import Records
from example_worker.tasks import add_up, take_census
from example_worker.worker import Worker

STALL_SECONDS = 90.0
"""Give up if the records do not change for this long."""
QUIET_SECONDS = 1.0
"""All known tasks must have ended for this long: the recorder stores the events of several processes in batches, and
one batch may have the end of the last known task before another has a new task."""


class RunError(Exception):
    """Ends the program with a one-line message and an exit code."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def main() -> int:
    """Returns the exit code: 0 if the census was taken, 1 if not, 2 for a wrong argument, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m example_worker",
        description="Count the lines, functions and classes in a tree of Python sources, with Celery tasks, and show "
        "what celery-asynctask recorded of them.",
    )
    parser.add_argument(
        "directory", nargs="?", metavar="DIR", help="the tree to count (default: Python's standard library)"
    )
    argument = parser.parse_args().directory
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr] # source lines may hold anything
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        directory = Path(argument or sysconfig.get_paths()["stdlib"]).absolute()
        run(console, directory)
    except RunError as exc:
        print(f"example_worker: {exc}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        print("example_worker: stopped", file=sys.stderr)
        return 130
    return 0


def run(console: Console, directory: Path) -> None:
    """Take the census of ``directory``. Raises `RunError`."""
    if not directory.is_dir():
        raise RunError(f"{directory} is not a directory; give one with Python files", 2)
    files = sum(len(portion.paths) for portion in census.scan(directory))
    if not files:
        raise RunError(f"{directory} has no Python files; give a directory that has some", 2)
    data = _make_data_dir()
    os.environ["EXAMPLE_DATA_DIR"] = str(data)
    console.print(f"Census of {files:,} Python files in {directory}", highlight=False, markup=False)
    place = f"Records, messages and the worker's log are in {_relative(data)}"
    console.print(place, highlight=False, markup=False, soft_wrap=True)
    stopping = console.status("Stopping the worker")
    try:
        records = Records(app.conf.asynctask_url, root_id=uuid())
        records.progress()  # fails early if the database cannot be read
        _send(directory, records.root_id)
        with Worker(data / "worker.log") as worker:
            try:
                _follow(console, records, worker)
            except KeyboardInterrupt:
                print(
                    "\nRunning tasks finish first; press Ctrl-C again to kill them. To run the waiting tasks later:",
                    file=sys.stderr,
                )
                print(f"  {hints.run_worker(_relative(data))}", file=sys.stderr)
                raise
            _show(console, records, data)
            hints.show(console, _relative(data), directory)
            stopping.start()
    except (AsyncTaskError, ImportError, ImproperlyConfigured) as exc:
        raise RunError(_first_line(exc)) from exc
    except SQLAlchemyError as exc:
        raise RunError(
            f"the database of the records cannot be used, check EXAMPLE_DATABASE_URL: {_first_line(exc)}"
        ) from exc
    finally:
        stopping.stop()


def _show(console: Console, records: Records, data: Path) -> None:
    """Print the report. Raises `RunError` if the census has no result."""
    tasks, attempts = records.tasks(), records.attempts()
    report.show_census(console, tasks)
    report.show_rows(console, tasks, attempts)
    report.show_failures(console, tasks)
    report.show_retries(console, tasks, attempts)
    report.show_spans(console, attempts, spans.load(data), app.conf.asynctask_trace_url)
    console.print("Workflow, by root_task_id and parent_task_id", style="bold italic")
    console.print(tree.draw(tasks, records.root_id))
    if not any(task.name == add_up.name and task.status == AsyncTaskStatus.SUCCESS for task in tasks):
        raise RunError(f"the census has no result; see the failures above and {_relative(data / 'worker.log')}")


def _send(directory: Path, task_id: str) -> None:
    try:
        take_census.apply_async((str(directory),), task_id=task_id)
    except (AsyncTaskError, ImproperlyConfigured):
        raise
    except Exception as exc:  # each broker and each result backend has exceptions of its own
        raise RunError(
            f"the census cannot be sent, check EXAMPLE_BROKER_URL and EXAMPLE_RESULT_BACKEND: {_first_line(exc)}"
        ) from exc


def _follow(console: Console, records: Records, worker: Worker) -> None:
    """Wait until all recorded tasks have ended, with a progress bar on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task("tasks ended", total=None)
        last, changed = records.progress(), time.monotonic()
        while True:
            if (code := worker.exit_code()) is not None:
                raise RunError(f"the worker ended with exit code {code}; see {_relative(worker.log)}")
            progress = records.progress()
            if progress != last:
                last, changed = progress, time.monotonic()
                bar.update(line, completed=progress.done, total=progress.known or None)
            unchanged = time.monotonic() - changed
            if 0 < progress.known == progress.done and unchanged >= QUIET_SECONDS:
                return
            if unchanged >= STALL_SECONDS:
                raise RunError(f"no task started or ended for {STALL_SECONDS:.0f} s; see {_relative(worker.log)}")
            time.sleep(0.2)


def _make_data_dir() -> Path:
    """The directory that EXAMPLE_DATA_DIR names, or else a new one for this run."""
    name = os.environ.get("EXAMPLE_DATA_DIR")
    try:
        if name:
            path = Path(name).absolute()
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            return path
        parent = Path("example_worker_data").absolute()
        parent.mkdir(exist_ok=True)
        (parent / ".gitignore").write_text("*\n", encoding="utf-8")
        for number in itertools.count(1):
            path = parent / f"run-{number}"
            if not path.exists():
                path.mkdir(mode=0o700)
                break
    except OSError as exc:
        raise RunError(f"{exc.filename} cannot be used: {exc.strerror}; set EXAMPLE_DATA_DIR") from exc
    return path


def _relative(path: Path) -> Path:
    """The path relative to the working directory, if it lies below it."""
    working_directory = Path.cwd()
    return path.relative_to(working_directory) if path.is_relative_to(working_directory) else path


def _first_line(exc: Exception) -> str:
    return str(getattr(exc, "orig", None) or exc).strip().partition("\n")[0]


def _terminated(number: int, _: Any) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
