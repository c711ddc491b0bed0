"""Reasons as data: codes, with the fields that a sentence needs. `present.reasons` makes the sentences. Pure."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

_NOT_SENT: Final = re.compile(r"Not sent: upstream task (.{1,300}?) \[([^\]\n]*)\] ended with ", re.DOTALL)
_NOT_SENT_EACH: Final = re.compile(r"\A(?:Not sent: upstream task [^\n]{1,300}? \[[^\]\n]*\] ended with )+")


class NotSent(NamedTuple):
    """Why a step of a workflow is never sent. As text, it is the step's error message."""

    name: str
    """Name of the task before it, which ended without success."""
    task_id: str
    """Id of that task."""
    reason: str
    """Error message of that task; empty: it has none."""

    def __str__(self) -> str:
        return f"Not sent: upstream task {self.name} [{self.task_id}] ended with {self.reason or 'no message'}"

    @classmethod
    def parse(cls, text: str) -> NotSent | None:
        """Read an error message; None: it is another one."""
        match = _NOT_SENT.match(text)
        return None if match is None else cls(match[1], match[2], text[match.end() :])


def first_reason(text: str) -> str:
    """An error message without the `NotSent` prefixes at its beginning, of which each step in between added one."""
    return _NOT_SENT_EACH.sub("", text)


class Code(enum.Enum):
    """Why a task cannot be rerun, or what to know before it is. The docstring of each lists its fields."""

    ELSEWHERE = enum.auto()
    """The record is another one than the app's"""
    STEP = enum.auto()
    UNFINISHED = enum.auto()
    """status"""
    NOT_RECORDED = enum.auto()
    """name: args or kwargs"""
    NOT_SAID = enum.auto()
    """name: the same; the sender does not know the task, and no worker has said them yet"""
    NOT_WHOLE = enum.auto()
    """name; detail: which parts, and how"""
    WRONG_KIND = enum.auto()
    """name, kind"""
    SENT_BEFORE = enum.auto()
    """times, last: the task id of the latest"""
    JUST_SENT = enum.auto()
    UNREADABLE = enum.auto()
    """detail"""
    UNKNOWN_NAME = enum.auto()
    UNCHECKED_NAME = enum.auto()
    MISFIT = enum.auto()
    """detail"""
    NO_ROUTE = enum.auto()
    """detail"""
    UNSENDABLE = enum.auto()
    MAY_RUN_TWICE = enum.auto()
    """status"""
    CAME_BY = enum.auto()
    """queue"""
    CONTENT_CHANGED = enum.auto()
    CONTENT_TOO_LONG = enum.auto()
    CONTENT_NOT_WHOLE = enum.auto()
    BOUNDED = enum.auto()
    """tasks, since: only so many tasks, created since then, were searched for earlier reruns"""


class Reason(NamedTuple):
    """A code with its fields."""

    code: Code
    fields: Mapping[str, Any] = {}
    remedy: str | None = None
    """Field of `operations.rerun.Options` that lets the rerun go ahead nevertheless; None: there is none."""
