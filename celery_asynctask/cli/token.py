"""``celery asynctask token``: a bearer token for the HTTP API."""

from __future__ import annotations

import secrets
from typing import Final

import click

from celery_asynctask.cli.command import customers_option
from celery_asynctask.cli.group import examples
from celery_asynctask.core.ids import shown
from celery_asynctask.core.rights import Right, hashed

_BYTES: Final = 32
RIGHTS: Final = [right.value for right in Right]


@click.command(
    short_help="Create a token for the HTTP API.",
    epilog=examples("token support --customer 42 --right payloads", "token ops --all-customers --right rerun"),
)
@click.argument("name")
@customers_option(False, "Customer whose tasks it can read; may be repeated.")
@click.option("--all-customers", is_flag=True, help="Let it read all tasks, with or without a customer.")
@click.option(
    "--right",
    "rights",
    type=click.Choice(RIGHTS[1:]),
    multiple=True,
    help="What it may do besides reading; may be repeated.",
)
def token(name: str, customers: tuple[str, ...], all_customers: bool, rights: tuple[str, ...]) -> None:
    """Create a bearer token called NAME for the HTTP API. Reruns are recorded under this name.

    Prints the token to standard output, once: the configuration has only its hash. The line for the configuration goes
    to standard error.
    """
    if all_customers == bool(customers):
        raise click.UsageError("Give either --customer or --all-customers: the tasks that it can read.")
    made = f"asynctask_{secrets.token_urlsafe(_BYTES)}"
    grant = {
        "sha256": hashed(made),
        "customers": "*" if all_customers else [shown(customer) for customer in dict.fromkeys(customers)],
        "rights": [Right.READ.value, *dict.fromkeys(rights)],
    }
    click.echo("Add this to asynctask_tokens in the Celery configuration:", err=True)
    click.echo(f"    {name!r}: {grant!r},", err=True)
    click.echo("The token, which cannot be shown again:", err=True)
    click.echo(made)
