"""``celery asynctask audit``: who did what."""

from __future__ import annotations

from typing import Final

import click

from celery_asynctask.cli.command import CommandContext, command
from celery_asynctask.operations.audit import Action
from celery_asynctask.queries.audit import MAX_ROWS, page
from celery_asynctask.queries.search.filter import parse_value

_COLUMNS: Final = ("id", "at", "actor", "origin", "action", "outcome", "target", "detail", "operation")
_SPARE: Final = ("operation", "id", "origin", "detail")
"""Columns that a narrow terminal leaves out, in this order."""


@command(
    "audit --since 7d",
    "audit --action purge --actor ada --json",
    short="Show who did what.",
)
@click.option("--since", metavar="TIME", help="Entries of that time or later: 7d, 2026-01-31.")
@click.option("--actor", metavar="NAME", help="Entries of this token or user.")
@click.option("--action", type=click.Choice([action.value for action in Action]), help="Entries of this action.")
@click.option("-n", "--limit", type=click.IntRange(1, MAX_ROWS), default=30, show_default=True, help="Entries to show.")
@click.option("--before", metavar="ID", type=click.IntRange(1), help="Continue after a page: entries before this one.")
def audit(
    context: CommandContext,
    since: str | None,
    actor: str | None,
    action: str | None,
    limit: int,
    before: int | None,
) -> None:
    """Show the audit, newest first: sign-ins, reruns, purges, erasures, exports and more, by commands and
    over HTTP.

    An action that takes a while has two entries with one operation: begun, and how it ended. If it never ended, its
    process was killed, or lost the database.
    """
    output = context.output
    start = None if since is None else parse_value("since", since, context.now).values[0].value
    found = page(context.reader, since=start, actor=actor, action=action, before=before, limit=limit)
    if output.as_json:
        for entry in found.entries:
            output.json({name: getattr(entry, name) for name in _COLUMNS})
    elif found.entries:
        output.table(_COLUMNS, ([getattr(entry, name) for name in _COLUMNS] for entry in found.entries), spare=_SPARE)
    else:
        output.hint("No entries match.")
    if found.next is not None:
        output.hint(f"More entries match: --before {found.next}")
