"""What comes from messages and rows forges no log line and commands no terminal."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

import celery_asynctask
from celery_asynctask.core.logs import Lines, logger_of
from celery_asynctask.errors import failures, report

HOSTILE = "id\n2026-01-01 ERROR forged\r\x1b[2J\x9b31m\u202e\u2028x"


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What a handler of the standard library writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("LINE %(message)s"))
    logger = logging.getLogger("celery_asynctask")
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)
    failures.clear()


def is_inert(text: str) -> bool:
    """Whether every line is ours, or a part of a traceback, and none has what a terminal obeys."""
    lines = text.split("\n")[:-1]
    return all(line.isprintable() and line.startswith(("LINE ", "  ")) for line in lines)


@pytest.mark.parametrize("name", ["celery_asynctask", "celery_asynctask.recorder", "celery_asynctask.journal"])
def test_values_are_one_line(name: str, logged: io.StringIO) -> None:
    logger_of(name).error("of %s, %r, %.200s, %s and %d", HOSTILE, HOSTILE, HOSTILE, ValueError(HOSTILE), 5)
    assert logged.getvalue().count("forged") == 4
    assert logged.getvalue().endswith(" and 5\n")
    assert is_inert(logged.getvalue())


def test_a_traceback_is_indented(logged: io.StringIO) -> None:
    class OddError(Exception):
        def __repr__(self) -> str:
            return HOSTILE

    def fail(exc: Exception) -> NoReturn:
        raise exc

    for exc in (ValueError(HOSTILE), OddError(HOSTILE)):
        with contextlib.suppress(ValueError, OddError):
            fail(exc)
        report("on_received", HOSTILE, exc)
    assert "  Traceback (most recent call last):" in logged.getvalue()
    assert is_inert(logged.getvalue())


def test_our_own_lines_stay(logged: io.StringIO) -> None:
    logger_of("celery_asynctask").error("at%s", Lines("\n  File 1\n  File 2"))
    assert logged.getvalue() == "LINE at\n  File 1\n  File 2\n"


def test_a_logger_gets_it_once() -> None:
    assert logger_of("celery_asynctask") is logger_of("celery_asynctask")
    assert len(logging.getLogger("celery_asynctask").filters) == 1


def test_every_logger_of_ours_is_one_of_these() -> None:
    for path in Path(celery_asynctask.__file__).parent.rglob("*.py"):
        if path.name != "logs.py":
            calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
            names = [ast.unparse(call.args[0]) for call in calls if ast.unparse(call.func).endswith("getLogger")]
            assert not [name for name in names if not name.startswith("'uvicorn.")], path
