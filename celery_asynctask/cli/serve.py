"""``celery asynctask serve``: the console and the HTTP API as a server; ``openapi``: the API's document."""

from __future__ import annotations

import gc
import ipaddress
import json
import socket
from typing import Any

import click

from celery_asynctask.cli.command import CommandContext, command
from celery_asynctask.errors import AsyncTaskError, SettingsError

PORT = 5556


@command("serve", "serve --host 0.0.0.0 --port 8080", short="Serve the console and the HTTP API.", options=[])
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "-p",
    "--port",
    type=click.IntRange(0, 65535),
    default=PORT,
    show_default=True,
    help="Port to listen on; 0: any free port.",
)
@click.option("--access-log", is_flag=True, help="Log every request, with its search.")
@click.option("--from-elsewhere", is_flag=True, help="Allow reruns from another record than the app's (--url).")
def serve(context: CommandContext, host: str, port: int, access_log: bool, from_elsewhere: bool) -> None:
    """Serve the record over HTTP until SIGTERM or Ctrl-C: the console for people, the API for programs.

    Everybody on this host can read it, values included, unless asynctask_tokens or asynctask_access is set. An address
    that other hosts can reach requires one of the two.
    """
    loopback = all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in _addresses(host, 0))
    api = _created(context, loopback=loopback, from_elsewhere=from_elsewhere)
    _ = context.writer(context.settings).engine  # what can never be used is refused here, not with every answer
    if not loopback and not api.state.asynctask.authenticator.has_credentials:
        raise SettingsError(
            f"Other hosts can reach {host or 'all addresses'}: set asynctask_tokens (`celery -A APP asynctask token` "
            "creates one) or asynctask_access, or listen on 127.0.0.1."
        )
    try:
        from celery_asynctask.http.server import Server
    except ImportError as exc:
        raise _without_extra(exc) from exc

    _settle()
    with _listening(host, port) as listening:
        click.echo(f"Console and API: {_url(listening)}  (Ctrl-C stops)", err=True)
        if not api.state.asynctask.authenticator.has_credentials:
            click.echo("Everybody on this host can read it: no asynctask_tokens.", err=True)
        Server(api, access_log=access_log).run(sockets=[listening])
    api.state.asynctask.close()


@command("openapi > openapi.json", short="Print the OpenAPI document of the API.", options=[])
def openapi(context: CommandContext) -> None:
    """Print the OpenAPI document of the HTTP API, for client generators.

    Starts no server and does not connect to the database.
    """
    click.echo(json.dumps(_created(context, loopback=False).openapi(), indent=2, ensure_ascii=False))


def _settle() -> None:
    """Keep the garbage collector from objects that live as long as the process: now and then it scanned all of them
    and held up an answer for 80 ms."""
    gc.collect()
    gc.freeze()


def _listening(host: str, port: int) -> socket.socket:
    """Raises `AsyncTaskError`."""
    family, kind, _, _, address = _addresses(host, port)[0]
    # asyncio turns off delayed sending only for sockets that say TCP; else the end of each answer waits 40 ms.
    listening = socket.socket(family, kind, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()  # clients that connect from here on wait, and are not refused
    except OSError as exc:
        listening.close()
        raise AsyncTaskError(
            f"Cannot listen on {host}, port {port}: {exc.strerror or exc}. Choose others with --host and --port."
        ) from exc
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _created(context: CommandContext, *, loopback: bool, from_elsewhere: bool = False) -> Any:
    """The ASGI application for the app that ``celery -A`` names. Raises `AsyncTaskError`, also where the extra is not
    installed."""
    try:
        from celery_asynctask.http import create_app
    except ImportError as exc:
        raise _without_extra(exc) from exc
    return create_app(context.app, settings=context.settings, loopback=loopback, from_elsewhere=from_elsewhere)


def _without_extra(exc: ImportError) -> AsyncTaskError:
    return AsyncTaskError(
        f"The console and the HTTP API need {exc.name}. Install the extra: pip install 'celery-asynctask[http]'."
    )


def _addresses(host: str, port: int) -> Any:
    """The addresses of a host's name. Raises `AsyncTaskError` where it has none."""
    try:
        return socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:
        raise AsyncTaskError(
            f"{host!r} has no address: {exc}. Give a name or an address of this host to --host."
        ) from exc
