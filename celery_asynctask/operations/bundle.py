"""A bundle: tasks with their attempts as lines of JSON, with all columns of both, from which `Import` makes the same
rows again. It changes no task that is there already, or joins it with the bundle's by the fold's own statements; either
way, importing twice changes nothing.

The first line is ``{"format": "celery-asynctask bundle", "version": 1, ...}``. Every line after it is a task, its
columns by their names and its attempts under ``attempts``. The last line is ``{"end": true, "tasks": N}``; a bundle
without it was cut off. Everything is ASCII; times are ISO 8601 in UTC with microseconds.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from math import isfinite
from typing import IO, Any, Final, NamedTuple, NoReturn

import sqlalchemy as sa
from sqlalchemy import Connection

from celery_asynctask.core.fold import Identity
from celery_asynctask.core.text import jsonable
from celery_asynctask.errors import BundleError, StoreError
from celery_asynctask.operations.bundle_rows import ATTEMPT_RULES, TASK_RULES, ends_too_early, objection, read_row
from celery_asynctask.operations.session import Writer
from celery_asynctask.queries.export import Columns, Exported
from celery_asynctask.store import fold
from celery_asynctask.store.schema import create_tables, schema_problem
from celery_asynctask.store.tables import async_task, async_task_attempt

FORMAT: Final = "celery-asynctask bundle"
VERSION: Final = 1

BATCH: Final = 500
"""Tasks that are stored in one transaction."""
MAX_LINE: Final = 16_777_216
"""Bytes of a line, unless values may be larger: it is in memory as a whole, and many times as large there."""


def lines(file: IO[bytes], max_line: int = MAX_LINE) -> Iterator[bytes]:
    """The lines of a file, of one that is longer than ``max_line`` only a beginning that is too long as well."""
    return iter(partial(file.readline, max_line + 1), b"")


def head(made_at: dt.datetime, schema: str, about: str) -> str:
    """The first line; ``about`` describes the bundle in words."""
    return _line({"format": FORMAT, "version": VERSION, "schema": schema, "made_at": made_at, "about": about})


def line(task: Columns, attempts: Sequence[Columns]) -> str:
    """The line of a task: its columns and those of its attempts."""
    return _line({**task, "attempts": attempts})


def tail(tasks: int) -> str:
    """The last line."""
    return _line({"end": True, "tasks": tasks})


def read(lines: Iterable[bytes], max_line: int = MAX_LINE) -> Iterator[Exported]:
    """The tasks of a bundle. Raises `BundleError`, which names the line."""
    numbered = enumerate(_bounded(lines, max_line), 1)
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
        task = _row(columns, TASK_RULES, number)
        rows = [_row(attempt, ATTEMPT_RULES, number) for attempt in attempts]
        if wrong := objection(task, rows):
            raise _wrong(number, wrong)
        yield Exported(task, rows)
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


def _bounded(lines: Iterable[bytes], max_line: int) -> Iterator[bytes]:
    for number, text in enumerate(lines, 1):
        if len(text) > max_line:
            raise BundleError(
                f"Line {number}: it has more than {max_line:,} bytes. Leave that task out, or raise "
                "asynctask_max_value_bytes here to what it was where the bundle was made."
            )
        yield text


def _object(text: bytes, number: int) -> dict[str, object]:
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        raise _wrong(number, "this is not JSON") from None
    if not isinstance(value, dict):
        raise _wrong(number, "this is not a JSON object")
    return value


def _refuse(constant: str) -> NoReturn:
    """NaN and the infinities, which Python reads as JSON, and JSON does not have."""
    raise ValueError(constant)


def _finite(text: str) -> float:
    """A number, unless it is too large for one: Python would write it as Infinity."""
    number = float(text)
    return number if isfinite(number) else _refuse(text)


def _row(values: object, rules: Mapping[str, Any], number: int) -> Columns:
    if not isinstance(values, dict) or values.keys() != rules.keys():
        names = sorted(set(rules) ^ set(values)) if isinstance(values, dict) else sorted(rules)
        raise BundleError(
            f"Line {number}: the columns are not those of this release: {', '.join(names)[:200]}. Export and import "
            "with the same release."
        )
    try:
        return read_row(values, rules)
    except ValueError as exc:
        raise _wrong(number, str(exc)) from None


def _line(value: Mapping[str, object]) -> str:
    return json.dumps(value, default=jsonable, allow_nan=False)


class Counts(NamedTuple):
    """What became of the tasks of a bundle."""

    added: int = 0
    same: int = 0
    """There already, as in the bundle."""
    differing: int = 0
    """There already with other values: merged, or left as they are."""
    odd_times: int = 0
    """Of all, those that end before they begin."""

    def plus(self, other: Counts) -> Counts:
        """The sums."""
        return Counts(*map(sum, zip(self, other, strict=True)))


class Import:
    """Stores the tasks of bundles. Raises `StoreError`."""

    def __init__(self, writer: Writer, *, merge: bool = False) -> None:
        """``merge`` joins a task that is there already with that of the bundle, as the recorder would: the later event
        wins. Else it stays as it is, with its attempts."""
        self._writer = writer
        self._merge = merge
        self._keep_ids = writer.dialect == "sqlite"
        """On the others, the sequence would hand out an id that we insert once more later."""
        task, attempt = (fold.task_upsert, fold.attempt_upsert) if merge else (fold.insert_new, fold.insert_new)
        self._tables = (
            (async_task, task(writer.dialect, async_task)),
            (async_task_attempt, attempt(writer.dialect, async_task_attempt)),
        )
        self.counts = Counts()
        """Of all that was stored so far."""

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
            self.counts = self.counts.plus(self._writer.batch(partial(self._store, batch)))
            yield len(batch)

    def _store(self, tasks: Sequence[Exported], connection: Connection) -> Counts:
        there = self._there(connection, tasks)
        first = {_identity(task.task): task for task in reversed(tasks)}  # of a task that the bundle has twice
        new = [task for identity, task in first.items() if identity not in there]
        known = {identity: _content(*task) for identity, task in first.items()} | there
        same = sum(1 for task in tasks if known[_identity(task.task)] == _content(*task)) - len(new)
        stored = tasks if self._merge else new
        rows = sorted((task.task for task in stored), key=_identity)
        attempts = [attempt for task in stored for attempt in task.attempts]
        attempts.sort(key=lambda row: (*_identity(row), row["run_key"]))
        for (table, statement), new_rows in zip(self._tables, (rows, attempts), strict=True):
            free = self._free_ids(connection, table, new_rows) if self._keep_ids else set()
            with_id = [row for row in new_rows if row["id"] in free]
            others = [row for row in new_rows if row["id"] not in free]
            without_id = [{name: row[name] for name in row if name != "id"} for row in others]
            for parameters in (with_id, without_id):
                if parameters:
                    connection.execute(statement, parameters)
        odd = sum(1 for task in tasks if ends_too_early(task.task, task.attempts))
        return Counts(len(new), same, len(tasks) - len(new) - same, odd)

    def _there(self, connection: Connection, tasks: Sequence[Exported]) -> dict[Identity, Any]:
        """The `_content` of the tasks that are stored already."""
        identities = {_identity(task.task) for task in tasks}
        ids = sorted({task_id for task_id, _ in identities})
        rows: list[list[dict[str, Any]]] = []
        for table in (async_task, async_task_attempt):
            statement = sa.select(table).where(table.c.celery_task_id.in_(ids))
            rows.append([dict(row) for row in connection.execute(statement).mappings()])
        attempts: dict[Identity, list[dict[str, Any]]] = {}
        for attempt in rows[1]:
            attempts.setdefault(_identity(attempt), []).append(attempt)
        return {
            identity: _content(task, attempts.get(identity, ()))
            for task in rows[0]
            if (identity := _identity(task)) in identities
        }

    def _free_ids(self, connection: Connection, table: sa.Table, rows: Sequence[Columns]) -> set[int]:
        """The ids that no stored row has, and that only one of the new rows wants."""
        wanted = Counter(row["id"] for row in rows)
        taken = set(connection.scalars(sa.select(table.c.id).where(table.c.id.in_(wanted))))
        return {row_id for row_id, times in wanted.items() if times == 1 and row_id not in taken}


def _identity(row: Mapping[str, Any]) -> Identity:
    return row["celery_task_id"], row["customer_key"]


def _content(task: Mapping[str, Any], attempts: Iterable[Mapping[str, Any]]) -> Any:
    """All that a task says, for comparing, without the numbers of its rows."""
    by_key = {attempt["run_key"]: {**attempt, "id": None} for attempt in attempts}
    return {**task, "id": None}, by_key
