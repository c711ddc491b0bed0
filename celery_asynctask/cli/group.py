"""The group of all commands: which there are, and how what they raise becomes one line and an exit code.

Exit codes: 0 done; 1 a problem was found, or it could not be done; 2 wrong usage, settings or search; 3 the database
cannot be reached, or has not the tables; 130 interrupted.
"""

from __future__ import annotations

import io
import os
import re
import sys
from importlib import import_module
from typing import Any, Final

import click

from celery_asynctask.errors import AsyncTaskError, FilterError, SettingsError, StoreError

PROBLEM: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
INTERRUPTED: Final = 130
URL: Final = "celery_asynctask.url"
"""Where click's contexts keep what ``--url`` says."""
_NAMES: Final = (
    *("doctor", "erase", "errors", "export", "import", "list", "openapi", "purge", "recorder", "rerun", "schema"),
    *("serve", "show", "stats", "token", "top", "tree", "upgrade", "verify", "why"),
)
_ELSEWHERE: Final = {"import": "import_", "openapi": "serve", "schema": "upgrade"}
"""Modules of the commands that have none of their name."""


class Commands(click.Group):
    """The group of our commands, each of which is imported when it is asked for: Celery loads the group in every one of
    its own commands, workers and beat among them, and the commands load SQLAlchemy."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """By name."""
        return sorted(_NAMES)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """None where there is no such command."""
        if cmd_name not in _NAMES:
            return None
        there = vars(import_module(f"celery_asynctask.cli.{_ELSEWHERE.get(cmd_name, cmd_name)}")).values()
        return next(one for one in there if isinstance(one, click.Command) and one.name == cmd_name)

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


def examples(*lines: str) -> str:
    """The end of a command's help: how it is called, each line without its beginning, which all have in common."""
    return "\b\nExamples:\n" + "".join(f"  celery -A proj asynctask {line}\n" for line in lines)


def apart(args: list[str]) -> list[str]:
    """Arguments of a command, with the terms that must not hold (``-status:SUCCESS``) where they are not taken for
    options: behind ``--``."""
    from celery_asynctask.queries.search.keys import ALIASES, KEYS

    negated = re.compile(rf"-(?:{'|'.join((*KEYS, *ALIASES))})[.:]", re.IGNORECASE).match
    end = args.index("--") if "--" in args else len(args)
    terms = [one for one in args[:end] if negated(one)]
    if not terms:
        return args
    return [*(one for one in args[:end] if not negated(one)), "--", *terms, *args[end + 1 :]]


def _drop_output() -> None:
    """Nothing more is written: what Python flushes at its end shall neither wait nor complain once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(ctx: click.Context, exc: Exception, code: int) -> None:
    from celery_asynctask.cli.output import clean

    click.echo(f"Error: {clean(str(exc))}", err=True)
    ctx.exit(code)
