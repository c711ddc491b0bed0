"""``celery asynctask uninstall``: removes the tables and the journal of this host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from celery_asynctask.cli.command import JSON, CommandContext, ask, command
from celery_asynctask.core.accounting import listed, plural
from celery_asynctask.core.text import amount
from celery_asynctask.core.url import parse
from celery_asynctask.operations.uninstall import JournalFiles, Leftovers, Uninstall, refuse


@command(
    "uninstall --dry-run",
    "uninstall --yes",
    "--url postgresql+psycopg://host/name uninstall",
    short="Remove the tables and the host's journal.",
    options=[JSON],
)
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def uninstall(context: CommandContext, dry_run: bool, yes: bool) -> None:
    """Remove the tables and the journal of this host.

    The record is gone for good then. First take celery-asynctask out of the app, or set asynctask_enabled to False, and
    restart all processes: a process that still records would create everything again. Nothing is removed while one is
    seen at work. Run it as the user of the workers, and then on each other host, for its journal.

    Other tables of the database, an SQLite file itself, files that are not ours, logs, exports and backups stay. If it
    is interrupted, run it again. This command has nothing to do with the function `celery_asynctask.uninstall(app)`,
    which ends the recording of an app in a process.
    """
    output = context.output
    work = Uninstall(context.writer(context.settings))
    leftovers = work.find()
    _show(context, leftovers)
    if leftovers.is_empty:
        return
    if dry_run:
        if leftovers.in_use:
            output.hint(f"It would be refused now, because these still record: {'; '.join(leftovers.in_use)}.")
        return
    refuse(leftovers.in_use)
    ask(f"Remove {_parts(leftovers)} for good?", yes)
    removed = work.run()
    output.tell(
        {"state": "removed", **removed._asdict()},
        f"Removed {len(removed.tables)} {plural(len(removed.tables), 'table')} and {removed.files:,} "
        f"{plural(removed.files, 'file')} of the journal.",
    )
    for line in _left(context, leftovers, directory=removed.directory):
        output.hint(line)


def _parts(leftovers: Leftovers) -> str:
    count, rows = len(leftovers.tables), sum(leftovers.tables.values())
    tables = f"{count} {plural(count, 'table')} with {rows:,} {plural(rows, 'row')}"
    if leftovers.journal is None:
        return tables
    return f"{tables} and the journal of this host" if count else "the journal of this host"


def _show(context: CommandContext, leftovers: Leftovers) -> None:
    output, database = context.output, context.settings.shown_url
    if output.as_json:
        journal: dict[str, Any] | None = None
        if leftovers.journal is not None:
            journal = {**leftovers.journal._asdict(), "path": str(leftovers.journal.path)}
            journal["files"] = len(journal.pop("names"))
        output.json({"state": "found", "database": database, **leftovers._asdict(), "journal": journal})
        return
    if leftovers.is_empty:
        output.line(f"Nothing is left in {database}, nor in a journal on this host.")
        return
    tables = ", ".join(f"{name} ({rows:,} {plural(rows, 'row')})" for name, rows in sorted(leftovers.tables.items()))
    output.fields(
        [
            ("database", database),
            ("tables", tables or "none"),
            ("journal", "none on this host" if leftovers.journal is None else _journal(leftovers.journal)),
        ]
    )


def _journal(journal: JournalFiles) -> str:
    parts = [
        f"{journal.segments:,} {plural(journal.segments, 'segment')}",
        amount(journal.size),
        f"{journal.unstored:,} {plural(journal.unstored, 'event')} not stored yet",
    ]
    if journal.quarantines:
        parts.append(f"{journal.quarantines:,} {plural(journal.quarantines, 'file')} in quarantine")
    return f"{journal.path}: {', '.join(parts)}"


def _left(context: CommandContext, leftovers: Leftovers, *, directory: bool) -> list[str]:
    """What a person may still have to do."""
    lines = []
    if leftovers.journal is not None and not directory:
        names = listed(leftovers.journal.strangers) or "files that are new"
        lines.append(f"The directory {leftovers.journal.path} stays, for what is not ours: {names}.")
    url = parse(context.settings.url)
    if url.backend == "sqlite" and Path(url.database).is_file():
        lines.append(f"The file {Path(url.database).absolute()} stays: delete it if nothing else uses it.")
    if leftovers.elsewhere:
        lines.append(f"Run this on the other hosts too, for their journals: {listed(leftovers.elsewhere)}.")
    return lines
