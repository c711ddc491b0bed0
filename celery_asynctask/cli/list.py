"""``celery asynctask list``: tasks, newest first."""

from __future__ import annotations

from typing import Any, Final

import click

from celery_asynctask.cli.command import CommandContext, command, record
from celery_asynctask.cli.output import Id
from celery_asynctask.queries import page
from celery_asynctask.queries.search.keys import KEYS
from celery_asynctask.queries.search.page import MAX_ROWS, MAX_SCANNED
from celery_asynctask.store.models import AsyncTask

_COLUMNS: Final = ("id", "status", "name", "created", "wait>", "run>", "retries>", "customer>", "by", "error")
_SPARE: Final = ("by", "wait", "customer", "retries", "run")
"""Columns that a narrow terminal does without, first these."""


@command(
    "list status:FAILURE,LOST since:2d",
    "list 'name:billing.*' customer:42 'retries:>2'",
    "list kwargs.account_id:17 -status:SUCCESS --json",
    """list 'message:"no money"' created:2026-01-31""",
    name="list",
    about="\b\nKeys of a search:\n" + "".join(f"  {name:16} {key.meaning}\n" for name, key in KEYS.items()),
)
@click.argument("search", nargs=-1)
@click.option("-n", "--limit", type=click.IntRange(1, MAX_ROWS), default=30, show_default=True, help="Tasks shown.")
@click.option("--after", metavar="CURSOR", help="Go on where a page ended.")
def list_tasks(context: CommandContext, search: tuple[str, ...], limit: int, after: str | None) -> None:
    """Tasks that SEARCH finds, newest first.

    SEARCH is terms such as status:FAILURE; all must hold, one with a minus in front must not. Alternatives are
    separated by commas, names may be globs, numbers and times take <, > and low..high, durations count back from now:
    created:>2d is the last two days. What has a blank in it stands in double quotes, and those in single ones for the
    shell, as does what the shell would read itself: * and >.

    On a narrow terminal ids are cut to their beginning, which the other commands take as well, and columns are left
    out; in a pipe everything is there.
    """
    output = context.output
    with context.reader.session() as session:
        found = page(context.reader, session, context.search(search), limit=limit, after=after, payloads=output.as_json)
    if output.as_json:
        for task in found.tasks:
            output.json(record(task))
    elif found.tasks:
        output.table(_COLUMNS, map(_row, found.tasks), spare=_SPARE)
    else:
        output.hint("No task is like that.")
    if found.looked_back_to is not None:
        output.hint(
            f"Looked at the newest {MAX_SCANNED:,} tasks one by one, back to {output.moment(found.looked_back_to)}; "
            f"older ones may match, too. Add a key such as name, customer or until, or go on: --after {found.next}"
        )
    elif found.next is not None:
        output.hint(f"There are more: --after {found.next}")


def _row(task: AsyncTask) -> tuple[Any, ...]:
    return (
        Id(task.celery_task_id),
        task.status,
        task.name,
        task.created_at,
        task.started_at and task.started_at - task.created_at,
        task.started_at and task.completed_at and task.completed_at - task.started_at,
        task.retries or None,
        None if task.customer is None else str(task.customer),
        task.created_by_name or (None if task.created_by is None else str(task.created_by)),
        task.error_type,
    )
