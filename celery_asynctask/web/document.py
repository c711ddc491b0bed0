"""Rows as the JSON of the API: names in camelCase, times in UTC, values as the text that the database has."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from pydantic.alias_generators import to_camel

from celery_asynctask.core.columns import VALUES
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.core.text import rfc3339
from celery_asynctask.queries.reader import ATTEMPT_COLUMNS, TASK_COLUMNS
from celery_asynctask.queries.types import AttemptRow, TaskRow


def _plain(value: object) -> str:
    if isinstance(value, dt.datetime):
        return rfc3339(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain).encode


def document(fields: Mapping[str, object], **raw: str) -> str:
    """A JSON object of fields, by their names here, and of members that are JSON already."""
    text = _encode({to_camel(name): value for name, value in fields.items()})
    members = "".join(f'"{to_camel(name)}":{value},' for name, value in raw.items())
    return f"{{{members}{text[1:]}" if fields else f"{{{members.rstrip(',')}}}"


def array(documents: Iterable[str]) -> str:
    """A JSON array of documents."""
    return f"[{','.join(documents)}]"


_WRITE: Final[dict[type, Callable[[Any], str]]] = {
    str: json.encoder.encode_basestring,
    int: str,
    dt.datetime: lambda at: f'"{at.isoformat("T", "microseconds")[:26]}Z"',  # `rfc3339`, without a call more
    AsyncTaskStatus: lambda status: f'"{status.value}"',
    bool: {True: "true", False: "false"}.__getitem__,
    type(None): lambda _: "null",
}
"""By the type of a column's value: a third of the time that an encoder takes which is asked row by row."""


def _members(names: Iterable[str], raw: Collection[str] = ()) -> list[tuple[str, bool]]:
    """What stands before the value of each column, and whether the value is JSON already."""
    return [(f'{"," if number else "{"}"{to_camel(name)}":', name in raw) for number, name in enumerate(names)]


def _row(row: TaskRow | AttemptRow, members: list[tuple[str, bool]]) -> str:
    parts = []
    for value, (before, is_json) in zip(row, members, strict=True):
        parts.append(before)
        parts.append(value if is_json and value is not None else _WRITE[type(value)](value))
    parts.append("}")
    return "".join(parts)


_TASK: Final = {
    True: _members(TASK_COLUMNS, VALUES),
    False: _members(name for name in TASK_COLUMNS if name not in VALUES),
}
_ATTEMPT: Final = _members(ATTEMPT_COLUMNS)


def task(row: TaskRow, *, values: bool) -> str:
    """A row with `reader.task_columns`."""
    return _row(row, _TASK[values])


def attempt(row: AttemptRow) -> str:
    """A row with `reader.attempt_columns`."""
    return _row(row, _ATTEMPT)
