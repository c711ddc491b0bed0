"""The README and the pages of docs/ as tests read them: their blocks of code, and the table of the columns.

``python -m tests.integration.documents`` writes that table again.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from markdown_it import MarkdownIt

from celery_asynctask.core.columns import TASK, Type

ROOT: Final = Path(__file__).parents[2]
README: Final = "README.md"
ROW: Final = "docs/row.md"


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    """Line of its opening fence, from 1."""
    language: str
    text: str

    @property
    def name(self) -> str:
        """The file that its first line names; empty if it names none."""
        found = re.match(r"# (\S+\.\w+)\n", self.text)
        return found[1] if found else ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line} ({self.language} {self.text[:40]!r})"


def pages() -> list[str]:
    """The README and every page of docs/, by path."""
    found = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return [README, *(one for one in found if not one.startswith("docs/_build/"))]


@cache
def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@cache
def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    for token in MarkdownIt().enable("table").parse(text(page)):
        assert token.type != "code_block", f"{page}: an indented block has no language: {token.content!r}"
        if token.type == "fence" and token.map is not None:
            found.append(Block(page, token.map[0] + 1, token.info.strip(), token.content))
    return found


def file(name: str) -> str:
    """The source of a file that a page shows; every page that shows it shows the same."""
    found = {one.text for page in pages() for one in blocks(page) if one.name == name}
    assert len(found) == 1, f"{len(found)} versions of {name}"
    return found.pop()


KINDS: Final = {
    **dict.fromkeys((Type.NUMBER, Type.INTEGER, Type.LONG), "integer"),
    Type.BOOLEAN: "boolean",
    Type.TEXT: "text",
    Type.TIME: "time",
    Type.STATUS: "enum",
    Type.JSON: "JSON",
}
"""Names of types in the docs; any other type is a string."""
COLUMN: Final = re.compile(r"(?:^\| `\w+` \| \w+ \| .* \|\n)+", re.MULTILINE)
"""The rows of the table of columns."""


def columns() -> str:
    """The rows as they must be."""
    return "".join(
        f"| `{one.name}` | {KINDS.get(one.type, 'string')} | {one.doc.replace('``', '`')} |\n" for one in TASK
    )


def main() -> None:
    page = ROOT / ROW
    page.write_text(COLUMN.sub(lambda _: columns(), text(ROW), count=1), encoding="utf-8")


if __name__ == "__main__":
    main()
