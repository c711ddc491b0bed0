"""``celery asynctask errors``: failures grouped by cause."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from celery_asynctask.cli.command import CommandContext, command
from celery_asynctask.cli.output import Node, Output
from celery_asynctask.core.accounting import listed, plural
from celery_asynctask.queries.failures.groups import MAX_SCANNED, Group, failures

NAMES_SHOWN: Final = 5
"""Task names shown per group."""
_CONSOLE_ONLY: Final = frozenset({"first_created", "last_created", "counts"})
"""Fields of a group that ``--json`` leaves out."""
_ORDERS: Final[dict[str, Callable[[Group], Any]]] = {
    "count": lambda group: group.tasks,
    "last": lambda group: group.last,
    "first": lambda group: group.first,
}


@command(
    "errors",
    "errors since:1d --sort first",
    "errors 'name:billing.*' customer:42 --json",
    short="Group failures by cause.",
)
@click.argument("search", nargs=-1)
@click.option(
    "--sort",
    type=click.Choice(list(_ORDERS)),
    default="count",
    show_default=True,
    help="Order of causes: most failures, latest failure, or newly appeared first.",
)
@click.option("-n", "--limit", type=click.IntRange(1), default=20, show_default=True, help="Causes to show.")
def errors(context: CommandContext, search: tuple[str, ...], sort: str, limit: int) -> None:
    """Group the failures that SEARCH finds by cause: how often, where, when, and for how many customers.

    A cause is an exception's class, its message without variable parts (numbers, ids, quoted texts, addresses, paths;
    codes such as an HTTP status stay), and the line of your own code that raised it. Tasks that were never sent because
    a task before them failed count toward its cause. Failures are FAILURE, LOST and REJECTED, unless SEARCH names other
    statuses; see `list --help` for its terms.
    """
    output = context.output
    with context.reader.session() as session:
        query = context.search(search)
        result = failures(context.reader, session, query)
    groups = sorted(result.groups, key=_ORDERS[sort], reverse=True)
    for group in groups[:limit]:
        if output.as_json:
            fields = {name: value for name, value in group._asdict().items() if name not in _CONSOLE_ONLY}
            output.json({**fields, "looked_back_to": result.looked_back_to})
        else:
            output.tree(_node(output, group))
    if not groups:
        output.nothing("No failures match.", query)
    if len(groups) > limit:
        left, tasks = len(groups) - limit, sum(group.tasks for group in groups[limit:])
        failed = f"{tasks:,} {plural(tasks, 'failure')}"
        output.hint(f"{left:,} more {plural(left, 'cause')} with {failed}: --limit {len(groups)}")
    output.bounded(MAX_SCANNED, "failures", result.looked_back_to)


def _node(output: Output, group: Group) -> Node:
    when = output.moment(group.first)
    if group.last != group.first:
        when = f"{when} to {output.moment(group.last)}"
    details = [
        ("at", group.place),
        ("of", listed(group.names, NAMES_SHOWN)),
        ("when", when),
        ("for", None if not group.customers else f"{group.customers:,} {plural(group.customers, 'customer')}"),
        ("unsent", None if not group.unsent else f"{group.unsent:,} never sent, because a task before them failed"),
        ("example", group.example),
    ]
    return Node(
        (group.tasks, group.error_type, group.message or None),
        [Node((f"{name:7}", value)) for name, value in details if value is not None],
    )
