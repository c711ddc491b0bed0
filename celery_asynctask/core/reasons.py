"""Reasons as data: codes, and the fields that a sentence about them needs. `present` makes the sentences. Pure."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

_NOT_SENT: Final = re.compile(r"Not sent: upstream task (.{1,300}?) \[([^\]\n]*)\] ended with ", re.DOTALL)
_NOT_SENT_EACH: Final = re.compile(r"\A(?:Not sent: upstream task [^\n]{1,300}? \[[^\]\n]*\] ended with )+")


class NotSent(NamedTuple):
    """Why a step of a workflow is never sent; as text, it is the step's error message."""

    name: str
    """Of the task that ended without success before it."""
    task_id: str
    reason: str
    """What that ended with; empty: no message."""

    def __str__(self) -> str:
        return f"Not sent: upstream task {self.name} [{self.task_id}] ended with {self.reason or 'no message'}"

    @classmethod
    def parse(cls, text: str) -> NotSent | None:
        """None: something else."""
        found = _NOT_SENT.match(text)
        return None if found is None else cls(found[1], found[2], text[found.end() :])


def first_reason(text: str) -> str:
    """An error message without those `NotSent` that it begins with, one for each step in between; the text itself where
    it begins with none."""
    return _NOT_SENT_EACH.sub("", text)


class Code(enum.Enum):
    """Why a task is not sent again, or what is to be known before; with the fields of each."""

    STEP = enum.auto()
    UNFINISHED = enum.auto()
    """status"""
    NOT_RECORDED = enum.auto()
    """name: args or kwargs"""
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
    """tasks, since: earlier reruns were looked for among so many tasks, which were asked for since then"""


class Reason(NamedTuple):
    """One of them."""

    code: Code
    fields: Mapping[str, Any] = {}
    remedy: str | None = None
    """Field of `operations.rerun.Options` by which who wants it says so; None: there is none."""
