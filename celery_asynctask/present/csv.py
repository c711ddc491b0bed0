"""Tables as CSV. Spreadsheets that open them run texts that look like formulas, which may read files and send them."""

from __future__ import annotations

import csv
import datetime as dt
import re
from collections.abc import Iterable, Sequence
from typing import IO, Any, Final

from celery_asynctask.core.text import rfc3339

_FORMULA: Final = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
"""The beginning of a formula, also after blanks and with the wide signs of East Asia."""
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)


def write(file: IO[str], names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a header and rows. None is empty, a time is in RFC 3339. An apostrophe precedes a text that a spreadsheet
    would take for a formula."""
    writer = csv.writer(file)
    writer.writerow(names)
    writer.writerows(map(_cell, row) for row in rows)


def _cell(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return rfc3339(value)
    if not isinstance(value, str):
        return value
    text = str(value)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text
