"""A bundle: tasks with their attempts as lines of JSON, all columns of both, from which `Import` makes the same rows
again. It joins them with what is there by the fold's own statements, so that twice is as once.

The first line says what it is: ``{"format": "celery-asynctask bundle", "version": 1, ...}``. Every line after it is a
task, its columns by their names and its attempts under ``attempts``; the last one is ``{"end": true, "tasks": N}``, by
which a bundle that was cut off is known. All of it is ASCII; times are ISO 8601 in UTC with microseconds.
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
from celery_asynctask.core.status import TERMINAL, AsyncTaskStatus
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


def _time(value: object) -> dt.datetime:
    if not isinstance(value, str) or not value.endswith("Z"):
        raise ValueError
    return dt.datetime.fromisoformat(f"{value[:-1]}+00:00")


_TEXT: Final = ("a text", _text)
_KINDS: Final[Mapping[Type, tuple[str, Callable[[object], object]]]] = {
    **dict.fromkeys((Type.NUMBER, Type.INTEGER, Type.LONG), ("a whole number of at most 64 bits", _integer)),
    Type.BOOLEAN: ("true or false", _boolean),
    Type.TIME: ("a time such as 2026-01-31T14:05:00.000000Z", _time),
    Type.STATUS: ("a status", AsyncTaskStatus),
    Type.JSON: ("JSON", lambda value: value),
}
"""What a column may hold, in words, and what makes it of a value of JSON or raises `ValueError`; `_TEXT` for others."""


def head(made_at: dt.datetime, schema: str, about: str) -> str:
    """The first line; ``about`` says in words what is in the bundle."""
    return _line({"format": FORMAT, "version": VERSION, "schema": schema, "made_at": made_at, "about": about})


def line(task: Columns, attempts: Sequence[Columns]) -> str:
    """The line of a task: its columns and those of its attempts."""
    return _line({**task, "attempts": attempts})


def tail(tasks: int) -> str:
    """The last line."""
    return _line({"end": True, "tasks": tasks})


def read(lines: Iterable[bytes]) -> Iterator[Exported]:
    """The tasks of a bundle. Raises `BundleError`, which says the line, for what is none."""
    numbered = enumerate(lines, 1)
    _check_head(_object(next(numbered, (1, b""))[1], 1))
    count = 0
    for number, text in numbered:
        found = _object(text, number)
        if found.get("end") is True:
            if found.get("tasks") != count:
                raise BundleError(f"Line {number}: the bundle says it has {found.get('tasks')} tasks, and has {count}.")
            if next(numbered, None) is not None:
                raise BundleError(f"Line {number + 1}: there is something behind the end of the bundle.")
            return
        attempts = found.pop("attempts", None)
        if not isinstance(attempts, list):
            raise BundleError(f"Line {number}: it is no task of a bundle, for it has no list of attempts.")
        task = Exported(_row(found, _TASK, number), [_row(one, _ATTEMPT, number) for one in attempts])
        _check_task(task, number)
        yield task
        count += 1
    raise BundleError(f"The bundle was cut off: its last line is missing, after {count:,} tasks. Export it again.")


def _check_head(found: Mapping[str, object]) -> None:
    if found.get("format") != FORMAT:
        raise BundleError("Line 1: this is no bundle of celery-asynctask. `celery asynctask export` makes one.")
    version = found.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise BundleError(f"Line 1: a bundle has no version {version!r}.")
    if version > VERSION:
        raise BundleError(
            f"Line 1: the bundle is of version {version}, and this release of celery-asynctask reads them up to "
            f"{VERSION}: install a newer release."
        )


def _check_task(task: Exported, number: int) -> None:
    columns = task.task
    if (columns["completed_at"] is None) == (columns["status"] in TERMINAL):
        raise BundleError(f"Line {number}: the status {columns['status']} does not go with its completed_at.")
    if any(one["id"] < 1 for one in (columns, *task.attempts)):
        raise BundleError(f"Line {number}: an id must be 1 or more.")
    if any(one["celery_task_id"] != columns["celery_task_id"] for one in task.attempts):
        raise BundleError(f"Line {number}: an attempt is of another task.")
    if len({one["run_key"] for one in task.attempts}) < len(task.attempts):
        raise BundleError(f"Line {number}: two attempts have the same run_key.")


def _object(text: bytes, number: int) -> dict[str, object]:
    try:
        found = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise BundleError(f"Line {number}: it is no JSON.") from None
    if not isinstance(found, dict):
        raise BundleError(f"Line {number}: it is no JSON object.")
    return found


def _refuse(constant: str) -> NoReturn:
    """Python's own words for what no number is."""
    raise ValueError(constant)


def _row(found: object, columns: Mapping[str, Column], number: int) -> Columns:
    if not isinstance(found, dict) or found.keys() != columns.keys():
        names = sorted(set(columns) ^ set(found)) if isinstance(found, dict) else sorted(columns)
        raise BundleError(f"Line {number}: it has not the columns of this release; of {', '.join(names)[:200]}.")
    row: Columns = {}
    for name, column in columns.items():
        value = found[name]
        allowed, made = _KINDS.get(column.type, _TEXT)
        try:
            row[name] = None if value is None and column.nullable else made(value)
        except (ValueError, OverflowError):
            raise BundleError(f"Line {number}: {name} is {value!r:.80}; it must be {allowed}.") from None
    return row


def _line(value: Mapping[str, object]) -> str:
    return json.dumps(value, default=jsonable, allow_nan=False)


class Import:
    """Stores the tasks of bundles. Raises `StoreError`."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._keep_ids = writer.dialect == "sqlite"
        """Elsewhere a number that we give is not taken from the sequence, which gives it once more later."""
        self._tables = (
            (async_task, fold.task_upsert(writer.dialect, async_task)),
            (async_task_attempt, fold.attempt_upsert(writer.dialect, async_task_attempt)),
        )

    def prepare(self) -> None:
        """Create the tables where they are missing."""
        with self._writer.guarded():
            create_tables(self._writer.engine)
            with self._writer.engine.connect() as connection:
                problem = schema_problem(connection)
        if problem:
            raise StoreError(f"The database {self._writer.settings.shown_url} {problem}")

    def store(self, tasks: Iterable[Exported]) -> Iterator[int]:
        """Store them, a batch at a time; yields how many a batch had."""
        rest = iter(tasks)
        while some := list(islice(rest, BATCH)):
            self._writer.batch(partial(self._store, some))
            yield len(some)

    def _store(self, tasks: Sequence[Exported], connection: Connection) -> None:
        rows = sorted((task.task for task in tasks), key=lambda row: row["celery_task_id"])
        attempts = [one for task in tasks for one in task.attempts]
        attempts.sort(key=lambda row: (row["celery_task_id"], row["run_key"]))
        for (table, statement), known in zip(self._tables, (rows, attempts), strict=True):
            free = self._free(connection, table, known) if self._keep_ids else set()
            numbered = [row for row in known if row["id"] in free]
            counted = [{name: row[name] for name in row if name != "id"} for row in known if row["id"] not in free]
            for some in (numbered, counted):
                if some:
                    connection.execute(statement, some)

    def _free(self, connection: Connection, table: sa.Table, rows: Sequence[Columns]) -> set[int]:
        """The numbers of the rows that no stored row has, and that only one of them wants."""
        wanted = Counter(row["id"] for row in rows)
        taken = set(connection.scalars(sa.select(table.c.id).where(table.c.id.in_(wanted))))
        return {number for number, times in wanted.items() if times == 1 and number not in taken}
