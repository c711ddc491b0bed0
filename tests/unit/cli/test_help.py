"""The help of every command, as a terminal of 80 columns shows it."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from celery_asynctask.cli import asynctask
from celery_asynctask.cli.group import Commands

COLUMNS = 80
MAX_SHORT = 45
"""Characters that are never cut in the list of commands, however long the names are."""
COMMANDS = Commands("asynctask").list_commands(click.Context(asynctask))
SENTENCE = re.compile(r"[A-Z].*[.]", re.DOTALL)


def command(name: str) -> click.Command:
    found = asynctask.get_command(click.Context(asynctask), name)
    assert found is not None
    return found


def help_of(*words: str) -> str:
    """As ``celery asynctask <words> --help`` prints it."""
    ended = CliRunner().invoke(asynctask, [*words, "--help"], prog_name="celery asynctask", terminal_width=COLUMNS)
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_the_list_of_commands_cuts_no_line() -> None:
    _, _, listed = help_of().partition("\nCommands:\n")
    width = max(map(len, COMMANDS))
    assert listed.splitlines() == [f"  {name:{width}}  {command(name).short_help}" for name in COMMANDS]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_in_the_list(name: str) -> None:
    short = command(name).short_help
    assert short is not None
    assert SENTENCE.fullmatch(short)
    assert len(short) < MAX_SHORT


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS)], ids=lambda words: " ".join(words) or "group")
def test_no_line_is_longer_than_a_terminal(words: tuple[str, ...]) -> None:
    assert [line for line in help_of(*words).splitlines() if len(line) > COLUMNS] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_examples(name: str) -> None:
    _, _, examples = help_of(name).partition("\n  Examples:\n")
    assert re.match(rf"    celery -A proj asynctask (--\S+ \S+ )?{name}\b", examples)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_text_is_a_sentence(name: str) -> None:
    """The help of the command and of each option begins with a capital letter and ends with a period."""
    text = command(name).help
    assert text is not None
    assert SENTENCE.fullmatch(text.strip())
    assert all(paragraph.rstrip().endswith(".") for paragraph in text.split("\n\n"))
    for option in command(name).params:
        if isinstance(option, click.Option):
            assert option.help is not None, option.name
            assert SENTENCE.fullmatch(option.help)
