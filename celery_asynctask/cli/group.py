"""The group of all commands: which there are, and how an error becomes one line and an exit code.

Exit codes: 0 done; 1 a problem was found, or the command failed; 2 wrong usage, settings or search; 3 the database
cannot be reached or has no tables; 130 interrupted.
"""

from __future__ import annotations

import io
import os
import re
import sys
from importlib import import_module
from typing import Any, Final

import click

from celery_asynctask.core.text import clean
from celery_asynctask.errors import AsyncTaskError, FilterError, SettingsError, StoreError

PROBLEM: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
INTERRUPTED: Final = 130
URL: Final = "celery_asynctask.url"
"""Key of ``--url`` in the metadata of click's contexts."""
_NAMES: Final = (
    *("audit", "code", "doctor", "erase", "errors", "export", "import", "list", "openapi", "purge", "quarantine"),
    *("recorder", "rerun", "schema", "serve", "show", "stats", "token", "tokens", "top", "tree", "uninstall"),
    *("upgrade", "verify", "why"),
)
_ELSEWHERE: Final = {"import": "import_", "openapi": "serve", "schema": "upgrade", "tokens": "token"}
"""Modules of the commands that do not have one of their own name."""


class Commands(click.Group):
    """The group of our commands, each imported when it is used: Celery loads the group in every command of its own,
    workers and beat included, and the commands load SQLAlchemy."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """All names, sorted."""
        return sorted(_NAMES)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; None: there is none."""
        if cmd_name not in _NAMES:
            return None
        module = import_module(f"celery_asynctask.cli.{_ELSEWHERE.get(cmd_name, cmd_name)}")
        return next(
            value for value in vars(module).values() if isinstance(value, click.Command) and value.name == cmd_name
        )

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
        except click.ClickException as exc:  # it may quote an argument, such as an id that was copied from somewhere
            vars(exc)["message"] = clean(exc.message)  # typed as final
            raise
        except BrokenPipeError:  # the reader has enough
            _drop_output()
            ctx.exit(0)
        except KeyboardInterrupt:
            _drop_output()
            ctx.exit(INTERRUPTED)
        except OSError as exc:
            _drop_output()
            _fail(ctx, exc, PROBLEM)

    def _flushed(self, ctx: click.Context) -> Any:
        """Run the command and write out its output, so that an error in writing is raised here and not at Python's
        end."""
        try:
            result = super().invoke(ctx)
        except (click.exceptions.Exit, AsyncTaskError):
            sys.stdout.flush()
            raise
        sys.stdout.flush()
        return result

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command, apart(rest)


def examples(*lines: str) -> str:
    """The end of a command's help: example calls, given without the beginning that all have in common."""
    return "\b\nExamples:\n" + "".join(f"  celery -A proj asynctask {line}\n" for line in lines)


def apart(args: list[str]) -> list[str]:
    """Arguments of a command with negated terms of a search (``-status:SUCCESS``) moved behind ``--``, where click does
    not take them for options."""
    from celery_asynctask.queries.search.keys import ALIASES, KEYS

    negated = re.compile(rf"-(?:{'|'.join((*KEYS, *ALIASES))})[.:]", re.IGNORECASE).match
    end = args.index("--") if "--" in args else len(args)
    terms = [argument for argument in args[:end] if negated(argument)]
    if not terms:
        return args
    return [*(argument for argument in args[:end] if not negated(argument)), "--", *terms, *args[end + 1 :]]


def _drop_output() -> None:
    """Discard what is still to be written: Python's flush at its end must neither block nor raise again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(ctx: click.Context, exc: Exception, code: int) -> None:
    click.echo(f"Error: {clean(str(exc))}", err=True)
    ctx.exit(code)
