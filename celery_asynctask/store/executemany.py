"""Partial rows as plain positional parameters, for databases that do not read events themselves (SQLite, MySQL,
MariaDB).

Values are converted here as SQLAlchemy's types would convert them: binding forty columns through those types takes
longer than the database takes to store the row.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import Dialect, Table
from sqlalchemy.sql.dml import Insert

from celery_asynctask.core.event import json_text
from celery_asynctask.store.tables import JsonValue, UTCDateTime

_EPOCH: Final = dt.datetime(1970, 1, 1)
"""Naive, as the times of these databases are."""
_SECOND: Final = 1_000_000
_SECONDS_KEPT: Final = 10_000

_seconds: dict[int, str] = {}
"""Seconds since the epoch, each with its text. Many events share a second."""


def time_text(microseconds: int) -> str:
    """The text of a UTC time, given in microseconds since the epoch, as these databases take it.

    Raises `OverflowError` or `TypeError` for a value that is not a time.
    """
    second, rest = divmod(microseconds, _SECOND)
    text = _seconds.get(second)
    if text is None:
        if len(_seconds) >= _SECONDS_KEPT:
            _seconds.clear()
        text = _seconds[second] = (_EPOCH + dt.timedelta(seconds=second)).isoformat(sep=" ")
    return f"{text}.{rest:06d}"


class Rows:
    """An upsert with positional parameters, and the conversion of partial rows into them."""

    def __init__(self, statement: Insert, table: Table, dialect: Dialect) -> None:
        style = "qmark" if dialect.name == "sqlite" else "format"
        names = [column.name for column in table.columns if column.name != "id"]  # the database assigns it
        dialect_of: Any = type(dialect)
        compiled = statement.compile(dialect=dialect_of(paramstyle=style), column_keys=names)
        self.sql = str(compiled)
        self._values = itemgetter(*names)
        converters = enumerate(_converter(table, name) for name in names)
        self._converters = [(number, convert) for number, convert in converters if convert is not None]
        if getattr(compiled, "positiontup", None) != names:
            raise AssertionError("the statement's parameters are not its columns")

    def parameters(self, partials: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
        """One tuple per row. A value of the wrong type raises whatever Python raises for it."""
        rows = [list(self._values(partial)) for partial in partials]
        for number, convert in self._converters:
            for row in rows:
                if row[number] is not None:
                    row[number] = convert(row[number])
        return list(map(tuple, rows))


def _converter(table: Table, name: str) -> Callable[[Any], Any] | None:
    kind = table.c[name].type
    if isinstance(kind, UTCDateTime):
        return time_text
    return json_text if kind is JsonValue else None
