"""What commands that do much at once have in common: they ask first, and show how far they are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import click

from celery_asynctask.cli.output import Output


def ask(question: str, yes: bool) -> None:
    """Ask a person whether to go on, unless ``yes``; ends the command where the answer is no, and with a usage error
    where there is nobody to ask."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("There is no terminal to ask on. Look with --dry-run, then say --yes.")
    click.confirm(question, abort=True, err=True)


@contextmanager
def progress(output: Output, title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error while there is a terminal, and what moves it on by so many."""
    if output.as_json or not sys.stderr.isatty() or find_spec("rich") is None:
        yield lambda _count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True, no_color=not output.color)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)
