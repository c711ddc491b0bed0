"""``celery asynctask purge``: delete tasks older than their retention."""

from __future__ import annotations

from collections.abc import Sequence

import click

from celery_asynctask.cli.command import CommandContext, ask, command
from celery_asynctask.errors import StoreError
from celery_asynctask.operations import audit, retention
from celery_asynctask.operations.audit import Action
from celery_asynctask.operations.purge import BATCH, SOURCES_KEPT, Count, Purge
from celery_asynctask.operations.retention import Rule, as_written, in_words
from celery_asynctask.operations.session import Writer


@command(
    "purge --dry-run",
    "purge --yes",
    "purge --older-than 90d",
    "purge --older-than 7d status:SUCCESS 'name:poll.*'",
    short="Delete old tasks.",
)
@click.argument("search", nargs=-1)
@click.option("--older-than", metavar="AGE", help="Delete older tasks, of those that SEARCH finds: 90d, 12h.")
@click.option("--unfinished", is_flag=True, help="Include unfinished tasks; their age counts from creation.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--batch", type=click.IntRange(1, 5000), default=BATCH, show_default=True, help="Tasks per transaction.")
def purge(
    context: CommandContext,
    search: tuple[str, ...],
    older_than: str | None,
    unfinished: bool,
    dry_run: bool,
    yes: bool,
    batch: int,
) -> None:
    """Delete old tasks and their attempts, by the rules of asynctask_retention or by --older-than.

    The age of a task counts from its end; unfinished tasks are kept, and so are tasks that no rule finds. It can be
    stopped at any point and run again, also while workers record.

    It also deletes attempts without a task that are older than the greatest age, and the ledger entries of processes
    that ended before that age and at least a week ago, if all their events are stored and none of their attempts is
    left. `verify` no longer counts those. Entries that report losses, or what is not known, are kept.

    If an event of a deleted task is stored later, from a node that was cut off for as long, there is a row again, which
    holds what that event says.

    Without --older-than, it also deletes entries of the audit that are older than asynctask_audit_retention.
    """
    if search and older_than is None:
        raise click.UsageError("A search needs the age of the tasks to delete: add --older-than 90d.")
    output = context.output
    if older_than is None:
        rules = retention.configured(context.settings.retention, context.now)
    else:
        rules = retention.older_than(older_than, " ".join(search), context.now)
    context.reader.close()  # it has found the tables
    writer = context.writer(context.settings)
    purging = Purge(writer, rules, output.now, unfinished=unfinished, batch=batch)
    entries = None if older_than is not None else _entries(context, writer)
    with output.progress("Counting") as advance:
        counts = purging.count(advance)
    due = sum(count.due for count in counts)
    old = entries.count() if entries is not None else 0
    _show_counts(context, rules, counts)
    if old:
        output.tell({"audit": old}, f"{old:,} old entries of the audit are to be deleted, too.")
    if dry_run:
        return
    if retention.longest(rules) is None and not old:
        output.hint("Nothing deleted: asynctask_retention has no age. Set it, or use --older-than 90d.")
        return
    parts = [f"{due:,} tasks and their attempts"] * bool(due) + [f"{old:,} entries of the audit"] * bool(old)
    if parts:
        ask(f"Delete {' and '.join(parts)}?", yes)
    with context.operation(Action.PURGE, audit.purge_target(rules, unfinished=unfinished)) as operation:
        try:
            with output.progress("Deleting", due) as advance:
                purged = purging.run(advance)
        finally:
            operation.detail = purging.purged.sentence
        output.tell(
            purged._asdict(),
            f"Deleted {purged.tasks:,} tasks with {purged.attempts:,} attempts, {purged.orphans:,} attempts without a "
            f"task and the ledger of {purged.sources:,} processes that ended more than {in_words(SOURCES_KEPT)} ago.",
        )
        if entries is not None and old:
            deleted = _without(entries)
            operation.detail += f", {deleted:,} entries of the audit"
            output.tell({"audit": deleted}, f"Deleted {deleted:,} entries of the audit.")


def _entries(context: CommandContext, writer: Writer) -> audit.Retention | None:
    """What deletes old entries of the audit; None: they are kept, or are those of another app."""
    age = audit.retention(context.settings)
    return None if age is None or context.audit.is_elsewhere else audit.Retention(writer, age, context.output.now)


def _without(entries: audit.Retention) -> int:
    try:
        return entries.run()
    except StoreError as exc:
        raise StoreError(
            f"Old entries of the audit are still there. {exc.problem}",
            "Run purge as a user who may DELETE from async_task_audit, named by --url.",
        ) from exc


def _show_counts(context: CommandContext, rules: Sequence[Rule], counts: Sequence[Count]) -> None:
    ages = [(rule.text, rule.age) for rule in rules] + [("(no rule)", None)]
    rows = [
        (text, age, count.tasks, count.due, count.tasks - count.due)
        for (text, age), count in zip(ages, counts, strict=True)
    ]
    if context.output.as_json:
        for text, age, tasks, due, keeps in rows:
            context.output.json({"rule": text, "kept": as_written(age), "tasks": tasks, "due": due, "keeps": keeps})
        return
    columns = ("rule", "keep for", "tasks>", "to delete>", "stay>")
    context.output.table(columns, ((text, in_words(age), *numbers) for text, age, *numbers in rows))
