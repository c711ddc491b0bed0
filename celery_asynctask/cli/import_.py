"""``celery asynctask import``: a bundle into a database, to look at it there."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import click

from celery_asynctask.cli.command import CommandContext, command
from celery_asynctask.errors import AsyncTaskError
from celery_asynctask.operations.bundle import Import, read


@command("import incident.ndjson --into sqlite:///incident.db", "--url sqlite:///incident.db list", name="import")
@click.argument("file", metavar="FILE")
@click.option("--into", metavar="URL", required=True, help="Database that gets the tasks; an SQLite file is made.")
@click.option("--any-database", is_flag=True, help="Also into a database that is not SQLite, hence perhaps a real one.")
def import_(context: CommandContext, file: str, into: str, any_database: bool) -> None:
    """Store the tasks of a bundle that `export` made, with their attempts, as they were.

    FILE is - for standard input. A file that is no whole bundle is refused before anything is stored. A task that is
    there already is joined with the one in the bundle, as the recorder would: what is later wins, and doing it twice
    changes nothing.
    """
    settings = context.settings.at(into)
    if not any_database and not settings.url.startswith("sqlite"):
        raise click.UsageError("--into is not an SQLite file. If that is what you want, say --any-database.")
    with _opened(file) as lines:
        with context.output.progress("Reading") as told:
            count = 0
            for _ in read(lines):
                count += 1
                told(1)
        lines.seek(0)
        work = Import(context.writer(settings))
        work.prepare()
        with context.output.progress("Importing", count) as told:
            for stored in work.store(read(lines)):
                told(stored)
    database = settings.shown_url
    context.output.tell({"tasks": count, "database": database}, f"{count:,} tasks are in {database}.")
    if not context.output.as_json:
        context.output.hint(f"Look at them: celery asynctask --url {database} list")


@contextmanager
def _opened(name: str) -> Iterator[IO[bytes]]:
    """The bundle, to be read more than once. Raises `AsyncTaskError`."""
    with ExitStack() as stack:
        try:
            if name == "-":
                file: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(sys.stdin.buffer, file)
                file.seek(0)
            else:
                file = stack.enter_context(Path(name).open("rb"))
        except OSError as exc:
            raise AsyncTaskError(f"{name} cannot be read: {exc.strerror or exc}.") from exc
        yield file
