"""``celery asynctask show``: everything about one task."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any, Final

import click

from celery_asynctask.cli.command import CommandContext, command, record, whose
from celery_asynctask.cli.output import Output, span
from celery_asynctask.core.accounting import listed
from celery_asynctask.core.columns import VALUES
from celery_asynctask.core.keys import is_of_earlier_execution
from celery_asynctask.core.marks import missing
from celery_asynctask.core.status import TERMINAL, AsyncTaskStatus
from celery_asynctask.present.links import trace_link
from celery_asynctask.queries.task import attempts, find, namesakes
from celery_asynctask.queries.workflow.timeline import courses
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt

FOLDED_LINES: Final = 12
"""Lines of a value or traceback shown without ``--full``."""
FOLDED_COLUMNS: Final = 240
"""Characters of such a line."""


@command("show 5f0c2a", "show 5f0c2a --full --utc", short="Show a task, its attempts and its values.")
@click.argument("task_id", metavar="ID")
@click.option("--full", is_flag=True, help="Show values and the tracebacks of all attempts in full.")
@whose
def show(context: CommandContext, task_id: str, full: bool, customer: str | None) -> None:
    """Show everything about the task whose id is ID or begins with it: its course, every attempt, its values.

    An attempt is delayed until its ETA or countdown, and queued from then to its start. A value that is not recorded as
    it was says so: cut, redacted, erased, or only described.
    """
    output, reader = context.output, context.reader
    with reader.session() as session:
        task = find(reader, session, task_id, customer)
        runs = attempts(reader, session, task)
        others = [one for one in namesakes(reader, session, task) if one.id != task.id]
    link = trace_link(context.settings.trace_url, task.trace_id, task.span_id)
    if output.as_json:
        numbered = [
            {
                "attempt": number,
                **record(run, "id"),
                "earlier_execution": is_of_earlier_execution(run.run_key, task.order_key),
            }
            for number, run in enumerate(runs, 1)
        ]
        output.json({**record(task), "trace_url": link, "attempts": numbered})
        return
    output.fields(_fields(task, runs, link, output.now))
    if others:
        customers = [other.customer_key or "none" for other in others]
        output.hint(f"Other customers use this id, too: {listed(customers, 5)}. --customer shows theirs.")
    if runs:
        _show_attempts(output, task, runs)
    for column in VALUES:
        if (value := getattr(task, column)) is not None:
            name = column.removeprefix("task_")
            parts = ", ".join(missing(value))
            output.title(f"{name} ({parts})" if parts else name)
            for line in folded(json.dumps(value, indent=2, ensure_ascii=False), full):
                output.line(line)
    for number, traceback in _tracebacks(task, runs, full):
        output.title(f"Traceback of attempt {number}")
        for line in folded(traceback, full, end=True):
            output.line(line)


def _fields(task: AsyncTask, runs: Sequence[AsyncTaskAttempt], link: str | None, now: dt.datetime) -> list[Any]:
    return [
        ("id", task.celery_task_id),
        ("name", task.name),
        ("status", task.status),
        ("error", f"{task.error_type}: {task.error_message or ''}".rstrip(": ") if task.error_type else None),
        ("created", task.created_at),
        ("started", task.started_at),
        ("completed", task.completed_at),
        ("waited", task.started_at and task.started_at - task.created_at),
        ("ran", task.started_at and task.completed_at and task.completed_at - task.started_at),
        _so_far(task, runs, now),
        ("retries", task.retries or None),
        ("customer", task.customer_key or None),
        (
            "created by",
            " ".join(str(value) for value in (task.created_by_name, task.created_by_key) if value is not None) or None,
        ),
        ("root", task.root_task_id if task.root_task_id != task.celery_task_id else None),
        ("parent", task.parent_task_id),
        ("trace", task.trace_id),
        ("span", task.span_id),
        ("trace url", link),
    ]


def _so_far(task: AsyncTask, runs: Sequence[AsyncTaskAttempt], now: dt.datetime) -> tuple[str, str | None]:
    """How long an unfinished task has been running or waiting."""
    if task.status in TERMINAL:
        return "waiting", None
    runs = [run for run in runs if not is_of_earlier_execution(run.run_key, task.order_key)]
    if task.status is AsyncTaskStatus.STARTED:
        since = (runs[-1].started_at if runs else None) or task.started_at or task.created_at
        return "running", f"{span((now - since).total_seconds())} so far"
    ended = runs[-1].ended_at if runs else None
    purpose = " for its next attempt" if runs else ""
    return "waiting", f"{span((now - (ended or task.created_at)).total_seconds())} so far{purpose}"


def _show_attempts(output: Output, task: AsyncTask, runs: Sequence[AsyncTaskAttempt]) -> None:
    rows = []
    for number, (run, course) in enumerate(zip(runs, courses(task, runs, output.now), strict=True), 1):
        pid = None if run.pid is None else str(run.pid)
        name = run.name if run.name != task.name else None
        is_earlier = is_of_earlier_execution(run.run_key, task.order_key)
        notes = [("redelivered", run.redelivered), ("of an earlier execution", is_earlier)]
        note = ", ".join(text for text, holds in notes if holds) or None
        rows.append((number, run.started_at, *course, run.error_type, run.worker, pid, run.queue, name, note))
    columns = ("#>", "started", "delayed>", "queued>", "ran>", "outcome", "error", "worker", "pid>", "queue")
    output.title("Attempts")
    output.table((*columns, "name", "message"), rows, spare=("pid", "queue", "message", "worker"))


def _tracebacks(task: AsyncTask, runs: Sequence[AsyncTaskAttempt], full: bool) -> list[tuple[int, str]]:
    """Tracebacks by number of attempt: all in ``full``, else the newest of a task that has not succeeded."""
    tracebacks = [(number, run.traceback) for number, run in enumerate(runs, 1) if run.traceback]
    return tracebacks if full else tracebacks[-1:] if task.status is not AsyncTaskStatus.SUCCESS else []


def folded(text: str, full: bool, *, end: bool = False) -> list[str]:
    """The lines of a text, all in ``full``; else the first (or at the ``end``, the last) `FOLDED_LINES`, each with its
    first `FOLDED_COLUMNS` characters, and a line that counts the others."""
    lines = text.splitlines()
    if full:
        return lines
    hidden = len(lines) - FOLDED_LINES
    kept = lines if hidden <= 0 else lines[-FOLDED_LINES:] if end else lines[:FOLDED_LINES]
    kept = [_shortened(line) for line in kept]
    if hidden <= 0:
        return kept
    hint = f"… {hidden:,} more lines: --full"
    return [hint, *kept] if end else [*kept, hint]


def _shortened(line: str) -> str:
    hidden = len(line) - FOLDED_COLUMNS
    return line if hidden <= 0 else f"{line[:FOLDED_COLUMNS]}… {hidden:,} more characters: --full"
