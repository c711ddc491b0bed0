"""``celery asynctask erase``: remove the values of customers' tasks from the record."""

from __future__ import annotations

from collections.abc import Iterable

import click

from celery_asynctask.cli.command import CommandContext, ask, command, customers_option
from celery_asynctask.core.accounting import plural
from celery_asynctask.core.ids import shown
from celery_asynctask.operations.audit import Action
from celery_asynctask.operations.erase import Erased, Erasure


@command(
    "erase --customer 42 --dry-run",
    "erase --customer 42 --customer 43 --yes",
    short="Erase the values of customers' tasks.",
)
@customers_option(True, "Customer whose tasks lose their values; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def erase(context: CommandContext, customers: tuple[str, ...], dry_run: bool, yes: bool) -> None:
    """Erase the recorded values of customers' tasks for good.

    Arguments, results and content become {"$asynctask": "erased"}; error messages, tracebacks and names of creators
    become null. The rows stay: what ran, when, and how it ended. Such tasks cannot be rerun from the record.

    Values can come back with events that are stored later: those of unfinished tasks, of redelivered messages, or of a
    node whose journal has not reached the database yet. Run it again then; it leaves what is erased already. Journals,
    their quarantine, the broker, the result backend, the audit, exports and backups are not touched.
    """
    context.reader.close()  # it has found the tables
    writer = context.writer(context.settings)
    erasures = {customer: Erasure(writer, customer) for customer in customers}
    counts = {customer: erasure.count() for customer, erasure in erasures.items()}
    if dry_run or not yes:
        _show(context, counts, "would erase")
    if dry_run:
        return
    tasks = sum(count.tasks for count in counts.values())
    attempts = sum(count.attempts for count in counts.values())
    if tasks or attempts:
        ask(f"Erase the values of {tasks:,} tasks and {attempts:,} attempts for good?", yes)
    done: dict[str, Erased] = {}
    with (
        context.operation(Action.ERASE, f"customers {', '.join(customers)}") as operation,
        context.output.progress("Erasing", tasks) as advance,
    ):
        for customer, erasure in erasures.items():
            done[customer] = Erased(0, 0)
            for batch in erasure.run():
                done[customer] = Erased(*map(sum, zip(done[customer], batch, strict=True)))
                advance(batch.tasks)
                operation.detail = _counted(done.values())
    _show(context, done, "erased")


def _counted(done: Iterable[Erased]) -> str:
    tasks, attempts = (sum(counts) for counts in zip(*done, strict=True))
    return f"{tasks:,} {plural(tasks, 'task')}, {attempts:,} {plural(attempts, 'attempt')}"


def _show(context: CommandContext, counts: dict[str, Erased], state: str) -> None:
    for customer, count in counts.items():
        context.output.tell(
            {"customer": shown(customer), "state": state, **count._asdict()},
            f"Customer {customer}: {state} the values of {count.tasks:,} {plural(count.tasks, 'task')}, "
            f"{count.attempts:,} {plural(count.attempts, 'attempt')}.",
        )
