"""``celery asynctask tree``: the workflow of a task as a tree, or over time."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import click

from celery_asynctask.cli import waterfall as bars
from celery_asynctask.cli.command import CommandContext, command, whose
from celery_asynctask.cli.output import Node, Output
from celery_asynctask.core.accounting import plural
from celery_asynctask.core.fold import Identity
from celery_asynctask.core.status import SHOWN
from celery_asynctask.present.symbols import SIGNS
from celery_asynctask.queries.task import find
from celery_asynctask.queries.workflow.members import MAX_ATTEMPTS, MAX_MEMBERS, MemberAttempt, attempts_of, workflow
from celery_asynctask.queries.workflow.tree import Member, Placed, failed_branches, lineage

SHORTEST_ID: Final = 8
"""Characters of an id that are always shown."""
CRITICAL: Final = "◆"
REQUESTED: Final = "◀"


@command("tree 5f0c2a", "tree 5f0c2a --failed", "tree 5f0c2a --waterfall", short="Show a workflow as a tree.")
@click.argument("task_id", metavar="ID")
@click.option("--waterfall", is_flag=True, help="Draw it over time, with every attempt.")
@click.option("--failed", is_flag=True, help="Show only the branches with failures.")
@whose
def tree(context: CommandContext, task_id: str, waterfall: bool, failed: bool, customer: str | None) -> None:
    """Show the workflow of the task whose id is ID or begins with it: which task started which, and the steps that were
    never sent.

    The critical path is marked: the tasks that decided when the workflow ended, from first to last. While it is
    unfinished, they lead to the task that it waits for.
    """
    output, reader = context.output, context.reader
    with reader.session() as session:
        task = find(reader, session, task_id, customer)
        result = workflow(reader, session, task)
        everything = lineage(result.members)
        shown = failed_branches(everything) if failed else everything
        attempts = attempts_of(session, [entry.member for entry in shown]) if waterfall else {}
    requested = task.celery_task_id, task.customer_key
    if output.as_json:
        for entry in shown:
            own = attempts.get(entry.member.identity, ())
            output.json(_fields(entry, requested) | ({"attempts": [_run(run) for run in own]} if waterfall else {}))
    else:
        output.line(_summary(output, everything))
        ids = shortened(entry.member.celery_task_id for entry in everything)
        if waterfall:
            _draw(output, shown, attempts, requested)
        else:
            for node in _nodes(output, shown, ids, requested):
                output.tree(node)
        output.line(f"\n{CRITICAL} critical path  {REQUESTED} requested task")
    if failed and not shown:
        output.hint("Nothing in this workflow has failed.")
    if result.bounded:
        output.hint(f"The workflow has more than {MAX_MEMBERS:,} tasks; these were created first.")
    if sum(map(len, attempts.values())) >= MAX_ATTEMPTS:
        output.hint(f"The workflow has more than {MAX_ATTEMPTS:,} attempts; those of some tasks are not shown.")


def shortened(ids: Iterable[str]) -> dict[str, str]:
    """The beginnings of ids, long enough to tell each from all others."""
    ordered = sorted(set(ids))
    length = SHORTEST_ID
    for first, second in pairwise(ordered):
        common = next((at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))
        length = max(length, common + 1)
    return {task_id: task_id[:length] for task_id in ordered}


def _summary(output: Output, placed: Sequence[Placed]) -> str:
    members = [entry.member for entry in placed]
    counts = Counter(member.status for member in members)
    statuses = ", ".join(f"{SIGNS[status]} {counts[status]:,} {status}" for status in SHOWN if counts[status])
    begun = min(member.created_at for member in members)
    ended = [member.completed_at for member in members if member.completed_at is not None]
    over = not any(member.open for member in members) and bool(ended)
    took = output.show((max(ended) if over else output.now) - begun)
    when = f"Since {output.moment(begun)}, {took}" + ("" if over else " so far")
    return f"{len(members):,} {plural(len(members), 'task')}: {statuses}\n{when}\n"


def _nodes(output: Output, placed: Sequence[Placed], ids: Mapping[str, str], requested: Identity) -> list[Node]:
    """The trees of a workflow; made from the last entry to the first, so that children come before their parent."""
    below: dict[Identity | None, list[Node]] = {}
    for entry in reversed(placed):
        cells = _cells(output.now, entry, ids[entry.member.celery_task_id], requested)
        below.setdefault(entry.above, []).append(Node(cells, below.pop(entry.member.identity, [])[::-1]))
    return below.get(None, [])[::-1]


def _cells(now: dt.datetime, entry: Placed, short: str, requested: Identity) -> list[Any]:
    member = entry.member
    signs = (CRITICAL if entry.critical else "") + (REQUESTED if member.identity == requested else "")
    return [
        member.status,
        in_a_line(member.name),
        short,
        duration(member, now),
        f"{member.retries} {'retry' if member.retries == 1 else 'retries'}" if member.retries else None,
        state(member),
        signs or None,
    ]


def duration(member: Member, now: dt.datetime) -> dt.timedelta | None:
    """From its first start to its end, or until now."""
    if member.started_at is None:
        return None
    return (member.completed_at or now) - member.started_at


def state(member: Member) -> str | None:
    """What the status does not say: that it was not sent, or the class of its error."""
    if member.unsent:
        return "never sent"
    if member.planned:
        return "not sent yet"
    return in_a_line(member.error_type) if member.error_type else None


def in_a_line(text: str) -> str:
    """A name in one line."""
    return " ".join(text.split())


def _draw(
    output: Output, placed: Sequence[Placed], attempts: Mapping[Identity, Sequence[MemberAttempt]], requested: Identity
) -> None:
    rows = []
    for entry in placed:
        member = entry.member
        sign = (CRITICAL if entry.critical else " ") + (REQUESTED if member.identity == requested else " ")
        label = f"{sign} {SIGNS[member.status]} {'  ' * min(entry.depth, 6)}{output.show(in_a_line(member.name))}"
        took = output.show(duration(member, output.now)) or (
            output.show(state(member)) if member.started_at is None else ""
        )
        rows.append(bars.Row(label, member, attempts.get(member.identity, ()), took))
    for line in bars.draw(rows, output.width, output.now, output.show):
        output.line(line)


def _run(run: MemberAttempt) -> dict[str, Any]:
    return {name: value for name, value in run._asdict().items() if name not in ("customer_key", "run_key")}


def _fields(entry: Placed, requested: Identity) -> dict[str, Any]:
    member = entry.member
    return {
        "depth": entry.depth,
        "parent": entry.above and entry.above[0],
        "critical": entry.critical,
        "asked": member.identity == requested,
        "never_sent": member.unsent,
        **{name: value for name, value in member._asdict().items() if name not in ("order_key", "id")},
    }
