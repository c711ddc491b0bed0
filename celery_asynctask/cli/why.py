"""``celery asynctask why``: why a task has its status, in a few sentences."""

from __future__ import annotations

import click

from celery_asynctask.cli.command import CommandContext, command, whose
from celery_asynctask.present.diagnosis import Words, explain
from celery_asynctask.present.symbols import SIGNS
from celery_asynctask.queries.diagnosis import evidence
from celery_asynctask.queries.task import find


@command("why 5f0c2a", "why 5f0c2a --json", short="Explain the status of a task.")
@click.argument("task_id", metavar="ID")
@whose
def why(context: CommandContext, task_id: str, customer: str | None) -> None:
    """Explain why the task whose id is ID or begins with it failed, waits, or has its status.

    For a step that was never sent, it explains the task before it that did not succeed.
    """
    output, reader = context.output, context.reader
    with reader.session() as session:
        task = find(reader, session, task_id, customer)
        collected = evidence(reader, session, task)
    sentences = explain(collected, Words(output.now, output.show, output.show))
    if output.as_json:
        cause = collected.cause
        while cause is not None and cause.cause is not None:
            cause = cause.cause
        output.json(
            {
                "celery_task_id": task.celery_task_id,
                "name": task.name,
                "status": task.status,
                "cause": cause.task.celery_task_id if cause is not None else None,
                "reasons": sentences,
            }
        )
        return
    name = " ".join(task.name.split())
    output.line(output.show(f"{SIGNS[task.status]} {task.status}  {name}  {task.celery_task_id}"))
    for sentence in sentences:
        output.line(output.show(sentence))
