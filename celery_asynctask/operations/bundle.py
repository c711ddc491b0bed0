"""A bundle: tasks with their attempts as lines of JSON, with all columns of both, from which `Import` makes the same
rows again. It joins them with the rows that are there by the fold's own statements, so importing twice changes nothing.

The first line is ``{"format": "celery-asynctask bundle", "version": 1, ...}``. Every line after it is a task, its
columns by their names and its attempts under ``attempts``. The last line is ``{"end": true, "tasks": N}``; a bundle
without it was cut off. Everything is ASCII; times are ISO 8601 in UTC with microseconds.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final, NoReturn

import sqlalchemy as sa
from sqlalchemy import Connection

from celery_asynctask.core.columns import ATTEMPT, TASK, Column, Type
from celery_asynctask.core.limits import MAX_INTEGER
from celery_asynctask.core.status import SHOWN, TERMINAL, AsyncTaskStatus
from celery_asynctask.core.text import jsonable
from celery_asynctask.errors import BundleError, StoreError
from celery_asynctask.operations.session import Writer
from celery_asynctask.queries.export import Columns, Exported
from celery_asynctask.queries.reader import schema_problem
from celery_asynctask.store import fold
from celery_asynctask.store.schema import create_tables
from celery_asynctask.store.tables import async_task, async_task_attempt

FORMAT: Final = "celery-asynctask bundle"
VERSION: Final = 1

BATCH: Final = 500
"""Tasks that are stored in one transaction."""
_TASK, _ATTEMPT = ({column.name: column for column in columns} for columns in (TASK, ATTEMPT))


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_INTEGER:
        raise ValueError
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    value.encode()  # lone surrogates: UnicodeEncodeError, a ValueError
    return value


def _status(value: object) -> AsyncTaskStatus:
    status = AsyncTaskStatus(value)
    if status not in SHOWN:
        raise ValueError
    return status


def _time(value: object) -> dt.datetime:
    if not isinstance(value, str) or not value.endswith("Z"):
        raise ValueError
    return dt.datetime.fromisoformat(f"{value[:-1]}+00:00")


_TEXT: Final = ("a text", _text)
_KINDS: Final[Mapping[Type, tuple[str, Callable[[object], object]]]] = {
    **dict.fromkeys((Type.NUMBER, Type.INTEGER, Type.LONG), ("a whole number of at most 64 bits", _integer)),
    Type.BOOLEAN: ("true or false", _boolean),
    Type.TIME: ("a time such as 2026-01-31T14:05:00.000000Z", _time),
    Type.STATUS: ("a status", _status),
    Type.JSON: ("JSON", lambda value: value),
}
"""What a column may hold, in words, and the function that makes it from a JSON value or raises `ValueError`; `_TEXT`
for types that are not here."""


def head(made_at: dt.datetime, schema: str, about: str) -> str:
    """The first line; ``about`` describes the bundle in words."""
    return _line({"format": FORMAT, "version": VERSION, "schema": schema, "made_at": made_at, "about": about})


def line(task: Columns, attempts: Sequence[Columns]) -> str:
    """The line of a task: its columns and those of its attempts."""
    return _line({**task, "attempts": attempts})


def tail(tasks: int) -> str:
    """The last line."""
    return _line({"end": True, "tasks": tasks})


def read(lines: Iterable[bytes]) -> Iterator[Exported]:
    """The tasks of a bundle. Raises `BundleError`, which names the line."""
    numbered = enumerate(lines, 1)
    _check_head(_object(next(numbered, (1, b""))[1], 1))
    count = 0
    for number, text in numbered:
        columns = _object(text, number)
        if columns.get("end") is True:
            if columns.get("tasks") != count:
                raise _wrong(number, f"the bundle says it has {columns.get('tasks')} tasks, and has {count}")
            if next(numbered, None) is not None:
                raise _wrong(number + 1, "there is something behind the end of the bundle")
            return
        attempts = columns.pop("attempts", None)
        if not isinstance(attempts, list):
            raise _wrong(number, "this is not a task of a bundle, for it has no list of attempts")
        task = Exported(_row(columns, _TASK, number), [_row(attempt, _ATTEMPT, number) for attempt in attempts])
        _check_task(task, number)
        yield task
        count += 1
    raise BundleError(f"The bundle was cut off: its last line is missing, after {count:,} tasks. Export it again.")


def _wrong(number: int, problem: str) -> BundleError:
    return BundleError(
        f"Line {number}: {problem}. Export the tasks again; `celery -A APP asynctask export` makes a bundle."
    )


def _check_head(columns: Mapping[str, object]) -> None:
    if columns.get("format") != FORMAT:
        raise _wrong(1, "this is not a bundle of celery-asynctask")
    version = columns.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise _wrong(1, f"a bundle has no version {version!r}")
    if version > VERSION:
        raise BundleError(
            f"Line 1: the bundle is of version {version}, and this release of celery-asynctask reads versions up to "
            f"{VERSION}. Install a newer release."
        )


def _check_task(task: Exported, number: int) -> None:
    columns = task.task
    if (columns["completed_at"] is None) == (columns["status"] in TERMINAL):
        raise _wrong(number, f"the status {columns['status']} does not go with its completed_at")
    if any(row["id"] < 1 for row in (columns, *task.attempts)):
        raise _wrong(number, "an id must be 1 or more")
    if any(attempt[name] != columns[name] for attempt in task.attempts for name in ("celery_task_id", "customer_key")):
        raise _wrong(number, "an attempt is of another task")
    if len({attempt["run_key"] for attempt in task.attempts}) < len(task.attempts):
        raise _wrong(number, "two attempts have the same run_key")


def _object(text: bytes, number: int) -> dict[str, object]:
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise _wrong(number, "this is not JSON") from None
    if not isinstance(value, dict):
        raise _wrong(number, "this is not a JSON object")
    return value


def _refuse(constant: str) -> NoReturn:
    """NaN and the infinities, which Python reads as JSON, and JSON does not have."""
    raise ValueError(constant)


def _row(values: object, columns: Mapping[str, Column], number: int) -> Columns:
    if not isinstance(values, dict) or values.keys() != columns.keys():
        names = sorted(set(columns) ^ set(values)) if isinstance(values, dict) else sorted(columns)
        raise BundleError(
            f"Line {number}: the columns are not those of this release: {', '.join(names)[:200]}. Export and import "
            "with the same release."
        )
    row: Columns = {}
    for name, column in columns.items():
        value = values[name]
        allowed, read_value = _KINDS.get(column.type, _TEXT)
        try:
            row[name] = None if value is None and column.nullable else read_value(value)
        except (ValueError, OverflowError):
            raise _wrong(number, f"{name} is {value!r:.80}; it must be {allowed}") from None
    return row


def _line(value: Mapping[str, object]) -> str:
    return json.dumps(value, default=jsonable, allow_nan=False)


class Import:
    """Stores the tasks of bundles. Raises `StoreError`."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._keep_ids = writer.dialect == "sqlite"
        """On the others, the sequence would hand out an id that we insert once more later."""
        self._tables = (
            (async_task, fold.task_upsert(writer.dialect, async_task)),
            (async_task_attempt, fold.attempt_upsert(writer.dialect, async_task_attempt)),
        )

    def prepare(self) -> None:
        """Create the tables if they are missing. Raises `StoreError` for those of another version."""
        with self._writer.connection():
            pass  # for its errors: what a driver raises before it is connected need not be SQLAlchemy's
        with self._writer.guarded():
            create_tables(self._writer.engine)
        with self._writer.connection() as connection:
            problem = schema_problem(connection)
        if problem:
            raise StoreError(f"The database {self._writer.settings.shown_url} {problem}")

    def store(self, tasks: Iterable[Exported]) -> Iterator[int]:
        """Store the tasks, a batch at a time; yields the number of tasks in each batch."""
        rest = iter(tasks)
        while batch := list(islice(rest, BATCH)):
            self._writer.batch(partial(self._store, batch))
            yield len(batch)

    def _store(self, tasks: Sequence[Exported], connection: Connection) -> None:
        rows = sorted((task.task for task in tasks), key=lambda row: (row["celery_task_id"], row["customer_key"]))
        attempts = [attempt for task in tasks for attempt in task.attempts]
        attempts.sort(key=lambda row: (row["celery_task_id"], row["customer_key"], row["run_key"]))
        for (table, statement), new in zip(self._tables, (rows, attempts), strict=True):
            free = self._free_ids(connection, table, new) if self._keep_ids else set()
            with_id = [row for row in new if row["id"] in free]
            without_id = [{name: row[name] for name in row if name != "id"} for row in new if row["id"] not in free]
            for parameters in (with_id, without_id):
                if parameters:
                    connection.execute(statement, parameters)

    def _free_ids(self, connection: Connection, table: sa.Table, rows: Sequence[Columns]) -> set[int]:
        """The ids that no stored row has, and that only one of the new rows wants."""
        wanted = Counter(row["id"] for row in rows)
        taken = set(connection.scalars(sa.select(table.c.id).where(table.c.id.in_(wanted))))
        return {row_id for row_id, times in wanted.items() if times == 1 and row_id not in taken}
