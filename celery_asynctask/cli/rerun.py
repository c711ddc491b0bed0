"""``celery asynctask rerun``: send recorded tasks again."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from celery_asynctask.cli.command import CommandContext, UnconfirmedError, command, user, whose
from celery_asynctask.cli.group import PROBLEM
from celery_asynctask.cli.output import Id, Output
from celery_asynctask.core.accounting import plural
from celery_asynctask.operations.audit import Action, Outcome
from celery_asynctask.operations.rerun import (
    Candidate,
    Options,
    assess,
    is_elsewhere,
    link,
    prepare,
    reach_broker,
    send,
)
from celery_asynctask.present.reasons import reasons
from celery_asynctask.queries import page
from celery_asynctask.queries.reruns import reruns, routing_keys
from celery_asynctask.queries.search.page import MAX_ROWS, MAX_SCANNED
from celery_asynctask.queries.task import find
from celery_asynctask.store.models import AsyncTask

_REMEDIES: Final = {
    "again": "--again reruns it once more",
    "unfinished": "--unfinished reruns it anyway",
    "force_name": "--force-name reruns it anyway",
    "from_elsewhere": "--from-elsewhere reruns it anyway",
}
_SHORT: Final = 60
"""Characters of arguments in a table; a single task's are shown in full."""


@command(
    "rerun 5f0c2a",
    'rerun --search "status:FAILURE since:2d" -n 500',
    "rerun 5f0c2a --queue slow --by ada --yes --json",
    short="Rerun recorded tasks.",
)
@click.argument("task_ids", metavar="[ID]...", nargs=-1)
@whose
@click.option("--search", metavar="SEARCH", help="Rerun the newest tasks that a search finds, oldest first.")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1, MAX_ROWS),
    default=100,
    show_default=True,
    help="Tasks that a search may find at most.",
)
@click.option("--queue", metavar="QUEUE", help="Send to this queue instead of the app's choice.")
@click.option("--by", metavar="NAME", help="Who reruns them; default: the operating system's user.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--again", is_flag=True, help="Include tasks that were rerun before.")
@click.option("--unfinished", is_flag=True, help="Include unfinished tasks.")
@click.option("--force-name", is_flag=True, help="Include tasks whose name this app does not know.")
@click.option("--from-elsewhere", is_flag=True, help="Send tasks of another record than the app's (--url).")
def rerun(
    context: CommandContext,
    task_ids: tuple[str, ...],
    customer: str | None,
    search: str | None,
    limit: int,
    queue: str | None,
    by: str | None,
    yes: bool,
    again: bool,
    unfinished: bool,
    force_name: bool,
    from_elsewhere: bool,
) -> None:
    """Rerun recorded tasks with their recorded arguments. Shows a preview and asks first.

    A rerun is a new task for the same customer and creator, linked to the original by its content (rerun_of, rerun_by).
    Only the task itself is sent, not what followed it in a workflow. Exits with 1 if a task could not be rerun.
    """
    if bool(task_ids) == (search is not None):
        raise click.UsageError("Give either task ids or --search.")
    if search is not None and customer is not None:
        raise click.UsageError("--customer is for task ids. Search with the term customer: instead.")
    output, app = context.output, context.app
    tasks = _by_search(context, search, limit) if search is not None else _by_id(context, task_ids, customer)
    prepare(app)
    candidates = _assessed(context, tasks, Options(queue, unfinished, again, force_name, from_elsewhere))
    sendable = [candidate for candidate in candidates if not candidate.refusals]
    asks = not yes and sys.stdin.isatty() and not output.as_json
    if output.as_json:
        for candidate in candidates:
            if candidate.refusals or not yes:
                output.json(_record(candidate))
    else:
        _preview(output, candidates)
    if not candidates:
        output.nothing("No tasks match.", context.search((search or "",)))
    if not sendable:
        context.click.exit(PROBLEM if candidates else 0)
    count = f"{len(sendable):,} {plural(len(sendable), 'task')}"
    if not yes and not asks:
        reason = "--json does not ask" if output.as_json else "no terminal to confirm on"
        raise UnconfirmedError(f"Not sent: {reason}. Use --yes to rerun {count}.")
    if asks and not click.confirm(f"Rerun {count}?", err=True):
        output.hint("Not sent.")
        context.click.exit(PROBLEM)
    link(app)
    reach_broker(app)
    failed = [candidate for candidate in sendable if not _sent(context, candidate, by, queue)]
    if failed or len(sendable) < len(candidates):
        context.click.exit(PROBLEM)


def _by_id(context: CommandContext, task_ids: Sequence[str], customer: str | None) -> list[AsyncTask]:
    with context.reader.session() as session:
        tasks = [find(context.reader, session, task_id, customer) for task_id in task_ids]
    return list({task.id: task for task in tasks}.values())


def _by_search(context: CommandContext, search: str, limit: int) -> list[AsyncTask]:
    """Oldest first, in the order of their creation."""
    with context.reader.session() as session:
        result = page(context.reader, session, context.search((search,)), limit=limit)
    if result.looked_back_to is not None:
        back_to = context.output.moment(result.looked_back_to)
        context.output.hint(f"Searched only the newest {MAX_SCANNED:,} tasks, back to {back_to}.")
    elif result.next is not None:
        context.output.hint(f"More tasks match; these are the newest {limit:,}. --limit takes up to {MAX_ROWS:,}.")
    return list(reversed(result.tasks))


def _assessed(context: CommandContext, tasks: Sequence[AsyncTask], options: Options) -> list[Candidate]:
    with context.reader.session() as session:
        before = reruns(context.reader, session, tasks)
        keys = routing_keys(session, tasks)
    if before.looked_back_to is not None:
        context.output.hint(
            f"Searched for earlier reruns only among the newest {MAX_SCANNED:,} tasks, back to "
            f"{context.output.moment(before.looked_back_to)}."
        )
    elsewhere = is_elsewhere(context.app, context.settings)
    identities = [(task.celery_task_id, task.customer_key) for task in tasks]
    return [
        assess(context.app, task, options, before.by_task.get(identity, ()), keys.get(identity), elsewhere=elsewhere)
        for task, identity in zip(tasks, identities, strict=True)
    ]


def _preview(output: Output, candidates: Sequence[Candidate]) -> None:
    if len(candidates) == 1:
        [candidate] = candidates
        output.fields(
            [
                ("id", candidate.task.celery_task_id),
                ("name", candidate.task.name),
                ("status", candidate.task.status),
                ("args", json.dumps(candidate.task.task_args, ensure_ascii=False)),
                ("kwargs", json.dumps(candidate.task.task_kwargs, ensure_ascii=False)),
                ("queue", candidate.queue),
                ("customer", candidate.task.customer_key or None),
            ]
        )
    elif candidates:
        output.table(
            ("id", "status", "name", "args", "kwargs", "queue", "customer>"),
            (
                (
                    Id(candidate.task.celery_task_id),
                    candidate.task.status,
                    candidate.task.name,
                    _short(candidate.task.task_args),
                    _short(candidate.task.task_kwargs),
                    candidate.queue,
                    candidate.task.customer_key or None,
                )
                for candidate in candidates
            ),
            spare=("customer", "status", "queue"),
        )
    for candidate in candidates:
        for remarks, title in ((candidate.refusals, "cannot be rerun"), (candidate.remarks, "note")):
            if remarks:
                output.line(f"{candidate.task.celery_task_id} {title}: {'; '.join(reasons(remarks, _REMEDIES))}.")


def _sent(context: CommandContext, candidate: Candidate, by: str | None, queue: str | None) -> bool:
    """Send a task and print the result; whether it was sent. Raises `AuditError`."""
    output, task_id = context.output, candidate.task.celery_task_id
    with context.operation(Action.RERUN, task_id, by and f"for {by}") as operation:
        try:
            new = send(context.app, candidate, by or user(), queue)
        except Exception as exc:  # noqa: BLE001 - a task that fails must not stop the others
            error = f"{type(exc).__name__}: {exc}"
            output.tell({**_record(candidate), "error": error}, f"{task_id} could not be rerun: {error}")
            operation.outcome, operation.detail = Outcome.FAILED, type(exc).__name__
            return False
        operation.detail = f"as {new}"
    output.tell({**_record(candidate), "sent": new}, f"{task_id} was rerun as {new}")
    return True


def _record(candidate: Candidate) -> dict[str, Any]:
    """What ``--json`` prints; ``sent`` is the new task id."""
    task = candidate.task
    return {
        "celery_task_id": task.celery_task_id,
        "name": task.name,
        "status": task.status,
        "task_args": task.task_args,
        "task_kwargs": task.task_kwargs,
        "queue": candidate.queue,
        "customer": task.customer,
        "customer_key": task.customer_key,
        "refusals": reasons(candidate.refusals, _REMEDIES),
        "remarks": reasons(candidate.remarks),
        "sent": None,
        "error": None,
    }


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}…"
