"""The report: the result of the census, and what celery-asynctask recorded while it was taken."""

from __future__ import annotations

import datetime as dt
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from celery_asynctask import AsyncTask, AsyncTaskAttempt, AsyncTaskStatus
from celery_asynctask.present.links import trace_link
from example_worker.spans import Span
from example_worker.tasks import Census, add_up, quote

SLOWEST = 5
"""Attempts that are shown with their spans."""
MAX_LINES = 12
"""Rows of a table; the rest is only counted."""
_STYLES = {AsyncTaskStatus.SUCCESS: "green", AsyncTaskStatus.FAILURE: "red"}


def short_name(name: str) -> str:
    """``measure`` for ``example_worker.tasks.measure``."""
    return name.rpartition(".")[2]


def style_of(status: AsyncTaskStatus) -> str:
    """The color of a status."""
    return _STYLES.get(status, "yellow")


def seconds(start: dt.datetime | None, end: dt.datetime | None) -> float | None:
    """The seconds from one time to another; None: one of them is not known."""
    return (end - start).total_seconds() if start and end else None


def duration_text(duration: float | None) -> str:
    """A duration for people."""
    if duration is None:
        return "-"
    return f"{duration:.2f} s" if duration >= 1 else f"{duration * 1000:.0f} ms"


def subject(task: AsyncTask) -> str:
    """The package or file that a task works on."""
    kwargs = task.task_kwargs or {}
    positional = task.task_args or []
    file = kwargs.get("file") or (positional[0] if positional and isinstance(positional[0], dict) else {})
    return str(kwargs.get("package") or file.get("path") or "")


def show_census(console: Console, tasks: Iterable[AsyncTask]) -> None:
    """Print the result of the census, from the row of its last task."""
    result: Census | None = next((task.result for task in tasks if task.name == add_up.name), None)
    if result is None:
        return
    total = result["total"]
    share = total["documented"] / max(1, total["functions"] + total["classes"])
    table = _table("Census", "package", "files", "lines", "functions", "classes")
    for summary in result["largest"]:
        tally = summary["tally"]
        counts = (tally["files"], tally["lines"], tally["functions"], tally["classes"])
        table.add_row(Text(summary["package"]), *(f"{count:,}" for count in counts))
    if (rest := result["packages"] - len(result["largest"])) > 0:
        table.add_row(f"and {rest} more", style="dim")
    counts = (total["files"], total["lines"], total["functions"], total["classes"])
    table.add_section()
    table.add_row("all", *(f"{count:,}" for count in counts), style="bold")
    console.print(table)
    console.print(f"{share:.0%} of the functions and classes have a docstring.", highlight=False)
    if total["longest"]["lines"]:
        longest = f"The longest function has {total['longest']['lines']:,} lines: {total['longest']['name']}"
        console.print(longest, highlight=False, markup=False)
    console.print()


def show_rows(console: Console, tasks: Sequence[AsyncTask], attempts: Iterable[AsyncTaskAttempt]) -> None:
    """Print the rows by task name, with the durations of their attempts."""
    durations: dict[str, list[float]] = defaultdict(list)
    for attempt in attempts:
        if (duration := seconds(attempt.started_at, attempt.ended_at)) is not None:
            durations[attempt.name].append(duration)
    groups: dict[str, list[AsyncTask]] = defaultdict(list)
    for task in sorted(tasks, key=lambda task: task.started_at or task.created_at):
        groups[task.name].append(task)
    statuses = sorted({task.status for task in tasks}, key=lambda status: (status != AsyncTaskStatus.SUCCESS, status))
    table = _table(
        f"{len(tasks):,} rows in async_task",
        "task name",
        "rows",
        *statuses,
        "retries",
        "median attempt",
        "longest attempt",
    )
    for name, group in groups.items():
        counts = Counter(task.status for task in group)
        table.add_row(
            short_name(name),
            f"{len(group):,}",
            *(Text(f"{counts[status]:,}" if counts[status] else "", style_of(status)) for status in statuses),
            str(sum(task.retries for task in group) or ""),
            duration_text(statistics.median(durations[name]) if durations[name] else None),
            duration_text(max(durations[name], default=None)),
        )
    console.print(table)


def show_failures(console: Console, tasks: Sequence[AsyncTask]) -> None:
    """Print the failures, with the line that the error callback found."""
    failed = [task for task in tasks if task.status == AsyncTaskStatus.FAILURE]
    if not failed:
        return
    lines = {task.parent_task_id: task.result for task in tasks if task.name == quote.name}
    table = _table(f"Failures ({len(failed):,})", "task name", "package or file", "error")
    for task in failed[:MAX_LINES]:
        error = Text.assemble((task.error_type or "", "red"), f": {task.error_message}")
        if line := lines.get(task.celery_task_id):
            error.append(f"\n{_shorten(line)}", "dim")
        table.add_row(short_name(task.name), Text(subject(task)), error)
    _add_rest(table, len(failed))
    console.print(table)


def show_retries(console: Console, tasks: Iterable[AsyncTask], attempts: Iterable[AsyncTaskAttempt]) -> None:
    """Print the attempts that ended in a retry, with the status of their tasks."""
    retried = [attempt for attempt in attempts if attempt.outcome == "retried"]
    if not retried:
        return
    by_id = {task.celery_task_id: task for task in tasks}
    table = _table(
        f"Retries ({len(retried):,}), from async_task_attempt",
        "task name",
        "package or file",
        "attempt",
        "reason",
        "task status",
    )
    for attempt in retried[:MAX_LINES]:
        task = by_id[attempt.celery_task_id]
        reason = Text(f"{attempt.error_type}: {attempt.error_message}")
        table.add_row(
            short_name(task.name),
            Text(subject(task)),
            str(attempt.attempt),
            reason,
            Text(task.status, style_of(task.status)),
        )
    _add_rest(table, len(retried))
    console.print(table)


def show_spans(
    console: Console, attempts: Sequence[AsyncTaskAttempt], spans: Iterable[Span], trace_url: str | None
) -> None:
    """Print the slowest attempts, each with the span that OpenTelemetry recorded of it."""
    by_id = {span.span: span for span in spans}
    slowest = sorted(attempts, key=lambda attempt: seconds(attempt.started_at, attempt.ended_at) or 0, reverse=True)
    traces = sorted({attempt.trace_id for attempt in attempts if attempt.trace_id})
    if not traces:
        return
    table = _table(
        "Slowest attempts, with their spans", "span", "took", "task name", "attempt", "took", "span_id", "outcome"
    )
    for attempt in slowest[:SLOWEST]:
        span = by_id.get(attempt.span_id or "")
        table.add_row(
            Text(short_name(span.name)) if span else "-",
            duration_text(span.seconds if span else None),
            short_name(attempt.name),
            str(attempt.attempt),
            duration_text(seconds(attempt.started_at, attempt.ended_at)),
            attempt.span_id,
            attempt.outcome,
        )
    console.print(table)
    matched = sum(attempt.span_id in by_id for attempt in attempts)
    console.print(f"{matched:,} of {len(attempts):,} attempts have a span. The trace:", highlight=False)
    for trace_id in traces:
        console.print(trace_link(trace_url, trace_id, None) or trace_id, highlight=False, markup=False, soft_wrap=True)
    console.print()


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    numeric = {
        "rows",
        "files",
        "lines",
        "functions",
        "classes",
        "retries",
        "median attempt",
        "longest attempt",
        "attempt",
        "took",
    }
    for column in columns:
        is_numeric = column in numeric or column.isupper()
        table.add_column(column, justify="right" if is_numeric else "left", no_wrap=is_numeric)
    return table


def _add_rest(table: Table, count: int) -> None:
    if count > MAX_LINES:
        table.add_row(f"and {count - MAX_LINES:,} more", style="dim")


def _shorten(line: str, limit: int = 60) -> str:
    return line if len(line) <= limit else f"{line[:limit]}…"
