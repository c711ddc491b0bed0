"""What all commands share: the group that turns errors into one line and an exit code, common options, the store.

Exit codes: 0 done; 1 a problem was found, or it could not be done; 2 wrong usage, settings or search; 3 the database
cannot be reached, or has not the tables; 130 interrupted.
"""

from __future__ import annotations

import functools
import io
import os
import re
import sys
from collections.abc import Callable
from typing import Any, Final

import click

from celery_asynctask.cli.output import Output, clean
from celery_asynctask.errors import AsyncTaskError, FilterError, SettingsError, StoreError
from celery_asynctask.queries import Filter, Reader, parse
from celery_asynctask.queries.key import KEYS
from celery_asynctask.settings import Settings

PROBLEM: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
INTERRUPTED: Final = 130
URL: Final = "celery_asynctask.url"
"""Where click's contexts keep what ``--url`` says."""


class Commands(click.Group):
    """The group of our commands."""

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal may not have the signs
        try:
            return self._flushed(ctx)
        except (FilterError, SettingsError) as exc:
            _fail(ctx, exc, USAGE)
        except StoreError as exc:
            _fail(ctx, exc, UNREACHABLE)
        except AsyncTaskError as exc:
            _fail(ctx, exc, PROBLEM)
        except BrokenPipeError:  # whoever read has enough
            _drop_output()
            ctx.exit(0)
        except KeyboardInterrupt:
            _drop_output()
            ctx.exit(INTERRUPTED)
        except OSError as exc:
            _drop_output()
            _fail(ctx, exc, PROBLEM)

    def _flushed(self, ctx: click.Context) -> Any:
        """What is printed is written before the end, so that an error in that is seen here, and not by Python."""
        try:
            found = super().invoke(ctx)
        except (click.exceptions.Exit, AsyncTaskError):
            sys.stdout.flush()
            raise
        sys.stdout.flush()
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command, apart(rest)


_NEGATED: Final = re.compile(rf"-(?:{'|'.join(KEYS)})[.:]", re.IGNORECASE)


def apart(args: list[str]) -> list[str]:
    """Arguments of a command, with the terms that must not hold (``-status:SUCCESS``) where they are not taken for
    options: behind ``--``."""
    end = args.index("--") if "--" in args else len(args)
    terms = [one for one in args[:end] if _NEGATED.match(one)]
    if not terms:
        return args
    return [*(one for one in args[:end] if not _NEGATED.match(one)), "--", *terms, *args[end + 1 :]]


def _drop_output() -> None:
    """Nothing more is written: what Python flushes at its end shall neither wait nor complain once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(ctx: click.Context, exc: Exception, code: int) -> None:
    click.echo(f"Error: {clean(str(exc))}", err=True)
    ctx.exit(code)


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

    def search(self, words: tuple[str, ...]) -> Filter:
        """The filter that the words on the command line make."""
        return parse(" ".join(words), self.output.now)


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
