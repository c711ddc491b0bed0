"""What all commands share: how they are made, the settings, the store, and whom they ask."""

from __future__ import annotations

import datetime as dt
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from celery_asynctask.cli.group import URL, examples
from celery_asynctask.cli.output import Output
from celery_asynctask.core.columns import FOLD_KEYS
from celery_asynctask.operations.session import Writer
from celery_asynctask.queries import Filter, Reader, parse
from celery_asynctask.settings import Settings
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt

JSON: Final = click.Option(["--json", "as_json"], is_flag=True, help="One JSON value a line.")
UTC: Final = click.Option(["--utc"], is_flag=True, help="Times in UTC; else in the local zone.")


class CommandContext:
    """What a command looks at, and where it writes to. Raises `SettingsError`, `StoreError` when first used."""

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
        found = Settings.from_app(self.app)
        url = self.click.meta.get(URL)
        return found.at(url) if url else found

    @functools.cached_property
    def reader(self) -> Reader:
        """The store, checked; closed when the command ends."""
        reader = Reader(self.settings.url, self.settings.engine_options)
        self.click.call_on_close(reader.close)
        reader.check_schema()
        return reader

    def writer(self, settings: Settings) -> Writer:
        """A store to be changed; closed when the command ends."""
        writer = Writer(settings)
        self.click.call_on_close(writer.close)
        return writer

    @property
    def now(self) -> dt.datetime:
        """In the zone that times are shown in, from which a search takes it. The app's settings may set it, as Django's
        do."""
        _ = self.settings
        return self.output.now.astimezone(self.output.zone)

    def search(self, words: tuple[str, ...]) -> Filter:
        """The filter that the words on the command line make."""
        return parse(" ".join(words), self.now)


def command(
    *lines: str, name: str | None = None, about: str = "", options: Sequence[click.Option] = (JSON, UTC)
) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command of a function, whose first argument is a `CommandContext`. Its help ends with ``lines`` as
    examples, and ``about``; ``options`` come after its own."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        @click.pass_context
        def invoked(context: click.Context, /, *, as_json: bool = False, utc: bool = False, **given: Any) -> Any:
            output = Output(as_json=as_json, utc=utc, color=not getattr(context.obj, "no_color", False))
            return function(CommandContext(context, output), **given)

        made = click.command(name, epilog=examples(*lines) + about)(invoked)
        made.params += options
        return made

    return decorate


def record(row: AsyncTask | AsyncTaskAttempt, *left_out: str) -> dict[str, Any]:
    """A row as ``--json`` prints it: its columns by their names, without the keys of the fold."""
    hidden = FOLD_KEYS.union(left_out)
    names = [column.name for column in row.__table__.columns if column.name not in hidden]
    return {name: getattr(row, name) for name in names}


def ask(question: str, yes: bool) -> None:
    """Ask a person whether to go on, unless ``yes``; ends the command where the answer is no, and with a usage error
    where there is nobody to ask."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("There is no terminal to ask on. Look with --dry-run, then say --yes.")
    click.confirm(question, abort=True, err=True)
