"""Our loggers. Ids, names and errors come from messages and rows, so from anywhere: in our log lines, they can neither
begin a line of their own nor command the terminal that shows it."""

from __future__ import annotations

import logging
import traceback
from textwrap import indent
from typing import Any

from celery_asynctask.core.text import clean, one_line


def logger_of(name: str) -> logging.Logger:
    """The logger of that name, ``celery_asynctask`` or one of ours below another."""
    made = logging.getLogger(name)
    if not any(isinstance(one, _Inert) for one in made.filters):
        made.addFilter(_Inert())
    return made


class Lines(str):
    """A value of a log message that is several lines, made by us."""

    __slots__ = ()


class _Inert(logging.Filter):
    """Makes the values of a log record one line each, and indents a traceback, which may quote lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(map(_inert, record.args))
        if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
            # Every formatter of the standard library takes this; tools that read exceptions have `exc_info`.
            record.exc_text = indent(clean("".join(traceback.format_exception(*record.exc_info))).rstrip("\n"), "  ")
        return True


def _inert(value: Any) -> Any:
    if isinstance(value, (int, float, Lines)):
        return value
    return one_line(value) if isinstance(value, str) else _Shown(value)


class _Shown:
    """Another value, which becomes a text only if somebody looks at the record."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __str__(self) -> str:
        return one_line(str(self._value))

    def __repr__(self) -> str:
        return one_line(repr(self._value))
