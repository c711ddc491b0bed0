"""``celery asynctask top``: what happens now, on one screen."""

from __future__ import annotations

import datetime as dt
import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import click

from celery_asynctask.cli.command import CommandContext, command
from celery_asynctask.cli.output import FIXED, Id, Output, span
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.errors import StoreError
from celery_asynctask.present.symbols import SIGNS
from celery_asynctask.queries import Filter, Reader, page
from celery_asynctask.queries.search.filter import Term, Value
from celery_asynctask.queries.statistics.counts import LOST_RECENTLY, LostCounts, lost_counts
from celery_asynctask.queries.statistics.overview import MAX_RUNNING, Overview, overview
from celery_asynctask.store.models import AsyncTask

NAMES_SHOWN: Final = 6
"""Names of running tasks that are shown."""
ROWS: Final = 10
"""Rows of each list where there is no screen to fill."""
_KEY_SECONDS: Final = 0.1
"""Wait for a key before the screen is updated."""
_OTHER_LINES: Final = 22
"""Lines of the screen that are not rows of a list."""


class Now(NamedTuple):
    """What is shown."""

    overview: Overview
    lost: LostCounts
    lost_lately: Sequence[AsyncTask]
    """The newest tasks found lost within `LOST_RECENTLY`."""


@command("top", "top --interval 10", "top --json", short="Watch what runs, fails and is lost.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds between two updates.",
)
def top(context: CommandContext, interval: float) -> None:
    """Watch what runs, fails and is lost, and how the recorder does. The key q, or Ctrl-C, ends it.

    Without a terminal, or with --json, it prints once.
    """
    output, reader = context.output, context.reader
    if output.rich is not None:
        with _signals():
            _Screen(context, interval).run()
        return
    now = look(reader, output.now, ROWS)
    if output.as_json:
        output.json(_value(now))
    else:
        draw(output, now, reader.shown_url)


def look(reader: Reader, at: dt.datetime, rows: int) -> Now:
    """What happens at a time, with at most so many ``rows`` of each list. Raises `StoreError`."""
    since = at - LOST_RECENTLY
    lost = Term("status", (), (Value("=", AsyncTaskStatus.LOST.value),), False)
    lately = Filter((lost, Term("completed", (), (Value(">=", since),), False)))
    with reader.session() as session:
        return Now(
            overview(reader, session, at, rows=rows),
            lost_counts(reader, session, since),
            page(reader, session, lately, limit=rows, payloads=False).tasks,
        )


def draw(output: Output, now: Now, database: str, above: Sequence[tuple[str, str]] = ()) -> None:
    """Print what happens now in a database, below some names and texts. On a terminal, no line is wider than it."""
    view = now.overview
    output.fields(
        [
            *above,
            ("database", database),
            ("at", view.at),
            ("last hour" if view.is_whole else f"since {output.moment(view.since)}", _counted(view)),
            ("lost", _lost(now.lost)),
            ("running", _running(view)),
            *_recording(view),
        ],
        wrap=True,
    )
    _list(
        output,
        "Running for the longest time",
        ("for>", "name", "started", "retries>", "id"),
        [
            (
                task.started_at and view.at - task.started_at,
                task.name,
                task.started_at,
                task.retries or None,
                Id(task.celery_task_id),
            )
            for task in view.slowest
        ],
        spare=("retries", "started"),
    )
    failures = sorted(view.failures, key=lambda task: task.completed_at or task.created_at, reverse=True)
    for title, tasks in (("Newest failures", failures), ("Lost in the last 24 hours", now.lost_lately)):
        _list(
            output,
            title,
            ("ended", "status", "name", "error", "id"),
            [(task.completed_at, task.status, task.name, _error(task), Id(task.celery_task_id)) for task in tasks],
            spare=("ended",),
        )


def _list(
    output: Output, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], spare: Sequence[str]
) -> None:
    output.title(title)
    if rows:
        output.table(columns, rows, spare=spare)
    else:
        output.line("none")


def _error(task: AsyncTask) -> str:
    text = f"{task.error_type or ''}: {task.error_message or ''}".strip(": ")
    line = text.partition("\n")[0]
    return line if len(line) <= 60 else f"{line[:59]}…"


def _counted(view: Overview) -> str:
    counts = (f"{SIGNS[status]}{FIXED}{status.value}{FIXED}{count:,}" for status, count in view.counts.items())
    return "  ".join(counts) or "none"


def _lost(view: LostCounts) -> str:
    more = " or more" if view.bounded else ""
    return f"{view.recent:,} in the last 24 hours, {view.total:,}{more} in total"


def _running(view: Overview) -> str:
    count = sum(view.running.values())
    if not count:
        return "none"
    names = [f"{name}{FIXED}{tasks:,}" for name, tasks in list(view.running.items())[:NAMES_SHOWN]]
    if (others := len(view.running) - NAMES_SHOWN) > 0:
        names.append(f"and {others} more names")
    return f"{count:,}{' or more' if count == MAX_RUNNING else ''}: {', '.join(names)}"


def _recording(view: Overview) -> list[tuple[str, str]]:
    health = view.recording
    seen = "never" if health.seen is None else f"{span(max(0.0, (view.at - health.seen).total_seconds()))} ago"
    dropped = sum(health.dropped.values())
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(health.dropped.items()))
    processes = f"{health.alive:,} alive, {health.silent:,} silent, {health.gone:,} gone"
    unheard = f"; of {health.unheard:,}, nobody knows what they did last: see `verify`" if health.unheard else ""
    events = f"{health.stored:,} stored, {health.quarantined:,} quarantined, {health.missing:,} missing"
    return [
        ("recorder", f"last wrote {seen}; processes: {processes}{unheard}"),
        ("events", f"{events}, {dropped:,} dropped{f' ({reasons})' if reasons else ''}"),
    ]


def _value(now: Now) -> dict[str, Any]:
    view = now.overview

    def brief(tasks: Sequence[AsyncTask]) -> list[dict[str, Any]]:
        columns = ("celery_task_id", "name", "status", "created_at", "started_at", "completed_at", "retries")
        return [
            {
                name: getattr(task, name)
                for name in (*columns, "customer", "customer_key", "error_type", "error_message")
            }
            for task in tasks
        ]

    return {
        "at": view.at,
        "counts": {status.value: count for status, count in view.counts.items()},
        "since": view.since,
        "running": view.running,
        "slowest": brief(view.slowest),
        "failures": brief(view.failures),
        "lost": brief(view.lost),
        "lost_last_day": now.lost.recent,
        "lost_total": now.lost.total,
        "recording": view.recording._asdict(),
    }


class _Screen:
    """The live view. Its own thread queries the database: one that is away holds up neither screen nor keys."""

    def __init__(self, context: CommandContext, interval: float) -> None:
        self.output = context.output
        self.reader = context.reader
        self.interval = interval
        self._ended = threading.Event()
        self._now: Now | None = None
        self._problem: str | None = None
        self._rows = ROWS

    def run(self) -> None:
        """Show it until q or Ctrl-C."""
        console = self.output.rich
        self._fit(console.height)
        threading.Thread(target=self._look, daemon=True).start()
        try:
            with _keys() as pressed, console.screen() as screen:
                shown: tuple[object, ...] = ()
                while pressed() not in ("q", "Q"):
                    self._fit(console.height)
                    state = (self._now, self._problem, console.size)
                    if state != shown:
                        shown = state
                        screen.update(self._drawn(console))
        except KeyboardInterrupt:
            pass
        finally:
            self._ended.set()

    def _fit(self, height: int) -> None:
        self._rows = max(1, (height - _OTHER_LINES) // 3)

    def _look(self) -> None:
        while True:
            try:
                self._now, self._problem = look(self.reader, self.output.now, self._rows), None
            except StoreError as exc:
                self._problem = str(exc)
            if self._ended.wait(self.interval):
                return

    def _drawn(self, console: Any) -> Any:
        """The screen as Rich's text: what `draw` prints."""
        from rich.text import Text

        often = f"every {span(self.interval)}; q ends it"
        above = [("updates", often)] if self._problem is None else [("problem", self._problem), ("tries again", often)]
        with console.capture() as captured:
            if self._now is not None:
                draw(self.output, self._now, self.reader.shown_url, above)
            else:
                self.output.fields([*above, ("database", self.reader.shown_url)], wrap=True)
        return Text.from_ansi(captured.get(), no_wrap=True, overflow="crop")


def _no_key() -> str:
    """Wait without a keyboard; no key."""
    time.sleep(_KEY_SECONDS)
    return ""


@contextmanager
def _keys() -> Iterator[Callable[[], str]]:
    """A function that waits a moment for a key and returns it, else an empty text; meanwhile keys are not echoed."""
    if not sys.stdin.isatty():
        yield _no_key
        return
    number = sys.stdin.fileno()

    def pressed() -> str:
        if not select.select([number], [], [], _KEY_SECONDS)[0]:
            return ""
        return os.read(number, 1).decode("ascii", "replace") or "q"  # the terminal was closed

    before = termios.tcgetattr(number)
    tty.setcbreak(number)
    try:
        yield pressed
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


@contextmanager
def _signals() -> Iterator[None]:
    """Leave the terminal as it was when a signal ends the process."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
