"""Every error that a user reads says what to do, or what is allowed."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

import celery_asynctask
from celery_asynctask import errors

PACKAGE = Path(celery_asynctask.__file__).parent
OURS = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
CLICK = {"BadParameter", "ClickException", "UsageError"}
VERBS = (
    *("Add", "Begin", "Check", "Choose", "Close", "Correct", "Create", "Export", "Give", "Install", "Leave"),
    *(
        "Listen",
        "Look",
        "Make",
        "Put",
        "Run",
        "Search",
        "Set",
        "Shorten",
        "Start",
        "Take",
        "Try",
        "Unset",
        "Upgrade",
        "Use",
    ),
    *("Write", "pip install"),
)
INSTRUCTION: Final = re.compile(rf"(?:^|[.:;,] | or |and )`?(?:{'|'.join(VERBS)})\b", re.IGNORECASE)
"""A verb at the beginning of a clause."""
ALLOWED: Final = re.compile(
    r"\bmust (?:be|have)\b|\bneeds a\b|\b(?:keys|fields|settings(?: of celery-asynctask)?) are\b"
)
EXCEPTIONS: Final = {
    "The database {} {}": "ends with a sentence of `schema_problem`, which names the command to run",
    "The tables cannot be upgraded from version {}: {}": "ends with Alembic's own words",
    "Setting {} has the rule {}: {}": "ends with the text of a FilterError",
    "No task{} has the id {}": "a person sees what they typed; it names the id where the text is a number of the API",
}
"""Beginnings of texts without a remedy, each with the reason."""


class Message(NamedTuple):
    """The text of an error in the code; ``{}`` stands for an inserted value."""

    where: str
    text: str
    has_remedy: bool
    """Whether it is given as an argument of its own."""


def text_of(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(map(text_of, values))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return text_of(left) + text_of(right)
    return "{}"


def messages(code: str, where: str = "") -> Iterator[Message]:
    """The messages of our own errors, and of click's errors that we word, in a module."""
    tree = ast.parse(code)
    kinds = OURS | CLICK
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).rpartition(".")[2] in kinds for base in node.bases):
            kinds = kinds | {node.name}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in kinds and node.args:
            yield Message(f"{where}:{node.lineno}", text_of(node.args[0]), len(node.args) > 1)


@cache
def all_messages() -> list[Message]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return [one for path in paths for one in messages(path.read_text("utf-8"), str(path.relative_to(PACKAGE)))]


def helps(message: Message) -> bool:
    return message.has_remedy or bool(INSTRUCTION.search(message.text) or ALLOWED.search(message.text))


def is_excepted(message: Message) -> bool:
    return message.text.startswith(tuple(EXCEPTIONS))


def test_every_error_says_what_to_do() -> None:
    without = [one for one in all_messages() if not helps(one) and not is_excepted(one)]
    assert without == []
    assert len(all_messages()) > 60


@pytest.mark.parametrize("beginning", EXCEPTIONS)
def test_every_exception_is_needed(beginning: str) -> None:
    assert [one for one in all_messages() if one.text.startswith(beginning) and not helps(one)]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('raise StoreError(f"The database {url} is away.")', False),
        ('raise StoreError(f"The database {url} is away.", remedy(exc))', True),
        ('raise errors.StoreError("It is away. " f"Start {name}.")', True),
        ('raise StoreError("It is away." + " Try again.")', True),
        ('raise SettingsError("x is 5; it must be a text.")', True),
        ('class OurError(StoreError): ...\nraise OurError("It is away.")', False),
        ('error = click.UsageError("There is no terminal.")', False),
        ('error = click.UsageError("There is no terminal: use --yes.")', True),
        ('raise StoreError("The settings start with asynctask_.")', False),
        ("raise StoreError(text)", False),
    ],
)
def test_this_test_sees_what_says_nothing(code: str, expected: bool) -> None:
    [message] = messages(code)
    assert helps(message) is expected
