"""``celery asynctask top``: what happens now, on one screen."""

from __future__ import annotations

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
from typing import Any, Final

import click

from celery_asynctask.cli.command import CommandContext, command
from celery_asynctask.cli.output import Output, span
from celery_asynctask.errors import StoreError
from celery_asynctask.present.symbols import SIGNS
from celery_asynctask.queries.statistics.overview import MAX_RUNNING, Overview, overview
from celery_asynctask.store.models import AsyncTask

NAMES_SHOWN: Final = 6
"""Names of running tasks that are shown."""
ROWS: Final = 10
"""Rows of each list where there is no screen to fill."""
_LOOK_SECONDS: Final = 0.1
"""Between two looks at the keyboard."""
_OTHER_LINES: Final = 22
"""Lines of the screen that are no rows of a list."""


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
    with reader.session() as session:
        found = overview(reader, session, output.now, rows=ROWS)
    if output.as_json:
        output.json(_value(found))
    else:
        draw(output, found, reader.shown_url)


def draw(output: Output, found: Overview, what: str, above: Sequence[tuple[str, str]] = ()) -> None:
    """Print an overview of the database ``what``; ``above`` all else, some names and texts."""
    output.fields(
        [
            *above,
            ("database", what),
            ("at", found.at),
            ("last hour" if found.is_whole else f"since {output.moment(found.since)}", _counted(found)),
            ("running", _running(found)),
            *_recording(found),
        ]
    )
    now = found.at
    _list(
        output,
        "Running for the longest time",
        ("for>", "name", "started", "retries>", "id"),
        [
            (one.started_at and now - one.started_at, one.name, one.started_at, one.retries or None, one.celery_task_id)
            for one in found.slowest
        ],
    )
    for title, tasks in (("Newest failures", found.failures), ("Lost", found.lost)):
        _list(
            output,
            title,
            ("ended", "status", "name", "error", "id"),
            [(one.completed_at, one.status, one.name, _error(one), one.celery_task_id) for one in tasks],
        )


def _list(output: Output, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    output.title(title)
    if rows:
        output.table(columns, rows)
    else:
        output.line("none")


def _error(task: AsyncTask) -> str:
    text = f"{task.error_type or ''}: {task.error_message or ''}".strip(": ")
    line = text.partition("\n")[0]
    return line if len(line) <= 60 else f"{line[:59]}…"


def _counted(found: Overview) -> str:
    return "  ".join(f"{SIGNS[status]} {status.value} {count:,}" for status, count in found.counts.items()) or "none"


def _running(found: Overview) -> str:
    count = sum(found.running.values())
    if not count:
        return "none"
    names = [f"{name} {tasks:,}" for name, tasks in list(found.running.items())[:NAMES_SHOWN]]
    if (more := len(found.running) - NAMES_SHOWN) > 0:
        names.append(f"and {more} more names")
    return f"{count:,}{' or more' if count == MAX_RUNNING else ''}: {', '.join(names)}"


def _recording(found: Overview) -> list[tuple[str, str]]:
    one = found.recording
    seen = "never" if one.seen is None else f"{span(max(0.0, (found.at - one.seen).total_seconds()))} ago"
    dropped = sum(one.dropped.values())
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(one.dropped.items()))
    return [
        ("recorder", f"last wrote {seen}; processes: {one.alive:,} alive, {one.silent:,} silent, {one.gone:,} gone"),
        (
            "events",
            f"{one.stored:,} stored, {one.quarantined:,} quarantined, {one.missing:,} missing, {dropped:,} dropped"
            + (f" ({reasons})" if reasons else ""),
        ),
    ]


def _value(found: Overview) -> dict[str, Any]:
    def brief(tasks: Sequence[AsyncTask]) -> list[dict[str, Any]]:
        columns = ("celery_task_id", "name", "status", "created_at", "started_at", "completed_at", "retries")
        return [
            {name: getattr(task, name) for name in (*columns, "customer", "error_type", "error_message")}
            for task in tasks
        ]

    return {
        "at": found.at,
        "counts": {status.value: count for status, count in found.counts.items()},
        "since": found.since,
        "running": found.running,
        "slowest": brief(found.slowest),
        "failures": brief(found.failures),
        "lost": brief(found.lost),
        "recording": found.recording._asdict(),
    }


class _Screen:
    """The live view. A thread of its own asks the database: one that is away holds up neither screen nor keys."""

    def __init__(self, context: CommandContext, interval: float) -> None:
        self.output = context.output
        self.reader = context.reader
        self.interval = interval
        self._ended = threading.Event()
        self._found: Overview | None = None
        self._problem: str | None = None
        self._rows = ROWS

    def run(self) -> None:
        """Until q or Ctrl-C."""
        console = self.output.rich
        self._fit(console.height)
        threading.Thread(target=self._ask, daemon=True).start()
        try:
            with _keys() as pressed, console.screen() as screen:
                shown: tuple[object, ...] = ()
                while pressed() not in ("q", "Q"):
                    self._fit(console.height)
                    now = (self._found, self._problem, console.size)
                    if now != shown:
                        shown = now
                        screen.update(self._drawn(console))
        except KeyboardInterrupt:
            pass
        finally:
            self._ended.set()

    def _fit(self, height: int) -> None:
        self._rows = max(2, (height - _OTHER_LINES) // 3)

    def _ask(self) -> None:
        while True:
            try:
                with self.reader.session() as session:
                    found = overview(self.reader, session, self.output.now, rows=self._rows)
                self._found, self._problem = found, None
            except StoreError as exc:
                self._problem = str(exc)
            if self._ended.wait(self.interval):
                return

    def _drawn(self, console: Any) -> Any:
        """The screen as Rich's text: what `draw` would print on it."""
        from rich.text import Text

        often = f"every {span(self.interval)}; q ends"
        above = [("looks", often)] if self._problem is None else [("problem", self._problem), ("tries", often)]
        with console.capture() as captured:
            if self._found is not None:
                draw(self.output, self._found, self.reader.shown_url, above)
            else:
                self.output.fields([*above, ("database", self.reader.shown_url)])
        return Text.from_ansi(captured.get(), no_wrap=True, overflow="crop")


def _no_key() -> str:
    """Where there is no keyboard: as long a wait, and no key."""
    time.sleep(_LOOK_SECONDS)
    return ""


@contextmanager
def _keys() -> Iterator[Callable[[], str]]:
    """A function that waits a moment for a key and returns it, else an empty text; keys are not shown meanwhile."""
    if not sys.stdin.isatty():
        yield _no_key
        return
    number = sys.stdin.fileno()

    def pressed() -> str:
        if not select.select([number], [], [], _LOOK_SECONDS)[0]:
            return ""
        return os.read(number, 1).decode("ascii", "replace") or "q"  # nobody is there any more

    before = termios.tcgetattr(number)
    tty.setcbreak(number)
    try:
        yield pressed
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


@contextmanager
def _signals() -> Iterator[None]:
    """Let a signal that ends the process leave the terminal as it was."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
