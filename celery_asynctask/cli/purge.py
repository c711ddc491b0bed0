"""``celery asynctask purge``: deletes what is older than it is to be kept."""

from __future__ import annotations

from collections.abc import Sequence

import click

from celery_asynctask.cli.command import CommandContext, ask, command
from celery_asynctask.operations import retention
from celery_asynctask.operations.purge import BATCH, SOURCES_KEPT, Count, Purge
from celery_asynctask.operations.retention import Rule, in_words


@command("purge --dry-run", "purge --yes", "purge --older-than 90d", "purge --older-than 7d status:SUCCESS name:poll.*")
@click.argument("search", nargs=-1)
@click.option("--older-than", metavar="AGE", help="Delete what SEARCH finds (all, without) and is older: 90d, 12h.")
@click.option(
    "--unfinished", is_flag=True, help="Tasks that are not over, too: their age is since they were asked for."
)
@click.option("--dry-run", is_flag=True, help="Count only.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--batch", type=click.IntRange(1, 5000), default=BATCH, show_default=True, help="Tasks a transaction.")
def purge(
    context: CommandContext,
    search: tuple[str, ...],
    older_than: str | None,
    unfinished: bool,
    dry_run: bool,
    yes: bool,
    batch: int,
) -> None:
    """Delete old tasks with their attempts: by the rules of asynctask_retention, or by --older-than.

    The age of a task counts from its end; tasks that are not over stay. What no rule finds stays for ever. May be
    stopped at any point and run again, and beside workers that record.

    Attempts without a task that are older than the greatest age go, too, and so do the ledger entries of processes
    that ended before then, whose events are all stored and that no attempt is left of; never sooner than a week after
    they ended. `verify` does not count them any more. Entries that tell of losses stay.

    An event of a deleted task that is stored only afterwards (from a node that was away for as long) makes a row again,
    with what that event alone tells.
    """
    if search and older_than is None:
        raise click.UsageError("With a search, say how old tasks must be: --older-than 90d.")
    output = context.output
    if older_than is None:
        rules = retention.configured(context.settings.retention, context.now)
    else:
        rules = retention.older_than(older_than, " ".join(search), context.now)
    context.reader.close()  # it has found the tables
    work = Purge(context.writer(context.settings), rules, output.now, unfinished=unfinished, batch=batch)
    with output.progress("Counting") as told:
        counts = work.count(told)
    due = sum(count.due for count in counts)
    _show_counts(context, rules, counts)
    if dry_run:
        return
    if retention.longest(rules) is None:
        output.hint("Nothing is deleted: asynctask_retention has no age. Set it, or say --older-than 90d.")
        return
    if due:
        ask(f"Delete {due:,} tasks and their attempts?", yes)
    with output.progress("Deleting", due) as told:
        purged = work.run(told)
    output.tell(
        purged._asdict(),
        f"Deleted {purged.tasks:,} tasks with {purged.attempts:,} attempts, {purged.orphans:,} attempts without a task "
        f"and the ledger of {purged.sources:,} processes that ended more than {in_words(SOURCES_KEPT)} ago.",
    )


def _show_counts(context: CommandContext, rules: Sequence[Rule], counts: Sequence[Count]) -> None:
    kept = [(rule.text, in_words(rule.age)) for rule in rules] + [("(no rule)", in_words(None))]
    rows = [
        (text, age, count.tasks, count.due, count.tasks - count.due)
        for (text, age), count in zip(kept, counts, strict=True)
    ]
    if context.output.as_json:
        for text, age, tasks, due, keeps in rows:
            context.output.json({"rule": text, "kept": age, "tasks": tasks, "due": due, "keeps": keeps})
        return
    context.output.table(("rule", "kept", "tasks>", "due>", "keeps>"), rows)
