"""``celery asynctask import``: load a bundle into a database."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final

import click

from celery_asynctask.cli.command import CommandContext, command
from celery_asynctask.core.accounting import plural
from celery_asynctask.errors import AsyncTaskError
from celery_asynctask.operations.bundle import MAX_LINE, Import, lines, read
from celery_asynctask.settings import Settings

_VALUES: Final = 16
"""Times the largest value that a line of a bundle may have: four values, each as ASCII."""


@command(
    "import incident.ndjson --into sqlite:///x.db",
    "--url sqlite:///x.db list",
    short="Load an exported bundle into a database.",
    name="import",
)
@click.argument("file", metavar="FILE")
@click.option("--into", metavar="URL", required=True, help="Database for the tasks; an SQLite file is created.")
@click.option("--any-database", is_flag=True, help="Allow a database other than SQLite, which may be in use.")
@click.option("--merge", is_flag=True, help="Merge tasks that are stored already; the later event wins.")
def import_(context: CommandContext, file: str, into: str, any_database: bool, merge: bool) -> None:
    """Store the tasks of a bundle that `export` wrote, with their attempts.

    FILE is - for standard input. A file that is incomplete, or has what no recorder writes, is refused before anything
    is stored. A task that is stored already stays as it is; with --merge it is merged with the bundle's, as the
    recorder would. Importing twice changes nothing.
    """
    settings = Settings.from_app(context.app).at(into)
    if not any_database and not settings.url.startswith("sqlite"):
        raise click.UsageError("--into is not an SQLite file. To import into it anyway, add --any-database.")
    max_line = max(MAX_LINE, _VALUES * settings.max_value_bytes)
    with _opened(file) as opened:
        with context.output.progress("Reading") as advance:
            count = 0
            for _ in read(lines(opened, max_line), max_line):
                count += 1
                advance(1)
        opened.seek(0)
        bundle = Import(context.writer(settings), merge=merge)
        bundle.prepare()
        with context.output.progress("Importing", count) as advance:
            for stored in bundle.store(read(lines(opened, max_line), max_line)):
                advance(stored)
    database, counts = settings.shown_url, bundle.counts
    text = f"{counts.added:,} {plural(counts.added, 'task')} added to {database}."
    if counts.same:
        text += f" {counts.same:,} there already."
    if counts.differing:
        text += f" {counts.differing:,} there with other values: " + (
            "merged." if merge else "left as they are; --merge merges them, and the later event wins."
        )
    context.output.tell({"tasks": count, "database": database, **counts._asdict()}, text)
    if not context.output.as_json:
        if counts.odd_times:
            ending = f"{counts.odd_times:,} {plural(counts.odd_times, 'task')}"
            context.output.hint(f"Ends before its beginning: {ending}. Clocks differed, or the bundle was changed.")
        context.output.hint(f"To list them: celery asynctask --url {shlex.quote(database)} list")


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
