"""``celery asynctask purge``: delete tasks older than their retention."""

from __future__ import annotations

from collections.abc import Sequence

import click

from celery_asynctask.cli.command import CommandContext, ask, command
from celery_asynctask.operations import retention
from celery_asynctask.operations.purge import BATCH, SOURCES_KEPT, Count, Purge
from celery_asynctask.operations.retention import Rule, as_written, in_words


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
    left. `verify` no longer counts those. Entries that report losses are kept.

    If an event of a deleted task is stored later, from a node that was cut off for as long, there is a row again, which
    holds what that event says.
    """
    if search and older_than is None:
        raise click.UsageError("A search needs the age of the tasks to delete: add --older-than 90d.")
    output = context.output
    if older_than is None:
        rules = retention.configured(context.settings.retention, context.now)
    else:
        rules = retention.older_than(older_than, " ".join(search), context.now)
    context.reader.close()  # it has found the tables
    purging = Purge(context.writer(context.settings), rules, output.now, unfinished=unfinished, batch=batch)
    with output.progress("Counting") as advance:
        counts = purging.count(advance)
    due = sum(count.due for count in counts)
    _show_counts(context, rules, counts)
    if dry_run:
        return
    if retention.longest(rules) is None:
        output.hint("Nothing deleted: asynctask_retention has no age. Set it, or use --older-than 90d.")
        return
    if due:
        ask(f"Delete {due:,} tasks and their attempts?", yes)
    with output.progress("Deleting", due) as advance:
        purged = purging.run(advance)
    output.tell(
        purged._asdict(),
        f"Deleted {purged.tasks:,} tasks with {purged.attempts:,} attempts, {purged.orphans:,} attempts without a task "
        f"and the ledger of {purged.sources:,} processes that ended more than {in_words(SOURCES_KEPT)} ago.",
    )


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
