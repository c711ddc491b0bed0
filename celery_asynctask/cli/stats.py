"""``celery asynctask stats``: how the tasks of each name do."""

from __future__ import annotations

import datetime as dt

import click

from celery_asynctask.cli.command import CommandContext, command
from celery_asynctask.queries.statistics.measures import Percentiles
from celery_asynctask.queries.statistics.names import MAX_SCANNED, Name, Statistics, statistics, with_time

_COLUMNS = (
    *("name", "tasks>", "failed>", "rate>", "retries>"),
    *("wait p50>", "p95>", "p99>"),
    *("run p50>", "p95>", "p99>"),
    "per minute>",
)


@command("stats", "stats 'name:billing.*' since:7d", "stats customer:42 since:2026-01-01 until:2026-02-01 --json")
@click.argument("search", nargs=-1)
def stats(context: CommandContext, search: tuple[str, ...]) -> None:
    """How the tasks that SEARCH finds do, by name: how many, how many failed, waits and run times, throughput.

    Failed are FAILURE, LOST and REJECTED. A wait is from when a task was asked for to its first start, a run from there
    to its end with its retries; of a hundred, 50, 95 and 99 took at most so long. Per minute is how many were asked
    for. SEARCH is as for list; where it names no time, the last day is looked at, and never more than the newest
    100,000 tasks.
    """
    output = context.output
    now = output.now
    with context.reader.session() as session:
        found = statistics(context.reader, session, with_time(context.search(search), now), now)
    if output.as_json:
        for name in found.names:
            output.json(_value(found, name))
    elif found.names:
        output.table(
            _COLUMNS,
            (
                (
                    name.name,
                    name.tasks,
                    name.failed or None,
                    f"{name.failure_rate:.1%}" if name.failed else None,
                    name.retries or None,
                    *_lengths(name.wait),
                    *_lengths(name.run),
                    f"{found.per_minute(name):,.2f}",
                )
                for name in found.names
            ),
        )
    else:
        output.hint("No task is like that.")
    output.hint(f"Tasks asked for from {output.moment(found.since)} to {output.moment(found.until)}.")
    output.bounded(MAX_SCANNED, "tasks", found.looked_back_to)


def _lengths(found: Percentiles) -> list[dt.timedelta | None]:
    return [None if one is None else dt.timedelta(seconds=one) for one in found]


def _value(found: Statistics, name: Name) -> dict[str, object]:
    return {
        "name": name.name,
        "tasks": name.tasks,
        "failed": name.failed,
        "failure_rate": name.failure_rate,
        "retries": name.retries,
        "wait": name.wait._asdict(),
        "run": name.run._asdict(),
        "per_minute": found.per_minute(name),
        "since": found.since,
        "until": found.until,
        "looked_back_to": found.looked_back_to,
    }
