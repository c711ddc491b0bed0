"""``celery asynctask quarantine``: list the events that the database refused, store them after all, or give them up."""

from __future__ import annotations

from typing import Final

import click

from celery_asynctask.cli.command import CommandContext, ask, command, origin, user
from celery_asynctask.cli.group import PROBLEM
from celery_asynctask.cli.output import Id, Output
from celery_asynctask.core.accounting import listed, plural
from celery_asynctask.errors import AsyncTaskError, StoreError
from celery_asynctask.operations.audit import Action
from celery_asynctask.operations.audit import Entry as AuditEntry
from celery_asynctask.operations.quarantine import Entry, Quarantine, Replayed, directory_of

_COLUMNS: Final = ("process", "task", "name", "kind", "at", "bytes>", "state")
_SPARE: Final = ("process", "bytes", "kind")
"""Columns that a narrow terminal leaves out, in this order."""
MAX_REASONS: Final = 10
"""Refused events that are named."""


@command(
    "quarantine",
    "quarantine replay --all",
    "quarantine drop --all --dry-run",
    short="Store or give up refused events.",
)
@click.argument("action", type=click.Choice(["list", "replay", "drop"]), default="list")
@click.argument("processes", metavar="[PROCESS]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Replay or drop what is there of all processes.")
@click.option("--dry-run", is_flag=True, help="Only list.")
@click.option("--yes", is_flag=True, help="Do not ask before events are dropped.")
def quarantine(
    context: CommandContext, action: str, processes: tuple[str, ...], everything: bool, dry_run: bool, yes: bool
) -> None:
    """List the events in quarantine on this host, replay them, or drop them.

    The database has refused them, or they are what is left of damaged lines of the journal. The recorder's log says why
    it put each aside. Their arguments and results are not shown. Run this as the user of the workers.

    Replay stores those that are whole: after the database, its schema or celery-asynctask was changed so that it takes
    them. What is refused again stays. It may be interrupted, and run again. It exits with 1 if anything is left.

    Drop removes them for good. `verify` then counts them as given up, and as nothing that is missing. It also gives up
    what was counted and not kept, because quarantine was full; and what the ledger has of a PROCESS whose host is gone.
    """
    if action != "list" and bool(processes) == everything:
        raise click.UsageError(f"Give the processes to {action}, or --all.")
    if action != "list":
        context.reader.close()  # it has found the tables
    directory = directory_of(context.settings.directory, context.settings.store_id)
    if directory is None:
        context.output.hint(f"This host has no journal directory {context.settings.directory}.")
        return
    work = Quarantine(directory, context.writer(context.settings))
    context.click.call_on_close(work.close)
    if action == "list":
        _list(context, work, processes)
        return
    if context.audit.is_elsewhere:
        raise AsyncTaskError(
            f"Nothing is done to {context.settings.shown_url}, for it is not the record of this app. Run this with the "
            "app whose record it is: celery -A APP."
        )
    with work.alone():
        entries, counted = work.entries(), work.counted()
        if processes:
            counted = work.counted(processes)
            entries = {source: entries[source] for source in processes if source in entries}
        sources = sorted(entries.keys() | (counted.keys() if action == "drop" else ()))
        if unknown := sorted({*processes} - {*sources}):
            raise AsyncTaskError(
                f"Nothing of {listed(unknown)} is in quarantine here. Run `celery -A APP asynctask quarantine` to see "
                "what is."
            )
        if dry_run:
            _show(context.output, entries, counted)
        elif not sources:
            context.output.hint("Quarantine is empty.")
        elif action == "replay":
            _replay(context, work, sources, sum(map(len, entries.values())))
        else:
            count = sum(max(counted.get(source, 0), len(entries.get(source, ()))) for source in sources)
            _drop(context, work, sources, count, yes)


def _list(context: CommandContext, work: Quarantine, processes: tuple[str, ...]) -> None:
    counted: dict[str, int] = {}
    try:
        context.reader.close()  # it has found the tables
        counted = work.counted()
    except StoreError as exc:
        context.output.hint(f"The ledger cannot be read: {exc}")
    entries = {source: found for source, found in work.entries().items() if not processes or source in processes}
    counted = {source: count for source, count in counted.items() if not processes or source in processes}
    if not entries and not counted:
        context.output.hint("Quarantine is empty.")
    _show(context.output, entries, counted)


def _show(output: Output, entries: dict[str, list[Entry]], counted: dict[str, int]) -> None:
    found = [entry for source in sorted(entries) for entry in entries[source]]
    if output.as_json:
        for entry in found:
            task, name, kind = map(entry.text, ("id", "name", "kind"))
            about = {"task_id": task, "name": name, "kind": kind, "at": entry.at, "bytes": len(entry.line)}
            output.json({"source": entry.source, **about, "state": entry.state.value, "events": 1})
    elif found:
        output.table(_COLUMNS, map(_cells, found), spare=_SPARE)
    for source, count in sorted(counted.items()):
        if (lacking := count - len(entries.get(source, ()))) > 0:
            if output.as_json:
                output.json({"source": source, "state": "not kept", "events": lacking})
            else:
                output.line(
                    f"{lacking:,} more {plural(lacking, 'event')} of {source}: counted and not kept, because "
                    "quarantine was full, or its file was removed."
                )


def _cells(entry: Entry) -> tuple[object, ...]:
    task = entry.text("id")
    shown = None if task is None else Id(task)
    return (entry.source, shown, entry.text("name"), entry.text("kind"), entry.at, len(entry.line), entry.state.value)


def _target(sources: list[str]) -> str:
    return f"quarantine of {listed(sources, 20)}"


def _replay(context: CommandContext, work: Quarantine, sources: list[str], count: int) -> None:
    output = context.output
    done: list[Replayed] = []
    with context.operation(Action.REPLAY, _target(sources)) as operation:
        by = AuditEntry(Action.REPLAY, user(), origin())
        with output.progress("Replaying", count) as advance:
            for source in sources:
                done.append(work.replay(source, by, advance))
                stored, left = (sum(numbers) for numbers in zip(*(one[:2] for one in done), strict=True))
                operation.detail = f"{stored:,} {plural(stored, 'event')} stored, {left:,} left"
    for source, one in zip(sources, done, strict=True):
        if output.as_json:
            refused = [{"task_id": task, "reason": why} for task, why in one.refusals]
            output.json({"source": source, "stored": one.stored, "left": one.left, "refused": refused})
    refusals = [refusal for one in done for refusal in one.refusals]
    for task, why in refusals[:MAX_REASONS]:
        output.hint(f"Task {task} is refused again: {why}.")
    if not output.as_json:
        output.line(f"Stored {stored:,} {plural(stored, 'event')}, {left:,} {'is' if left == 1 else 'are'} left.")
    if left:
        context.click.exit(PROBLEM)


def _drop(context: CommandContext, work: Quarantine, sources: list[str], count: int, yes: bool) -> None:
    processes = f"{len(sources):,} {plural(len(sources), 'process')}"
    ask(f"Give up {count:,} {plural(count, 'event')} in quarantine of {processes} for good?", yes)
    given_up = 0
    with context.operation(Action.DROP, _target(sources)) as operation:
        by = AuditEntry(Action.DROP, user(), origin())
        for source in sources:
            given_up += work.drop(source, by)
            operation.detail = f"{given_up:,} {plural(given_up, 'event')} given up"
    context.output.tell(
        {"sources": sources, "given_up": given_up},
        f"Gave up {given_up:,} {plural(given_up, 'event')} of {processes}.",
    )
