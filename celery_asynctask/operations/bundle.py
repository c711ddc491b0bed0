"""A bundle: tasks with their attempts as lines of JSON, all columns of both, from which `import_bundle` makes the same
rows again. Pure.

The first line says what it is: ``{"format": "celery-asynctask bundle", "version": 1, ...}``. Every line after it is a
task, its columns by their names and its attempts under ``attempts``; the last one is ``{"end": true, "tasks": N}``, by
which a bundle that was cut off is known. All of it is ASCII; times are ISO 8601 in UTC with microseconds.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from celery_asynctask.core.limits import MAX_INTEGER
from celery_asynctask.core.status import TERMINAL, AsyncTaskStatus
from celery_asynctask.core.text import rfc3339
from celery_asynctask.errors import BundleError

FORMAT: Final = "celery-asynctask bundle"
VERSION: Final = 1

Columns = dict[str, Any]
"""A row: all its columns by their names, each of its own type."""


class Kind(NamedTuple):
    """What a column holds."""

    allowed: str
    """In words."""
    read: Callable[[object], object]
    """A value of JSON to one of the column. Raises `ValueError`."""


class Shape(NamedTuple):
    """The columns of tasks and attempts by their names, as `import_bundle` takes them from the tables."""

    task: Mapping[str, tuple[Kind, bool]]
    """With whether it may be null."""
    attempt: Mapping[str, tuple[Kind, bool]]


class Task(NamedTuple):
    """One task of a bundle, and its attempts."""

    columns: Columns
    attempts: list[Columns]


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


INTEGER: Final = Kind("a whole number of at most 64 bits", _integer)
BOOLEAN: Final = Kind("true or false", _boolean)
TEXT: Final = Kind("a text", _text)
TIME: Final = Kind("a time such as 2026-01-31T14:05:00.000000Z", _time)
STATUS: Final = Kind("a status", AsyncTaskStatus)
JSON: Final = Kind("JSON", lambda value: value)


def head(made_at: dt.datetime, schema: str, about: str) -> str:
    """The first line; ``about`` says in words what is in the bundle."""
    return _line({"format": FORMAT, "version": VERSION, "schema": schema, "made_at": made_at, "about": about})


def line(task: Columns, attempts: Sequence[Columns]) -> str:
    """The line of a task: its columns and those of its attempts."""
    return _line({**task, "attempts": attempts})


def tail(tasks: int) -> str:
    """The last line."""
    return _line({"end": True, "tasks": tasks})


def read(lines: Iterable[bytes], shape: Shape) -> Iterator[Task]:
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
        task = Task(_row(found, shape.task, number), [_row(one, shape.attempt, number) for one in attempts])
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


def _check_task(task: Task, number: int) -> None:
    columns = task.columns
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


def _row(found: object, columns: Mapping[str, tuple[Kind, bool]], number: int) -> Columns:
    if not isinstance(found, dict) or found.keys() != columns.keys():
        names = sorted(set(columns) ^ set(found)) if isinstance(found, dict) else sorted(columns)
        raise BundleError(f"Line {number}: it has not the columns of this release; of {', '.join(names)[:200]}.")
    row: Columns = {}
    for name, (kind, nullable) in columns.items():
        value = found[name]
        if value is None and nullable:
            row[name] = None
            continue
        try:
            row[name] = kind.read(value)
        except (ValueError, OverflowError):
            raise BundleError(f"Line {number}: {name} is {value!r:.80}; it must be {kind.allowed}.") from None
    return row


def _line(value: Mapping[str, object]) -> str:
    return json.dumps(value, default=_jsonable, allow_nan=False)


def _jsonable(value: object) -> str:
    if isinstance(value, dt.datetime):
        return rfc3339(value)
    raise TypeError(f"not JSON: {type(value).__name__}")
