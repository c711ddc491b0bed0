"""``celery asynctask code``: another code to sign in to a running `serve`."""

from __future__ import annotations

import time

import click

from celery_asynctask.cli.group import examples
from celery_asynctask.cli.running import running
from celery_asynctask.core.codes import new_code
from celery_asynctask.errors import AsyncTaskError


@click.command(short_help="Print a code to sign in to `serve`.", epilog=examples("code", "code --port 8080"))
@click.option("-p", "--port", type=click.IntRange(1, 65535), help="Port of the server, where several run.")
def code(port: int | None) -> None:
    """Print an address that signs you in to the console that your `serve` shows on this host.

    Its code is valid once and for ten minutes. Only a server without asynctask_tokens and asynctask_access takes codes,
    and only those of the user who started it.
    """
    found = [server for server in running() if port in (None, server.port)]
    if not found:
        where = "" if port is None else f" on port {port}"
        raise AsyncTaskError(
            f"No server of this user takes codes{where}. Start one: `celery -A APP asynctask serve`; or where "
            "asynctask_tokens is set, sign in with a token."
        )
    if len(found) > 1:
        ports = ", ".join(str(server.port) for server in found)
        raise AsyncTaskError(f"Several servers run, on the ports {ports}. Choose one with --port.")
    [server] = found
    click.echo(sign_in_url(server.url, new_code(server.secret, time.time())))


def sign_in_url(url: str, code: str) -> str:
    """The address of the form, filled with a code. What is after the # is never sent: no log and no previewer of links
    has it."""
    return f"{url}/console/sign-in#code={code}"
