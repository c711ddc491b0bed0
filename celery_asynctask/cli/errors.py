"""``celery asynctask errors``: what fails, cause by cause."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from celery_asynctask.cli.command import CommandContext, command
from celery_asynctask.cli.output import Node, Output
from celery_asynctask.core.accounting import listed, plural
from celery_asynctask.queries.failures.groups import MAX_SCANNED, Group, failures

NAMES_SHOWN: Final = 5
"""Names of tasks that are shown of a group."""
_UNTOLD: Final = frozenset({"first_asked", "last_asked", "counts"})
"""Of a group; what the console has of it."""
_ORDERS: Final[dict[str, Callable[[Group], Any]]] = {
    "count": lambda group: group.tasks,
    "last": lambda group: group.last,
    "first": lambda group: group.first,
}


@command("errors", "errors since:1d --sort first", "errors 'name:billing.*' customer:42 --json")
@click.argument("search", nargs=-1)
@click.option(
    "--sort",
    type=click.Choice(list(_ORDERS)),
    default="count",
    show_default=True,
    help="The most frequent first, those seen last, or those that are newest.",
)
@click.option("-n", "--limit", type=click.IntRange(1), default=20, show_default=True, help="Causes shown.")
def errors(context: CommandContext, search: tuple[str, ...], sort: str, limit: int) -> None:
    """What failed of the tasks that SEARCH finds, cause by cause: how often, where, when, and for how many customers.

    A cause is an exception's class, its message without what varies in it (numbers, ids, quoted texts, addresses), and
    the place in your own code where it came from. Tasks that were never sent because one before them failed count to
    its cause. Failed are FAILURE, LOST and REJECTED; SEARCH, as for list, may name other statuses.
    """
    output = context.output
    with context.reader.session() as session:
        found = failures(context.reader, session, context.search(search))
    groups = sorted(found.groups, key=_ORDERS[sort], reverse=True)
    for group in groups[:limit]:
        if output.as_json:
            told = {name: value for name, value in group._asdict().items() if name not in _UNTOLD}
            output.json({**told, "looked_back_to": found.looked_back_to})
        else:
            output.tree(_node(output, group))
    if not groups:
        output.hint("No failure is like that.")
    if len(groups) > limit:
        left = sum(group.tasks for group in groups[limit:])
        output.hint(f"There are {len(groups) - limit:,} more causes, of {left:,} failures: --limit {len(groups)}")
    output.bounded(MAX_SCANNED, "failures", found.looked_back_to)


def _node(output: Output, group: Group) -> Node:
    when = output.moment(group.first)
    if group.last != group.first:
        when = f"{when} to {output.moment(group.last)}"
    about = [
        ("at", group.place),
        ("of", listed(group.names, NAMES_SHOWN)),
        ("when", when),
        ("for", None if not group.customers else f"{group.customers:,} {plural(group.customers, 'customer')}"),
        ("unsent", None if not group.unsent else f"{group.unsent:,} of them never sent, for a task before them failed"),
        ("example", group.example),
    ]
    return Node(
        (group.tasks, group.error_type, group.message or None),
        [Node((f"{name:7}", value)) for name, value in about if value is not None],
    )
