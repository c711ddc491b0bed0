"""``celery asynctask list``: find tasks, newest first."""

from __future__ import annotations

from typing import Any, Final

import click

from celery_asynctask.cli.command import CommandContext, command, record
from celery_asynctask.cli.output import Id
from celery_asynctask.queries import page
from celery_asynctask.queries.search.keys import ALIASES, KEYS
from celery_asynctask.queries.search.page import MAX_ROWS, MAX_SCANNED
from celery_asynctask.store.models import AsyncTask

_COLUMNS: Final = ("id", "status", "name", "created", "wait>", "run>", "retries>", "customer>", "created by", "error")
_SPARE: Final = ("created by", "wait", "customer", "retries", "run")
"""Columns that a narrow terminal leaves out, in this order."""
_KEYS: Final = {name: key.meaning for name, key in KEYS.items()} | {
    alias: f"the same as {name}" for alias, name in ALIASES.items()
}


@command(
    "list status:FAILURE,LOST since:2d",
    "list 'name:billing.*' customer:42 'retries:>2'",
    "list kwargs.account_id:17 -status:SUCCESS --json",
    """list 'message:"no money"' created:2026-01-31""",
    short="List tasks, newest first.",
    name="list",
    about="\b\nKeys of a search:\n" + "".join(f"  {name:16} {meaning}\n" for name, meaning in _KEYS.items()),
)
@click.argument("search", nargs=-1)
@click.option("-n", "--limit", type=click.IntRange(1, MAX_ROWS), default=30, show_default=True, help="Tasks to show.")
@click.option("--after", metavar="CURSOR", help="Continue after a page, by the CURSOR that it printed.")
def list_tasks(context: CommandContext, search: tuple[str, ...], limit: int, after: str | None) -> None:
    """List the tasks that SEARCH finds, newest first.

    SEARCH is one or more terms such as status:FAILURE, all of which must match; a term with a minus in front must not.
    Separate alternatives with commas. Texts may have the wildcards * and ?, numbers and times take <, > and low..high,
    and durations count back from now: created:>2d is the last two days. Put double quotes around a value with spaces,
    and single quotes around what the shell would interpret, such as double quotes, * and >.

    A narrow terminal shows the beginnings of ids, which the other commands take too, and fewer columns; a pipe gets
    everything.

    With --json, id is the number of the row, as in the API. The task id, which other commands take, is celery_task_id.
    """
    output = context.output
    with context.reader.session() as session:
        query = context.search(search)
        result = page(context.reader, session, query, limit=limit, after=after, payloads=output.as_json)
    if output.as_json:
        for task in result.tasks:
            output.json(record(task))
    elif result.tasks:
        output.table(_COLUMNS, map(_row, result.tasks), spare=_SPARE)
    else:
        output.nothing("No tasks match.", query)
    if result.looked_back_to is not None:
        output.hint(
            f"Searched only the newest {MAX_SCANNED:,} tasks, back to {output.moment(result.looked_back_to)}; older "
            f"tasks may match too. Add a key such as name, customer or until, or continue: --after {result.next}"
        )
    elif result.next is not None:
        output.hint(f"More tasks match: --after {result.next}")


def _row(task: AsyncTask) -> tuple[Any, ...]:
    return (
        Id(task.celery_task_id),
        task.status,
        task.name,
        task.created_at,
        task.started_at and task.started_at - task.created_at,
        task.started_at and task.completed_at and task.completed_at - task.started_at,
        task.retries or None,
        task.customer_key or None,
        task.created_by_name or task.created_by_key,
        task.error_type,
    )
