"""What all commands share: how they are made, the settings, the store, the question before a change."""

from __future__ import annotations

import datetime as dt
import functools
import os
import pwd
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import click

from celery_asynctask.cli.group import URL, USAGE, examples
from celery_asynctask.cli.output import Output
from celery_asynctask.core.columns import FOLD_KEYS
from celery_asynctask.core.ids import key_of
from celery_asynctask.core.text import clean
from celery_asynctask.operations.audit import Action, Audit, Entry, Operation
from celery_asynctask.operations.session import Writer
from celery_asynctask.queries import Filter, Reader, parse
from celery_asynctask.settings import Settings
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt

JSON: Final = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON, one value per line.")
UTC: Final = click.Option(["--utc"], is_flag=True, help="Show times in UTC, not in the local zone.")


def say_defaults(context: click.Context) -> None:
    """Say on standard error that the settings are the default ones where ``celery`` got neither an app, nor a
    configuration module, nor ``--url``. Celery then makes an app of its own, and an empty record looks like a lost
    one."""
    app = context.obj.app
    is_given = bool(context.find_root().params.get("app")) or app.main != "default" or app.loader.configured
    if not is_given and not context.meta.get(URL):
        click.echo("No app was given (celery -A APP): these are the default settings.", err=True)


def _key(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """The key of an id; empty: none. Raises `click.BadParameter`."""
    return value if not value else keys(_context, _option, (value,))[0]


def keys(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(map(key_of, values))
    except ValueError as exc:
        raise click.BadParameter(f"it must be {exc}.") from None


whose: Final = click.option(
    "--customer",
    metavar="ID",
    callback=_key,
    help="Customer of the task, where several use its id; '' for none. Default: the newest.",
)
"""The option of commands that take the id of a task."""


def customers_option(required: bool, about: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option ``--customer`` of commands for some customers, given to them as keys."""
    return click.option(
        "--customer", "customers", metavar="ID", callback=keys, multiple=True, required=required, help=about
    )


class UnconfirmedError(click.ClickException):
    """A command would change something and cannot ask first; its usage is right, and is not explained."""

    exit_code = USAGE


class CommandContext:
    """What a command reads, and where it prints. Raises `SettingsError` and `StoreError` when first used."""

    def __init__(self, context: click.Context, output: Output) -> None:
        self.click = context
        self.output = output

    @property
    def app(self) -> Any:
        """The Celery app that ``celery -A`` names."""
        return self.click.obj.app

    @functools.cached_property
    def settings(self) -> Settings:
        """The app's settings, with the database that ``--url`` names in place of its own."""
        settings = Settings.from_app(self.app)
        if not self.output.as_json:
            say_defaults(self.click)
        url = self.click.meta.get(URL)
        return settings.at(url) if url else settings

    @functools.cached_property
    def reader(self) -> Reader:
        """The store, checked; closed when the command ends."""
        reader = Reader(self.settings.url, self.settings.engine_options)
        self.click.call_on_close(reader.close)
        reader.check_schema()
        return reader

    def writer(self, settings: Settings) -> Writer:
        """The store for changes; closed when the command ends."""
        writer = Writer(settings)
        self.click.call_on_close(writer.close)
        return writer

    @functools.cached_property
    def audit(self) -> Audit:
        """The audit; closed when the command ends."""
        audit = Audit(self.settings, self.app, self.output.hint)
        self.click.call_on_close(audit.close)
        return audit

    def operation(self, action: Action, target: str, detail: str | None = None) -> AbstractContextManager[Operation]:
        """`Audit.operation` of the person at the terminal."""
        return self.audit.operation(Entry(action, user(), origin(), target, detail=detail))

    @property
    def now(self) -> dt.datetime:
        """The present in the zone of the output, in which a search reads times without a zone. The app's settings are
        read first: as Django's, they may set the zone."""
        _ = self.settings
        return self.output.now.astimezone(self.output.zone)

    def search(self, words: tuple[str, ...]) -> Filter:
        """The search that the words on the command line make. Raises `FilterError`."""
        return parse(" ".join(words), self.now)


def command(
    *lines: str,
    short: str | None = None,
    name: str | None = None,
    about: str = "",
    options: Sequence[click.Option] = (JSON, UTC),
) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command of a function, whose first argument is a `CommandContext`. The list of commands shows ``short``;
    its own help ends with ``lines`` as examples, and ``about``. ``options`` come after its own."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        @click.pass_context
        def invoked(context: click.Context, /, *, as_json: bool = False, utc: bool = False, **options: Any) -> Any:
            output = Output(as_json=as_json, utc=utc, color=not getattr(context.obj, "no_color", False))
            return function(CommandContext(context, output), **options)

        made = click.command(name, short_help=short, epilog=examples(*lines) + about)(invoked)
        made.params += options
        return made

    return decorate


def record(row: AsyncTask | AsyncTaskAttempt, *left_out: str) -> dict[str, Any]:
    """A row as ``--json`` prints it: values by column, without the keys of the fold and what is ``left_out``."""
    hidden = FOLD_KEYS.union(left_out)
    names = [column.name for column in row.__table__.columns if column.name not in hidden]
    return {name: getattr(row, name) for name in names}


def user() -> str:
    """The name of the person at the terminal, also behind sudo."""
    if name := os.environ.get("SUDO_USER"):
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name  # not LOGNAME, which anybody can set
    except KeyError:  # a user id without a name, as in containers
        return f"uid {os.getuid()}"


def origin() -> str:
    """Where commands come from, in the audit."""
    return f"command line of {socket.gethostname()}"


def ask(question: str, yes: bool, check: str = "with --dry-run") -> None:
    """Ask a person to confirm, unless ``yes``. Ends the command where the answer is no; raises `UnconfirmedError`
    where there is no terminal, which says how to ``check`` what would be done."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UnconfirmedError(f"Not done: no terminal to confirm on. Check {check}, then use --yes.")
    click.confirm(clean(question), abort=True, err=True)
