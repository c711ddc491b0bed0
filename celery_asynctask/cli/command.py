"""What all commands share: common options, the settings, the store."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable
from typing import Any

import click

from celery_asynctask.cli.group import URL
from celery_asynctask.cli.output import Output
from celery_asynctask.queries import Filter, Reader, parse
from celery_asynctask.settings import Settings


class Look:
    """What a command looks at, and where it writes to. Raises `SettingsError`, `StoreError` when first used."""

    def __init__(self, context: click.Context, output: Output) -> None:
        self.context = context
        self.output = output

    @property
    def app(self) -> Any:
        """The Celery app that ``celery -A`` names."""
        return self.context.obj.app

    @functools.cached_property
    def settings(self) -> Settings:
        """The app's settings, with the database that ``--url`` names in place of its own."""
        found = Settings.from_app(self.app)
        url = self.context.meta.get(URL)
        return found.at(url) if url else found

    @functools.cached_property
    def reader(self) -> Reader:
        """The store, checked; closed when the command ends."""
        reader = Reader(self.settings.url, self.settings.engine_options)
        self.context.call_on_close(reader.close)
        reader.check_schema()
        return reader

    @property
    def now(self) -> dt.datetime:
        """In the zone that times are shown in, from which a search takes it. The app's settings may set it, as Django's
        do."""
        _ = self.settings
        return self.output.now.astimezone(self.output.zone)

    def search(self, words: tuple[str, ...]) -> Filter:
        """The filter that the words on the command line make."""
        return parse(" ".join(words), self.now)


def options(*, as_json: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options ``--json`` and ``--utc``, and a `Look` as its first argument."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        @click.pass_context
        def command(context: click.Context, /, *args: Any, utc: bool = False, **kwargs: Any) -> Any:
            output = Output(
                as_json=kwargs.pop("as_json", False), utc=utc, color=not getattr(context.obj, "no_color", False)
            )
            return function(Look(context, output), *args, **kwargs)

        decorated = click.option("--utc", is_flag=True, help="Times in UTC; else in the local zone.")(command)
        if as_json:
            decorated = click.option("--json", "as_json", is_flag=True, help="One JSON value a line.")(decorated)
        return decorated

    return decorate
