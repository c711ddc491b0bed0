"""Texts that are safe for a terminal, and their width on it; durations, sizes, times and errors as texts. Pure."""

from __future__ import annotations

import datetime as dt
import json
import re
import unicodedata
from typing import Any, Final

_REPLACED: Final = "\N{REPLACEMENT CHARACTER}"
_QUOTING: Final = re.compile(r"\n(?:DETAIL|CONTEXT|LINE [0-9]+):")
_ASKING: Final = re.compile(r"\n\tIs the server running [^\n]*\?")
"""A question of libpq, to which the remedy is the answer."""


def clean(text: str) -> str:
    """A text with a replacement character in place of control characters, which a terminal would obey, and of those
    that change the direction of writing: names and errors come from anywhere. Tabs and line breaks stay."""
    return text if text.isprintable() else "\n".join(map(_clean_line, text.replace("\r\n", "\n").split("\n")))


def _clean_line(line: str) -> str:
    return line if line.isprintable() else "".join(map(_clean, line))


def _clean(char: str) -> str:
    return char if char.isprintable() or char == "\t" or unicodedata.category(char) == "Zs" else _REPLACED


def one_line(text: str) -> str:
    """`clean`, on one line: a cell of a table that began a line of its own could forge a row."""
    return " ↵ ".join(clean(text).expandtabs(1).split("\n"))


def width(text: str) -> int:
    """The columns that a clean text takes on a terminal."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


def placed(text: str, columns: int, *, right: bool = False) -> str:
    """A clean text filled with blanks to ``columns``; ``right`` aligns it to the right."""
    blanks = " " * (columns - width(text))
    return blanks + text if right else text + blanks


def json_line(value: Any, *, ascii_only: bool = False) -> str:
    """A value as a line of JSON; characters that a terminal would obey are written as JSON escapes."""
    line = json.dumps(value, default=jsonable, ensure_ascii=ascii_only)
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line)


def jsonable(value: Any) -> Any:
    """What `json.dumps` writes for a datetime (`rfc3339`) and a timedelta (seconds). Raises `TypeError` for others."""
    if isinstance(value, dt.datetime):
        return rfc3339(value)
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    raise TypeError(f"not JSON: {type(value).__name__}")


def rfc3339(at: dt.datetime) -> str:
    """A time in UTC, to the microsecond: ``2026-01-31T14:05:00.123456Z``. A datetime without a zone is in UTC."""
    in_utc = at if at.tzinfo is None else at.astimezone(dt.timezone.utc)
    return f"{in_utc.isoformat('T', 'microseconds')[:26]}Z"


def span(seconds: float | None) -> str:
    """A duration in at most two units: ``340 ms``, ``12.3 s``, ``4 m 05 s``, ``2 d 03 h``; empty for None."""
    if seconds is None:
        return ""
    if seconds < 0:
        return f"-{span(-seconds)}"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    for size, name, part_size, part_name in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if rounded >= size:
            return f"{rounded // size} {name} {rounded % size // part_size:02d} {part_name}"
    return f"{rounded} s"


def amount(size: float) -> str:
    """A size in bytes, for people: ``1.5 GB``."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def reason(exc: BaseException) -> str:
    """An exception's text on one line, `clean`, at most 500 characters, without a full stop: the driver's own where
    SQLAlchemy wraps it, the system's of an `OSError`; the class name where there is no text. The lines in which
    PostgreSQL quotes values of the row or of the statement are left out, and its question whether the server runs."""
    cause = exc.strerror if isinstance(exc, OSError) else getattr(exc, "orig", None)
    primary = getattr(getattr(cause, "diag", None), "message_primary", None)  # psycopg's: the labels may be translated
    text = primary or _ASKING.sub("", _QUOTING.split(str(cause or exc), 1)[0])
    text = clean(" ".join(text.split())).rstrip(".")
    return text[:500] or type(exc).__name__
