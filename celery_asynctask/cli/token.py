"""``celery asynctask token``: a bearer token for the HTTP API."""

from __future__ import annotations

import secrets
from typing import Final

import click

from celery_asynctask.cli.group import examples
from celery_asynctask.core.rights import Right, hashed

_BYTES: Final = 32
RIGHTS: Final = [right.value for right in Right]


@click.command(
    epilog=examples(
        "token support --customer 42 --right payloads", "token ops --all-customers --right payloads --right rerun"
    )
)
@click.argument("name")
@click.option(
    "--customer", "customers", type=int, multiple=True, help="A customer whose tasks it sees; may be repeated."
)
@click.option("--all-customers", is_flag=True, help="It sees all tasks, also those of no customer.")
@click.option(
    "--right",
    "rights",
    type=click.Choice(RIGHTS[1:]),
    multiple=True,
    help="What it may do beyond reading; may be repeated.",
)
def token(name: str, customers: tuple[int, ...], all_customers: bool, rights: tuple[str, ...]) -> None:
    """Make a bearer token for the HTTP API, called NAME, which is recorded with what it does.

    Prints the token on standard output, once: only its hash is configured. What to add to the configuration goes to
    standard error.
    """
    if all_customers == bool(customers):
        raise click.UsageError("Give either --customer, whose tasks it sees, or --all-customers.")
    made = f"asynctask_{secrets.token_urlsafe(_BYTES)}"
    grant = {
        "sha256": hashed(made),
        "customers": "*" if all_customers else list(dict.fromkeys(customers)),
        "rights": [Right.READ.value, *dict.fromkeys(rights)],
    }
    click.echo("Add this to asynctask_tokens in the Celery configuration:", err=True)
    click.echo(f"    {name!r}: {grant!r},", err=True)
    click.echo("The token, which cannot be shown again:", err=True)
    click.echo(made)
