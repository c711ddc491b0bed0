"""``celery asynctask stats``: counts and times of tasks by name."""

from __future__ import annotations

import datetime as dt

import click

from celery_asynctask.cli.command import CommandContext, command
from celery_asynctask.cli.output import Output
from celery_asynctask.queries.statistics.measures import Percentiles
from celery_asynctask.queries.statistics.names import MAX_SCANNED, Name, Statistics, statistics, with_time

_COLUMNS = (
    *("name", "tasks>", "failed>", "rate>", "retries>"),
    *("wait p50>", "wait p95>", "wait p99>"),
    *("run p50>", "run p95>", "run p99>"),
    "per minute>",
)
_SPARE = ("per minute", "wait p99", "run p99", "wait p50", "run p50", "retries", "rate")
"""Columns that a narrow terminal leaves out, in this order."""


@command(
    "stats",
    "stats 'name:billing.*' since:7d",
    "stats since:2026-01-01 until:2026-02-01 --json",
    short="Count and time tasks by name.",
)
@click.argument("search", nargs=-1)
def stats(context: CommandContext, search: tuple[str, ...]) -> None:
    """Summarize the tasks that SEARCH finds by name: count, failures, waits, run times and throughput.

    Failures are FAILURE, LOST and REJECTED. Wait is the time from creation to the first start, run from there to the
    end, retries included; p95 is the time that 95 of a hundred tasks took at most. Per minute counts created tasks. See
    `list --help` for the terms of SEARCH. If it names no time, the last day is read, and never more than the newest
    100,000 tasks.
    """
    output = context.output
    now = output.now
    with context.reader.session() as session:
        query = context.search(search)
        result = statistics(context.reader, session, with_time(query, now), now)
    if output.as_json:
        for name in result.names:
            output.json(_value(result, name))
    elif result.names:
        draw(output, result)
    else:
        output.nothing("No tasks match.", query)
    output.hint(f"Tasks created from {output.moment(result.since)} to {output.moment(result.until)}.")
    output.bounded(MAX_SCANNED, "tasks", result.looked_back_to)


def draw(output: Output, result: Statistics) -> None:
    """Print a table of the names."""
    rows = (
        (
            name.name,
            name.tasks,
            name.failed or None,
            f"{name.failure_rate:.1%}" if name.failed else None,
            name.retries or None,
            *_lengths(name.wait),
            *_lengths(name.run),
            f"{result.per_minute(name):,.2f}",
        )
        for name in result.names
    )
    output.table(_COLUMNS, rows, spare=_SPARE)


def _lengths(percentiles: Percentiles) -> list[dt.timedelta | None]:
    return [None if seconds is None else dt.timedelta(seconds=seconds) for seconds in percentiles]


def _value(result: Statistics, name: Name) -> dict[str, object]:
    return {
        "name": name.name,
        "tasks": name.tasks,
        "failed": name.failed,
        "failure_rate": name.failure_rate,
        "retries": name.retries,
        "wait": name.wait._asdict(),
        "run": name.run._asdict(),
        "per_minute": result.per_minute(name),
        "since": result.since,
        "until": result.until,
        "looked_back_to": result.looked_back_to,
    }
