"""Every link of the Markdown files outside docs/ leads to an existing file and heading. Sphinx checks the links inside
docs/."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
LEFT_OUT = ("docs", "build", "dist", "node_modules", "example_worker_data", "data")
"""Directories that Sphinx checks, that tools create, or whose files belong to others."""


def pages() -> list[str]:
    """The Markdown files of the project, by path."""
    links_found = []
    for directory, below, names in os.walk(ROOT):
        below[:] = [one for one in below if one not in LEFT_OUT and (one[0] != "." or one == ".github")]
        links_found += [Path(directory, name).relative_to(ROOT).as_posix() for name in names if name.endswith(".md")]
    return sorted(links_found)


@cache
def tokens(path: Path) -> list[Token]:
    parsed = MarkdownIt().enable("table").parse(path.read_text(encoding="utf-8"))
    return [one for token in parsed for one in (token, *(token.children or ()))]


def links(path: Path) -> Iterator[str]:
    for token in tokens(path):
        target = token.attrs.get({"link_open": "href", "image": "src"}.get(token.type, ""))
        if isinstance(target, str):
            yield target


def anchors(path: Path) -> set[str]:
    """The headings of a page as link targets: lower case, a hyphen for a blank, a number for a repetition."""
    links_found: set[str] = set()
    seen: Counter[str] = Counter()
    for heading, inline in pairwise(tokens(path)):
        if heading.type == "heading_open":
            title = "".join(one.content for one in inline.children or () if one.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
            links_found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return links_found


def broken(path: Path) -> list[str]:
    """Links of a page that lead nowhere; links to other sites are not checked."""
    links_found = []
    for link in links(path):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = path.parent / unquote(parts.path) if parts.path else path
        if not leads(target, unquote(parts.fragment)):
            links_found.append(link)
    return links_found


def leads(target: Path, fragment: str) -> bool:
    """Whether the project has such a file, and the file such a heading."""
    if not target.exists() or not target.resolve().is_relative_to(ROOT.resolve()):
        return False
    return not fragment or (target.suffix == ".md" and fragment in anchors(target))


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    assert not broken(ROOT / page)


def test_the_pages_are_looked_at() -> None:
    assert {"README.md", "CHANGELOG.md"} <= set(pages())
    assert list(links(ROOT / "README.md"))


def test_a_broken_link_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# A `title`, twice\n\n# A title twice\n", encoding="utf-8")
    page = tmp_path / "page.md"
    good = ["other.md", "other.md#a-title-twice", "other.md#a-title-twice-1", "#here", "https://elsewhere.example/x"]
    bad = ["gone.md", "other.md#a-title-twice-2", "#there", "../outside.md", "picture.png"]
    (tmp_path.parent / "outside.md").touch()
    told = "".join(f"[one]({link})\n" for link in (*good, *bad[:-1]))
    page.write_text(f"# Here\n\n{told}\n![one]({bad[-1]})\n\n`[no](link.md)`\n", encoding="utf-8")
    assert broken(page) == bad
