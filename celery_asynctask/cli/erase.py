"""``celery asynctask erase``: takes the values of one tenant out of the record."""

from __future__ import annotations

import click

from celery_asynctask.cli.command import CommandContext, ask, command
from celery_asynctask.core.limits import MAX_INTEGER
from celery_asynctask.operations.erase import Erased, Erasure


@command("erase --customer 42 --dry-run", "erase --customer 42 --customer 43 --yes")
@click.option(
    "--customer",
    "customers",
    type=click.IntRange(-MAX_INTEGER, MAX_INTEGER),
    metavar="N",
    multiple=True,
    required=True,
    help="Whose; may be said more than once.",
)
@click.option("--dry-run", is_flag=True, help="Count only.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase(context: CommandContext, customers: tuple[int, ...], dry_run: bool, yes: bool) -> None:
    """Erase what was recorded of the values of customers' tasks, for good.

    Arguments, results and content become {"$asynctask": "erased"}; error messages, tracebacks and the name of who asked
    become null. The rows stay: what ran, when, how it ended. Such a task cannot be run again from the record.

    Values can come back with events that are stored only later: of tasks that are not over, of a message that is
    delivered again, of a node whose journal has not reached the database. Run it once more then; what is erased already
    is not touched. Journals, their quarantine, the broker, the result backend, exports and backups are not looked into.
    """
    context.reader.close()  # it has found the tables
    writer = context.writer(context.settings)
    work = {customer: Erasure(writer, customer) for customer in customers}
    counts = {customer: one.count() for customer, one in work.items()}
    if dry_run or not yes:
        _show(context, counts, "has to erase")
    if dry_run:
        return
    tasks = sum(count.tasks for count in counts.values())
    attempts = sum(count.attempts for count in counts.values())
    if tasks or attempts:
        ask(f"Erase the values of {tasks:,} tasks and {attempts:,} attempts for good?", yes)
    done: dict[int, Erased] = {}
    with context.output.progress("Erasing", tasks) as told:
        for customer, one in work.items():
            done[customer] = Erased(0, 0)
            for batch in one.run():
                done[customer] = Erased(*map(sum, zip(done[customer], batch, strict=True)))
                told(batch.tasks)
    _show(context, done, "erased")


def _show(context: CommandContext, counts: dict[int, Erased], what: str) -> None:
    for customer, count in counts.items():
        context.output.tell(
            {"customer": customer, "state": what, **count._asdict()},
            f"Customer {customer}: {what} the values of {count.tasks:,} tasks, {count.attempts:,} attempts.",
        )
