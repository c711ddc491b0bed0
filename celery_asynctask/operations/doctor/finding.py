"""The result of a check, and what to do about it."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Level(str, enum.Enum):
    """How serious a finding is."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing; nothing needs to be done."""
    PROBLEM = "problem"


class Finding(NamedTuple):
    """The result of a check."""

    level: Level
    check: str
    """What was checked, in a word or two."""
    text: str
    remedy: str = ""
    """What to do; empty if nothing needs to be done."""


class Check:
    """Makes the findings about one subject, which ``name`` says in a word or two."""

    def __init__(self, name: str) -> None:
        self._name = name

    def ok(self, text: str) -> Finding:
        """All is as it should be."""
        return Finding(Level.OK, self._name, text)

    def note(self, text: str, remedy: str = "") -> Finding:
        """Worth knowing."""
        return Finding(Level.NOTE, self._name, text, remedy)

    def problem(self, text: str, remedy: str) -> Finding:
        """Something to be done."""
        return Finding(Level.PROBLEM, self._name, text, remedy)
