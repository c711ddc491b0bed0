"""``celery asynctask token``: a bearer token for the HTTP API and the console; ``tokens``: those that there are."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click

from celery_asynctask.cli.command import CommandContext, command, customers_option, keys
from celery_asynctask.cli.group import examples
from celery_asynctask.core.ids import shown
from celery_asynctask.core.rights import Right
from celery_asynctask.core.text import rfc3339
from celery_asynctask.core.tokens import MAX_NAME, Token, hashed, is_token, new_token
from celery_asynctask.errors import StoreError
from celery_asynctask.operations.tokens import TokenFile, reader_of
from celery_asynctask.queries.credentials import last_uses
from celery_asynctask.queries.search.keys import duration

RIGHTS: Final = [right.value for right in Right]
_COLUMNS: Final = ("name", "state", "customers", "created by", "rights", "created", "expires", "last used")


def _name(_context: click.Context, _argument: click.Parameter, value: str) -> str:
    if not 0 < len(value) <= MAX_NAME or not value.isprintable() or is_token(value):
        raise click.BadParameter(
            f"it must have 1 to {MAX_NAME} characters, none of them a line break, and be no token."
        )
    return value


def _age(_context: click.Context, _option: click.Parameter, value: str | None) -> dt.timedelta | None:
    try:
        return None if value is None else duration(value)
    except (ValueError, OverflowError):
        raise click.BadParameter("it must be a duration such as 90d or 1y.") from None


@click.command(
    short_help="Create a token for the HTTP API.",
    epilog=examples(
        "token support --customer 42 --expires 90d",
        "token ops --all-customers --right rerun",
        "token ops --all-customers --into tokens.json",
    ),
)
@click.argument("name", callback=_name)
@customers_option(False, "Customer whose tasks it can read; may be repeated.")
@click.option("--all-customers", is_flag=True, help="Let it read all tasks, with or without a customer.")
@click.option(
    "--created-by",
    "creators",
    metavar="ID",
    callback=keys,
    multiple=True,
    help="Let it read only the tasks of this creator; may be repeated.",
)
@click.option(
    "--right",
    "rights",
    type=click.Choice(RIGHTS[1:]),
    multiple=True,
    help="What it may do besides reading; may be repeated.",
)
@click.option("--expires", metavar="AGE", callback=_age, help="Refuse it after that time, such as 90d. Default: never.")
@click.option(
    "--into",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Add it to this JSON file, which asynctask_tokens names.",
)
def token(
    name: str,
    customers: tuple[str, ...],
    all_customers: bool,
    creators: tuple[str, ...],
    rights: tuple[str, ...],
    expires: dt.timedelta | None,
    into: Path | None,
) -> None:
    """Create a bearer token called NAME for the HTTP API and the console. Reruns are recorded under this name.

    Prints the token to standard output, once: the configuration has only its hash. The line for the configuration goes
    to standard error. Keep it as secret as a password: it is enough to sign sessions of the console.
    """
    if all_customers == bool(customers):
        raise click.UsageError("Give either --customer or --all-customers: the tasks that it can read.")
    made = new_token()
    now = dt.datetime.now(dt.timezone.utc).replace(microsecond=0)
    grant: dict[str, Any] = {
        "sha256": hashed(made),
        "customers": "*" if all_customers else _shown(customers),
        "rights": [Right.READ.value, *dict.fromkeys(rights)],
        "created": _written(now),
    }
    if creators:
        grant["created_by"] = _shown(creators)
    if expires is not None:
        try:
            grant["expires"] = _written(now + expires)
        except OverflowError:
            raise click.UsageError("--expires is too far in the future. Give a shorter time, such as 90d.") from None
    if into is None:
        click.echo("Add this to asynctask_tokens in the Celery configuration:", err=True)
        click.echo(f"    {name!r}: {grant!r},", err=True)
    else:
        TokenFile(into.absolute()).add(name, grant)
        click.echo(f"Added to {into}. A server that reads this file knows the token within five seconds.", err=True)
    if expires is None:
        click.echo("It never expires; --expires 90d would limit it.", err=True)
    click.echo("The token, which cannot be shown again:", err=True)
    click.echo(made)


@command("tokens", "tokens --json", short="List the tokens and their last use.")
def tokens(context: CommandContext) -> None:
    """List the tokens of asynctask_tokens: whose tasks each may read, its rights, when it expires and was used last.

    The last use is stored once a minute by the servers of this record; none is shown where the record cannot be read.
    """
    output = context.output
    found = reader_of(context.settings.tokens)()
    uses: dict[str, dt.datetime] = {}
    if found:
        try:
            uses = last_uses(context.reader)
        except StoreError as exc:
            output.hint(f"The last use is not known. {exc}")
    for one in found.values() if output.as_json else ():
        output.json(_values(one, uses.get(one.key), output.now))
    if not output.as_json and found:
        rows = [_values(one, uses.get(one.key), output.now) for one in found.values()]
        output.table(_COLUMNS, [list(map(_cell, row.values())) for row in rows], spare=("created", "created by"))
    if not found:
        output.hint("No tokens: `celery -A APP asynctask token NAME` creates one.")


def _values(one: Token, used: dt.datetime | None, now: dt.datetime) -> dict[str, Any]:
    return {
        "name": one.name,
        "state": "expired" if one.is_expired(now) else "valid",
        "customers": "*" if one.customers is None else _shown(sorted(one.customers)),
        "created_by": "*" if one.created_by is None else _shown(sorted(one.created_by)),
        "rights": [right.value for right in Right if right in one.rights],
        "created": one.created,
        "expires": one.expires,
        "last_used": used,
    }


def _cell(value: Any) -> Any:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else value


def _shown(keys_: Iterable[str]) -> list[int | str]:
    return [shown(key) for key in dict.fromkeys(keys_)]


def _written(at: dt.datetime) -> str:
    return rfc3339(at).replace(".000000", "")
