"""What the rows of a bundle may hold: what a recorder could have written, which all commands and pages show."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from celery_asynctask.core.columns import ATTEMPT, TASK, Column, Type
from celery_asynctask.core.ids import is_id
from celery_asynctask.core.keys import is_key
from celery_asynctask.core.limits import MAX_INTEGER, MAX_TASK_ID
from celery_asynctask.core.status import SHOWN, TERMINAL, AsyncTaskStatus

MAX_DEPTH: Final = 100
"""Levels of a JSON value: many times what is recorded."""
MAX_TEXT: Final = 65_535
"""Bytes of a text: the width of MySQL's column."""
MAX_LONG_TEXT: Final = 262_144
"""Bytes of a traceback: many times what is recorded."""
_YEARS: Final = range(1970, 3000)
_MAX_32: Final = 2**31 - 1
_MAX_NUMBER: Final = 2**53 - 1
"""Of a row: after the largest of all numbers, SQLite would have none for the next one."""
_CLOCKS: Final = dt.timedelta(minutes=1)
"""How far the clocks of two hosts may differ."""
Rule = tuple[str, Callable[[Any], Any]]
"""What a column may hold, in words, and the function that makes it from a JSON value or raises `ValueError`."""


def _whole(low: int, high: int) -> Rule:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return f"a whole number from {low} to {high}", read


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _storable(value: str) -> str:
    if "\0" in value:
        raise ValueError
    value.encode()  # lone surrogates: UnicodeEncodeError, a ValueError
    return value


def _text(value: object, *, least: int = 0, characters: int | None = None, size: int | None = None) -> str:
    if not isinstance(value, str) or len(_storable(value)) < least:
        raise ValueError
    if (characters is not None and len(value) > characters) or (size is not None and len(value.encode()) > size):
        raise ValueError
    return value


def _owner(value: object) -> str:
    if not isinstance(value, str) or not (value == "" or is_id(_storable(value))):
        raise ValueError
    return value


def _key(column: str, value: object) -> str:
    if not isinstance(value, str) or not is_key(column, value):
        raise ValueError
    return value


def _status(value: object) -> AsyncTaskStatus:
    status = AsyncTaskStatus(value)
    if status not in SHOWN:
        raise ValueError
    return status


def _time(value: object) -> dt.datetime:
    if not isinstance(value, str) or not value.endswith("Z"):
        raise ValueError
    at = dt.datetime.fromisoformat(f"{value[:-1]}+00:00")
    if at.tzinfo is not dt.timezone.utc or at.year not in _YEARS:
        raise ValueError
    return at


def _json(value: object) -> object:
    """Not by calling itself: how deep the value is, is what is to be found out."""
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for one in level:
            if isinstance(one, str):
                _storable(one)
            elif isinstance(one, dict):
                below += one.keys()
                below += one.values()
            elif isinstance(one, list):
                below += one
        if not below:
            return value
        level = below
    raise ValueError


_RULES: Final[Mapping[Type, Rule]] = {
    Type.NUMBER: _whole(1, _MAX_NUMBER),
    Type.INTEGER: _whole(0, _MAX_32),
    Type.LONG: _whole(-MAX_INTEGER, MAX_INTEGER),
    Type.TEXT: (f"a text of at most {MAX_TEXT} bytes", partial(_text, size=MAX_TEXT)),
    Type.LONG_TEXT: (f"a text of at most {MAX_LONG_TEXT} bytes", partial(_text, size=MAX_LONG_TEXT)),
    Type.TASK_ID: (f"a text of 1 to {MAX_TASK_ID} characters", partial(_text, least=1, characters=MAX_TASK_ID)),
    Type.SHORT_ID: ("a text of at most 64 characters, without line breaks", _owner),
    Type.BOOLEAN: ("true or false", _boolean),
    Type.TIME: (f"a time such as 2026-01-31T14:05:00.000000Z, from {_YEARS[0]} to {_YEARS[-1]}", _time),
    Type.STATUS: ("a status", _status),
    Type.JSON: (f"JSON of at most {MAX_DEPTH} levels, with no text that databases refuse", _json),
}


def _rule(column: Column) -> Rule:
    if column.type is Type.KEY:
        return "a key of the fold", partial(_key, column.name)
    if column.type is Type.STRING:
        return f"a text of at most {column.limit} characters", partial(_text, characters=column.limit)
    return _RULES[column.type]


Rules = Mapping[str, tuple[bool, Rule]]
"""For each column of a table, whether it may be null, and what else it may hold."""
TASK_RULES: Final[Rules] = {column.name: (column.nullable, _rule(column)) for column in TASK}
ATTEMPT_RULES: Final[Rules] = {column.name: (column.nullable, _rule(column)) for column in ATTEMPT}


def read_row(values: Mapping[str, object], rules: Rules) -> dict[str, Any]:
    """A row of a bundle as the database takes it. Raises `ValueError`, which says which column has what."""
    row: dict[str, Any] = {}
    for name, (nullable, (allowed, read)) in rules.items():
        value = values[name]
        try:
            row[name] = None if value is None and nullable else read(value)
        except (ValueError, OverflowError):
            # A container may be too deep to be shown.
            shown = f"a {type(value).__name__}" if isinstance(value, (dict, list)) else f"{value!r:.80}"
            raise ValueError(f"{name} is {shown}; it must be {allowed}") from None
    return row


def objection(task: Mapping[str, Any], attempts: Sequence[Mapping[str, Any]]) -> str:
    """What does not go together in a task and its attempts; empty: nothing."""
    if (task["completed_at"] is None) == (task["status"] in TERMINAL):
        return f"the status {task['status']} does not go with its completed_at"
    for name in ("customer", "created_by"):
        if task[name] is not None and task[f"{name}_key"] != str(task[name]):
            return f"the {name}_key is not that of its {name}"
    if any(attempt[name] != task[name] for attempt in attempts for name in ("celery_task_id", "customer_key")):
        return "an attempt is of another task"
    if len({attempt["run_key"] for attempt in attempts}) < len(attempts):
        return "two attempts have the same run_key"
    return ""


def ends_too_early(task: Mapping[str, Any], attempts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether something ends before it begins, by more than clocks differ. It is no reason to refuse a record: a host
    may have had another time."""
    spans = [
        (task["created_at"], task["started_at"]),
        (task["started_at"], task["completed_at"]),
        *((attempt["started_at"], attempt["ended_at"]) for attempt in attempts),
    ]
    return any(begin is not None and end is not None and end < begin - _CLOCKS for begin, end in spans)
