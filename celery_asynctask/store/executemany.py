"""Partials as rows of plain parameters, for databases that do not read events themselves (SQLite, MySQL, MariaDB).

What SQLAlchemy's types would make of each value, made at once: binding forty columns by way of them takes longer than
the database takes for the row.
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
"""Naive, as these databases' times are."""
_SECOND: Final = 1_000_000
_SECONDS_KEPT: Final = 10_000

_seconds: dict[int, str] = {}
"""Seconds since the epoch as the databases write them: many events share theirs."""


def time_text(microseconds: int) -> str:
    """A time as these databases take it. Raises `OverflowError` or `TypeError` for what is none."""
    second, rest = divmod(microseconds, _SECOND)
    text = _seconds.get(second)
    if text is None:
        if len(_seconds) >= _SECONDS_KEPT:
            _seconds.clear()
        text = _seconds[second] = (_EPOCH + dt.timedelta(seconds=second)).isoformat(sep=" ")
    return f"{text}.{rest:06d}"


class Rows:
    """An upsert with positional parameters, and what makes them of a partial row."""

    def __init__(self, statement: Insert, table: Table, dialect: Dialect) -> None:
        style = "qmark" if dialect.name == "sqlite" else "format"
        names = [column.name for column in table.columns if column.name != "id"]  # which the database counts
        dialect_of: Any = type(dialect)
        compiled = statement.compile(dialect=dialect_of(paramstyle=style), column_keys=names)
        self.sql = str(compiled)
        self._values = itemgetter(*names)
        converters = enumerate(_converter(table, name) for name in names)
        self._converters = [(number, convert) for number, convert in converters if convert is not None]
        if getattr(compiled, "positiontup", None) != names:
            raise AssertionError("the statement's parameters are not its columns")

    def parameters(self, partials: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
        """One tuple a row. Raises what Python raises for a value of the wrong kind."""
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
