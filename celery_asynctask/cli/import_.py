"""``celery asynctask import``: load a bundle into a database."""

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
from celery_asynctask.settings import Settings


@command(
    "import incident.ndjson --into sqlite:///x.db",
    "--url sqlite:///x.db list",
    short="Load an exported bundle into a database.",
    name="import",
)
@click.argument("file", metavar="FILE")
@click.option("--into", metavar="URL", required=True, help="Database for the tasks; an SQLite file is created.")
@click.option("--any-database", is_flag=True, help="Allow a database other than SQLite, which may be in use.")
def import_(context: CommandContext, file: str, into: str, any_database: bool) -> None:
    """Store the tasks of a bundle that `export` wrote, with their attempts.

    FILE is - for standard input. An incomplete file is refused before anything is stored. A task that is stored already
    is merged with the bundle's, as the recorder would: the later event wins, and importing twice changes nothing.
    """
    settings = Settings.from_app(context.app).at(into)
    if not any_database and not settings.url.startswith("sqlite"):
        raise click.UsageError("--into is not an SQLite file. To import into it anyway, add --any-database.")
    with _opened(file) as lines:
        with context.output.progress("Reading") as advance:
            count = 0
            for _ in read(lines):
                count += 1
                advance(1)
        lines.seek(0)
        bundle = Import(context.writer(settings))
        bundle.prepare()
        with context.output.progress("Importing", count) as advance:
            for stored in bundle.store(read(lines)):
                advance(stored)
    database = settings.shown_url
    context.output.tell({"tasks": count, "database": database}, f"{count:,} tasks are in {database}.")
    if not context.output.as_json:
        context.output.hint(f"To list them: celery asynctask --url {database} list")


@contextmanager
def _opened(name: str) -> Iterator[IO[bytes]]:
    """The bundle as a file that can be read twice. Raises `AsyncTaskError`."""
    with ExitStack() as stack:
        try:
            if name == "-":
                file: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(sys.stdin.buffer, file)
                file.seek(0)
            else:
                file = stack.enter_context(Path(name).open("rb"))
        except OSError as exc:
            raise AsyncTaskError(
                f"{name} cannot be read: {exc.strerror or exc}. Give the path of a bundle, or - for standard input."
            ) from exc
        yield file
