"""What a check found, and what to do about it."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Level(str, enum.Enum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing; nothing needs to be done."""
    PROBLEM = "problem"

    def __str__(self) -> str:
        return self.value


class Finding(NamedTuple):
    """One check's result."""

    level: Level
    check: str
    """What was looked at, in a word or two."""
    text: str
    remedy: str = ""
    """What to do; empty where nothing needs to be done."""


def ok(check: str, text: str) -> Finding:
    """All is as it should be."""
    return Finding(Level.OK, check, text)


def note(check: str, text: str, remedy: str = "") -> Finding:
    """Worth knowing."""
    return Finding(Level.NOTE, check, text, remedy)


def problem(check: str, text: str, remedy: str) -> Finding:
    """Something to be done."""
    return Finding(Level.PROBLEM, check, text, remedy)


def reason(exc: BaseException) -> str:
    """What an exception says, in one line; the driver's own words where SQLAlchemy has wrapped them."""
    said = exc.strerror if isinstance(exc, OSError) else getattr(exc, "orig", None)
    text = " ".join(str(said or exc).split()).rstrip(".")
    return text[:300] or type(exc).__name__


def amount(size: float) -> str:
    """Bytes as one reads them: ``1.5 GB``."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"
