"""``celery asynctask export``: write tasks to a file or a pipe."""

from __future__ import annotations

import datetime as dt
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Final

import click

from celery_asynctask.cli.command import UTC, CommandContext, command, whose
from celery_asynctask.core.accounting import plural
from celery_asynctask.core.columns import TASK, VALUES, Type
from celery_asynctask.errors import AsyncTaskError
from celery_asynctask.operations import bundle
from celery_asynctask.operations.audit import Action, search_target
from celery_asynctask.present import csv
from celery_asynctask.queries.export import Columns, Exported, found_by, workflow_of
from celery_asynctask.store.tables import SCHEMA_VERSION

STANDARD: Final = "-"
_COLUMNS: Final = [column for column in TASK if column.type is not Type.KEY]
_NAMES: Final = [column.name for column in _COLUMNS]

Pages = Iterable[Sequence[Exported]]


@command(
    "export status:FAILURE since:2d -o failures.ndjson",
    "export --workflow 5f0c2a -o incident.ndjson",
    "export customer:42 --format csv > tasks.csv",
    short="Write tasks to a file or a pipe.",
    options=[UTC],
)
@click.argument("search", nargs=-1)
@click.option("--workflow", metavar="ID", help="Write the tasks of the workflow that contains task ID.")
@whose
@click.option(
    "--format",
    "kind",
    type=click.Choice(["ndjson", "csv", "parquet"]),
    default="ndjson",
    show_default=True,
    help="A bundle for `import`, or a table of tasks.",
)
@click.option(
    "-o", "--output", "target", metavar="FILE", default=STANDARD, help="File to write; default: standard output."
)
def export(
    context: CommandContext,
    search: tuple[str, ...],
    workflow: str | None,
    customer: str | None,
    kind: str,
    target: str,
) -> None:
    """Write the tasks that SEARCH finds, or those of a workflow; without either, all tasks.

    ndjson is a bundle for `import`: a line of JSON per task, with its attempts. csv and parquet are tables of tasks
    without attempts, in which JSON values are texts. In csv, null is empty, and an apostrophe precedes a text that a
    spreadsheet would take for a formula. The task id is celery_task_id.

    Arguments and results are written as they were recorded. FILE is readable by you alone, and appears only when it is
    complete.
    """
    if search and workflow is not None:
        raise click.UsageError("Give a search or --workflow, not both.")
    if workflow is None and customer is not None:
        raise click.UsageError("--customer is for --workflow. Search with the term customer: instead.")
    if kind == "parquet" and find_spec("pyarrow") is None:
        raise AsyncTaskError("Parquet needs pyarrow. Install the extra: pip install 'celery-asynctask[parquet]'.")
    if kind != "ndjson" and target == STANDARD and sys.stdout.isatty():
        # In csv, texts are as they were recorded: a terminal would obey what looks like a command to it.
        raise click.UsageError(f"{kind} is not written to a terminal. Use -o FILE, or a pipe.")
    is_bundle = kind == "ndjson"
    if workflow is not None:
        about = exported = f"the workflow of {workflow}"
        pages = workflow_of(context.reader, workflow, customer, attempts=is_bundle)
    else:
        query = context.search(search)
        about, exported = query.text or "everything", search_target(query)
        pages = found_by(context.reader, query, attempts=is_bundle)
    count = 0
    to = "" if target == STANDARD else f" to {Path(target).absolute()}"

    def counted() -> Iterator[Sequence[Exported]]:
        nonlocal count
        with context.output.progress("Exporting") as advance:
            for page in pages:
                count += len(page)
                operation.detail = (
                    f"{count:,} {plural(count, 'task')}{to}"  # before it is written: some of it may get out
                )
                yield page
                advance(len(page))

    with context.operation(Action.EXPORT, exported) as operation, _opened(target) as file:
        operation.detail = f"no tasks{to}"
        if is_bundle:
            _write_bundle(file, counted(), about)
        elif kind == "csv":
            _write_csv(file, counted())
        else:
            _write_parquet(file, counted())
    if target != STANDARD:
        context.output.hint(f"{count:,} tasks in {target}.")


def _write_bundle(file: IO[bytes], pages: Pages, about: str) -> None:
    count = 0
    file.write(f"{bundle.head(dt.datetime.now(dt.timezone.utc), SCHEMA_VERSION, about)}\n".encode("ascii"))
    for page in pages:
        for task, attempts in page:
            file.write(f"{bundle.line(task, attempts)}\n".encode("ascii"))
        count += len(page)
    file.write(f"{bundle.tail(count)}\n".encode("ascii"))


def _write_csv(file: IO[bytes], pages: Pages) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    try:
        csv.write(text, _NAMES, ([*_flat(task).values()] for page in pages for task, _ in page))
    finally:
        text.detach()


def _write_parquet(file: IO[bytes], pages: Pages) -> None:
    pyarrow: Any = import_module("pyarrow")
    parquet: Any = import_module("pyarrow.parquet")
    kinds = dict.fromkeys((Type.NUMBER, Type.INTEGER, Type.LONG), pyarrow.int64())
    kinds[Type.TIME] = pyarrow.timestamp("us", tz="UTC")
    schema = pyarrow.schema([(column.name, kinds.get(column.type, pyarrow.string())) for column in _COLUMNS])
    with parquet.ParquetWriter(file, schema) as rows:
        for page in pages:
            rows.write_table(pyarrow.Table.from_pylist([_flat(task) for task, _ in page], schema=schema))


def _flat(task: Columns) -> Columns:
    """A task as a row of a table: JSON values as texts."""
    texts = {name: json.dumps(task[name], ensure_ascii=False) for name in VALUES if task[name] is not None}
    return {**{name: task[name] for name in _NAMES}, **texts}


@contextmanager
def _opened(target: str) -> Iterator[IO[bytes]]:
    """Standard output, or a file that gets its name when it is complete. Raises `AsyncTaskError`."""
    if target == STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(target)
    try:
        number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as exc:
        raise AsyncTaskError(f"{target} cannot be written: {exc.strerror}. Choose another file with -o.") from exc
    try:
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException as exc:
        with suppress(OSError):
            Path(name).unlink()
        if isinstance(exc, OSError) and not isinstance(exc, BrokenPipeError):
            raise AsyncTaskError(
                f"{target} cannot be written: {exc.strerror or exc}. Choose another file with -o."
            ) from exc
        raise
