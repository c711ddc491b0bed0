"""Words that docs/glossary.md bans do not stand where a user reads them: docs, help texts, messages, pages."""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

import celery_asynctask
from celery_asynctask.cli import asynctask

ROOT = Path(__file__).parents[2]
PACKAGE = Path(celery_asynctask.__file__).parent
HEADER = ["We say", "not"]
"""The header of the table in the glossary: a word, and the banned words for it, separated by commas."""
MARKDOWN = MarkdownIt("commonmark").enable("table")


def prose(tokens: list[Token]) -> Iterator[str]:
    """The text of Markdown, piece by piece, without code and without a table that has `HEADER`."""
    header: list[str] | None = None
    for number, token in enumerate(tokens):
        if token.type == "table_open":
            header = []
        elif token.type == "table_close":
            header = None
        elif token.type == "inline":
            text = "".join(
                " " if one.type in ("softbreak", "hardbreak", "code_inline") else one.content
                for one in token.children or ()
                if one.type in ("text", "softbreak", "hardbreak", "code_inline")
            )
            if header is not None and tokens[number - 1].type == "th_open":
                header.append(text)
            if header != HEADER:
                yield text


def cells(tokens: list[Token]) -> Iterator[list[str]]:
    """The rows of the table that has `HEADER`, without it."""
    rows: list[list[str]] = []
    for number, token in enumerate(tokens):
        if token.type == "table_open":
            rows = []
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and tokens[number - 1].type in ("th_open", "td_open"):
            rows[-1].append(token.content)
        elif token.type == "table_close" and rows[0] == HEADER:
            yield from rows[1:]


def banned(glossary: str) -> dict[str, str]:
    """The right word for each banned word or phrase."""
    found: dict[str, str] = {}
    for said, others in cells(MARKDOWN.parse(glossary)):
        found.update((one.strip(), said) for one in others.split(","))
    return found


def of_markdown(text: str) -> str:
    return "\n".join(prose(MARKDOWN.parse(text)))


def of_template(text: str) -> str:
    """The text of a page, of the attributes that are read out or shown, and the texts in its expressions."""
    text = re.sub(r"\{#.*?#\}", " ", text, flags=re.DOTALL)
    expressions = r"\{%.*?%\}|\{\{.*?\}\}"
    literals = [
        one.strip("\"'")
        for expression in re.findall(expressions, text, re.DOTALL)
        for one in re.findall(r"\"[^\"]*\"|'[^']*'", expression)
    ]
    shown = re.sub(expressions, " ", text, flags=re.DOTALL)
    attributes = re.findall(r'\b(?:title|aria-label|placeholder|alt|value)="([^"]*)"', shown)
    return html.unescape("\n".join([re.sub(r"<[^>]*>", " ", shown), *attributes, *literals]))


def of_command(command: click.Command) -> str:
    parts = [command.help, command.short_help, command.epilog]
    parts += [getattr(one, "help", None) for one in command.params]
    return "\n".join(one for one in parts if one)


def of_code(code: str) -> str:
    """The texts in code that are no docstrings, of which messages are made; a value in one is a blank."""
    tree = ast.parse(code)
    docstrings = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}
    formatted = [one for one in ast.walk(tree) if isinstance(one, ast.JoinedStr)]
    parts = {id(part) for one in formatted for part in one.values}
    texts = [
        "".join(str(part.value) if isinstance(part, ast.Constant) else " " for part in one.values) for one in formatted
    ]
    texts += [
        one.value
        for one in ast.walk(tree)
        if isinstance(one, ast.Constant) and isinstance(one.value, str) and id(one) not in docstrings | parts
    ]
    return "\n|\n".join(texts)


def unreleased(changelog: str) -> str:
    return changelog.partition("## [Unreleased]")[2].partition("\n## [")[0]


def texts() -> Iterator[tuple[str, str]]:
    """Everything that a user reads, each text with a name."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / ".github").glob("*.md"))]:
        if "_build" not in path.parts:
            yield str(path.relative_to(ROOT)), of_markdown(path.read_text(encoding="utf-8"))
    yield "CHANGELOG.md", of_markdown(unreleased((ROOT / "CHANGELOG.md").read_text(encoding="utf-8")))
    for path in sorted((PACKAGE / "console" / "templates").glob("*.html")):
        yield path.name, of_template(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py")):
        yield str(path.relative_to(PACKAGE)), of_code(path.read_text(encoding="utf-8"))
    context = click.Context(asynctask)
    yield "celery asynctask", of_command(asynctask)
    for name in asynctask.list_commands(context):
        command = asynctask.get_command(context, name)
        assert command is not None
        yield f"celery asynctask {name}", of_command(command)


def uses(text: str, phrase: str) -> list[str]:
    """The places where a text has the phrase, in any case and across lines, with some text around."""
    words = r"\s+".join(map(re.escape, phrase.split()))
    found = re.finditer(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE)
    return [" ".join(text[max(0, one.start() - 30) : one.end() + 30].split()) for one in found]


def test_words_that_are_not_used_do_not_stand_anywhere() -> None:
    not_used = banned((ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"))
    assert not_used
    found = [
        f"{name}: {phrase!r}, we say {said!r}: ...{around}..."
        for name, text in texts()
        for phrase, said in not_used.items()
        for around in uses(text, phrase)
    ]
    assert not found, "\n".join(found)


GLOSSARY = """
Prose that says tenant.

| We say | not |
| --- | --- |
| customer | tenant, whose |
| `creator` | who asked |

| other | table |
| --- | --- |
| tenant | here |
"""


def test_what_is_read_of_a_glossary() -> None:
    assert banned(GLOSSARY) == {"tenant": "customer", "whose": "customer", "who asked": "`creator`"}
    text = of_markdown(GLOSSARY)
    assert (len(uses(text, "tenant")), uses(text, "whose"), uses(text, "who asked")) == (2, [], [])


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("It was asked\nfor *now*.", True),
        ("## Asked for", True),
        ("Of who **asked** for it.", True),
        ("| a | b |\n| - | - |\n| c | asked for |", True),
        ("Say `asked for`.", False),
        ("```\nasked for\n```", False),
        ("It tasked for long, and asked forever.", False),
    ],
)
def test_where_a_phrase_stands_in_markdown(text: str, there: bool) -> None:
    assert bool(uses(of_markdown(text), "asked for")) is there


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("<p>It was <b>asked</b>\n for.</p>", True),
        ('<a title="asked for" href="/x">y</a>', True),
        ("{# asked for #}{% if asked for %}{{ asked for }}", False),
        ('<a class="asked for">y</a>', False),
        ('{{ titles.get(404, "asked for") }}', True),
    ],
)
def test_where_a_phrase_stands_in_a_page(text: str, there: bool) -> None:
    assert bool(uses(of_template(text), "asked for")) is there


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ('raise E("It was asked " "for.")', True),
        ('raise E(f"{one} was asked "\n        f"for by {other}.")', True),
        ('def f():\n    """It was asked for."""', False),
        ("asked_for = 1  # asked for", False),
    ],
)
def test_where_a_phrase_stands_in_code(text: str, there: bool) -> None:
    assert bool(uses(of_code(text), "asked for")) is there


def test_help_texts_are_read() -> None:
    command = click.Command("x", help="One thing.", params=[click.Option(["--y"], help="Another.")])
    assert of_command(command) == "One thing.\nAnother."
    assert any(name == "celery asynctask list" and "SEARCH" in text for name, text in texts())
