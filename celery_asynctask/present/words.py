"""How `explain` says times, numbers and what errors say. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, Final, NamedTuple

MOST_TEXT: Final = 400
"""Characters of an error's text that are told."""


class Words(NamedTuple):
    """How things are said, and when."""

    now: dt.datetime
    show: Callable[[Any], str]
    """A time, length of time or number as text."""

    def at(self, moment: dt.datetime | None) -> str:
        """A moment; empty where it is not known."""
        return "" if moment is None else self.show(moment)

    def since(self, moment: dt.datetime) -> str:
        """A moment in the past and how long ago it is."""
        return f"{self.show(moment)} ({self.show(max(self.now - moment, dt.timedelta()))} ago)"

    def runs(self, count: int) -> str:
        """So many runs have."""
        return "One run has" if count == 1 else f"{self.show(count)} runs have"


def error(kind: str | None, message: str | None) -> str:
    """An error's class and text, without a full stop."""
    return f"{kind or 'an error'}: {in_a_line(message)}" if message else kind or "an error"


def in_a_line(message: str | None) -> str:
    """An error's text in one line, bounded, without a full stop."""
    line = " ".join((message or "").split())
    return (line if len(line) <= MOST_TEXT else f"{line[:MOST_TEXT]}…").rstrip(".")
