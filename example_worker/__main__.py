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
"""How long nothing may happen in the records before the run is given up."""
QUIET_SECONDS = 1.0
"""How long everything must have been done: rows of several processes come with one recorder's batches, and a batch
may know of the last task before it knows of another one."""


class RunError(Exception):
    """Ends the run with a message of one line."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def main() -> int:
    """The exit code: 0 when the census was made, 1 when not, 2 for a wrong argument, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m example_worker",
        description="Count what is in a tree of Python sources, with Celery, and show what celery-asynctask recorded.",
    )
    parser.add_argument("directory", nargs="?", metavar="DIR", help="default: Python's own standard library")
    given = parser.parse_args().directory
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr] # quoted lines may hold anything
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        directory = Path(given or sysconfig.get_paths()["stdlib"]).absolute()
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
        raise RunError(f"{directory} is not a directory", 2)
    files = sum(len(portion.paths) for portion in census.scan(directory))
    if not files:
        raise RunError(f"there are no Python files in {directory}", 2)
    data = _make_data_dir()
    os.environ["EXAMPLE_DATA_DIR"] = str(data)
    console.print(f"Census of {files:,} Python files in {directory}", highlight=False, markup=False)
    console.print(f"Everything is kept in {_relative(data)}", highlight=False, markup=False)
    stopping = console.status("Stopping the worker")
    try:
        records = Records(app.conf.asynctask_url, root_id=uuid())
        records.progress()  # whether it can be asked at all
        _send(directory, records.root_id)
        with Worker(data / "worker.log") as worker:
            try:
                _follow(console, records, worker)
            except KeyboardInterrupt:
                print(
                    "\nThe tasks that run finish first; Ctrl-C once more kills them. The others wait for",
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
        raise RunError(f"the database of the records cannot be used: {_first_line(exc)}") from exc
    finally:
        stopping.stop()


def _show(console: Console, records: Records, data: Path) -> None:
    """Print the whole report. Raises `RunError` where the census came to no result."""
    tasks, attempts = records.tasks(), records.attempts()
    report.show_census(console, tasks)
    report.show_rows(console, tasks, attempts)
    report.show_failures(console, tasks)
    report.show_retries(console, tasks, attempts)
    report.show_spans(console, attempts, spans.load(data), app.conf.asynctask_trace_url)
    console.print("The workflow, by root_task_id and parent_task_id", style="bold italic")
    console.print(tree.draw(tasks, records.root_id))
    if not any(task.name == add_up.name and task.status == AsyncTaskStatus.SUCCESS for task in tasks):
        raise RunError("the census was not finished; the failures above and worker.log say why")


def _send(directory: Path, task_id: str) -> None:
    try:
        take_census.apply_async((str(directory),), task_id=task_id)
    except (AsyncTaskError, ImproperlyConfigured):
        raise
    except Exception as exc:  # each broker and each result backend has exceptions of its own
        raise RunError(
            f"the census cannot be sent, see EXAMPLE_BROKER_URL and EXAMPLE_RESULT_BACKEND: {_first_line(exc)}"
        ) from exc


def _follow(console: Console, records: Records, worker: Worker) -> None:
    """Wait until the records say that everything is done, with a progress bar on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("tasks done", total=None)
        last, moved = records.progress(), time.monotonic()
        while True:
            if (code := worker.exit_code()) is not None:
                raise RunError(f"the worker ended with exit code {code}; {_relative(worker.log)} says why")
            seen = records.progress()
            if seen != last:
                last, moved = seen, time.monotonic()
                bar.update(shown, completed=seen.done, total=seen.known or None)
            still = time.monotonic() - moved
            if 0 < seen.known == seen.done and still >= QUIET_SECONDS:
                return
            if still >= STALL_SECONDS:
                raise RunError(f"nothing happened for {STALL_SECONDS:.0f} s; {_relative(worker.log)} may say why")
            time.sleep(0.2)


def _make_data_dir() -> Path:
    """A new directory for this run, unless one is given."""
    given = os.environ.get("EXAMPLE_DATA_DIR")
    try:
        if given:
            path = Path(given).absolute()
            path.mkdir(parents=True, exist_ok=True)
            return path
        around = Path("example_worker_data").absolute()
        around.mkdir(exist_ok=True)
        (around / ".gitignore").write_text("*\n", encoding="utf-8")
        for number in itertools.count(1):
            path = around / f"run-{number}"
            if not path.exists():
                path.mkdir()
                break
    except OSError as exc:
        raise RunError(f"{exc.filename} cannot be used: {exc.strerror}; set EXAMPLE_DATA_DIR") from exc
    return path


def _relative(path: Path) -> Path:
    """The path as seen from here, where that is shorter."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _first_line(exc: Exception) -> str:
    return str(getattr(exc, "orig", None) or exc).strip().partition("\n")[0]


def _terminated(number: int, _: Any) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
