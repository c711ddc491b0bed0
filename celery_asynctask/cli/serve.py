"""``celery asynctask serve``: the console and the HTTP API as a server; ``openapi``: the API's document."""

from __future__ import annotations

import gc
import ipaddress
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from celery_asynctask.cli.code import sign_in_url
from celery_asynctask.cli.command import CommandContext, command
from celery_asynctask.cli.running import announced
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
@click.option("--open", "is_open", is_flag=True, help="Let every user of this host read, without signing in.")
@click.option("--access-log", is_flag=True, help="Log every request, with its search.")
@click.option("--from-elsewhere", is_flag=True, help="Allow reruns from another record than the app's (--url).")
def serve(context: CommandContext, host: str, port: int, is_open: bool, access_log: bool, from_elsewhere: bool) -> None:
    """Serve the record over HTTP until SIGTERM or Ctrl-C: the console for people, the API for programs.

    Without asynctask_tokens and asynctask_access, only the user who starts it can read, and sign in with the code that
    it prints; `code` prints another. An address that other hosts can reach requires one of the two.
    """
    loopback = all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in _addresses(host, 0))
    api = _created(
        context, loopback=loopback and is_open, local=loopback and not is_open, from_elsewhere=from_elsewhere
    )
    authenticator = api.state.asynctask.authenticator
    if is_open and (authenticator.has_credentials or not loopback):
        raise click.UsageError(
            "--open is for a server on 127.0.0.1 without asynctask_tokens and asynctask_access. Leave it out."
        )
    authenticator.tokens.check()
    _ = context.writer(context.settings).engine  # what can never be used is refused here, not with every answer
    if not loopback and not authenticator.has_credentials:
        raise SettingsError(
            f"Other hosts can reach {host or 'all addresses'}: set asynctask_tokens (`celery -A APP asynctask token` "
            "creates one) or asynctask_access, or listen on 127.0.0.1."
        )
    try:
        from celery_asynctask.http.server import Server
    except ImportError as exc:
        raise _without_extra(exc) from exc

    _settle()
    try:
        with _listening(host, port) as listening, _introduced(authenticator, listening), _ending_by_sigterm():
            Server(api, access_log=access_log).run(sockets=[listening])
    finally:
        api.state.asynctask.close()


@command("openapi > openapi.json", short="Print the OpenAPI document of the API.", options=[])
def openapi(context: CommandContext) -> None:
    """Print the OpenAPI document of the HTTP API, for client generators.

    Starts no server and does not connect to the database.
    """
    click.echo(json.dumps(_created(context).openapi(), indent=2, ensure_ascii=False))


@contextmanager
def _introduced(authenticator: Any, listening: socket.socket) -> Iterator[None]:
    """Say how to reach the server and who is let in; while the block runs, `code` finds it."""
    url = _url(listening)
    click.echo(f"Console and API: {url}  (Ctrl-C stops)", err=True)
    local = authenticator.local
    if local is None:
        if authenticator.is_open:
            click.echo("Every user of this host can read it: --open.", err=True)
        yield
        return
    with announced(url, listening.getsockname()[1], local.secret) as is_found:
        again = "; `celery -A APP asynctask code` prints another" if is_found else ""
        click.echo(f"Sign in: {sign_in_url(url, local.new_code())}", err=True)
        click.echo(f"  (once, within ten minutes{again})", err=True)
        click.echo(f"Token for programs, while this server runs: {local.bearer}", err=True)
        yield


@contextmanager
def _ending_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does: uvicorn raises it once more when it has stopped, and Python's default
    would then end the process before anything is put in order."""

    def end(*_: object) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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


def _created(
    context: CommandContext, *, loopback: bool = False, local: bool = False, from_elsewhere: bool = False
) -> Any:
    """The ASGI application for the app that ``celery -A`` names. Raises `AsyncTaskError`, also where the extra is not
    installed."""
    try:
        from celery_asynctask.http import create_app
    except ImportError as exc:
        raise _without_extra(exc) from exc
    return create_app(
        context.app, settings=context.settings, loopback=loopback, local=local, from_elsewhere=from_elsewhere
    )


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
