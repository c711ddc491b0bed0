"""Stored values as folded JSON: digits as stored, and a mark wherever a value was changed. Pure.

The HTML is bounded in nodes, characters and depth, whatever the value; a link leads to the complete value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from itertools import islice
from typing import Final, NamedTuple

from markupsafe import Markup

from celery_asynctask.core.marks import MARK, is_reserved, mark_of, missing, note_of
from celery_asynctask.core.text import clean, json_line

MAX_NODES: Final = 2_000
"""Nodes of one value that are written."""
MAX_ITEMS: Final = 500
"""Items of one list or mapping that are written."""
MAX_TEXT: Final = 2_000
"""Characters of a string that are written."""
MAX_KEY: Final = 200
"""Characters of a key that are written."""
MAX_CHARACTERS: Final = 200_000
"""Characters of all strings of a value that are written."""
MAX_DEPTH: Final = 60
"""Levels that are written."""
MAX_PARSED: Final = 4_000_000
"""Characters of the largest value that is parsed."""
MAX_COUNTED: Final = 50_000
"""Nodes that are checked for marks."""
_OPEN: Final = 20
"""Items of the largest list or mapping that is unfolded."""


class Number(str):
    """A number as text: Python's numbers would lose digits."""

    __slots__ = ()


class Shown(NamedTuple):
    """A value as a page has it."""

    html: Markup
    missing: Mapping[str, int]
    """How often the value has each mark, such as ``redacted``."""


def parsed(text: str) -> object:
    """JSON with its numbers as `Number`. Raises `ValueError` if it is not JSON, too long or too deep."""
    if len(text) > MAX_PARSED:
        raise ValueError(f"it has {len(text):,} characters")
    try:
        value: object = json.loads(text, parse_int=Number, parse_float=Number, parse_constant=Number)
    except RecursionError:
        raise ValueError("it is too deep") from None
    return value


def shown(text: str, download: str) -> Shown:
    """A value, given as JSON text; ``download`` is the address of the complete value."""
    try:
        value = parsed(text)
    except ValueError as exc:
        return Shown(Markup(_mark("Not shown:", str(exc)) + _link(download, "download it")), {})  # noqa: S704
    writer = _Writer(download)
    writer.node(value, "", 0)
    return Shown(Markup("".join(writer.parts)), missing(value, MAX_COUNTED) if f'"{MARK}"' in text else {})  # noqa: S704


def _text(text: str) -> str:
    """Text as HTML."""
    return escape(clean(text), quote=True)


def _mark(*words: str) -> str:
    return f'<span class="mark">{_text(" ".join(words))}</span>'


def _link(address: str, title: str) -> str:
    return f' <a href="{_text(address)}">{_text(title)}</a>'


class _Writer:
    """Writes a value within the limits. Its strings are HTML: `_text` escapes all text of the value."""

    def __init__(self, download: str) -> None:
        self.download = download
        self.parts: list[str] = []
        self._nodes = MAX_NODES
        self._characters = MAX_CHARACTERS

    def node(self, value: object, key: str, depth: int) -> None:
        """Write a value as a line, or as an element that folds; ``key`` is HTML."""
        self._nodes -= 1
        note = ""
        if isinstance(value, dict) and (mark := mark_of(value)) is not None:
            note, value = _mark(mark.said(value)), value.get(mark.kept, _NOTHING)
        elif isinstance(value, dict) and value.keys() == {"__type__", "__value__"}:  # kombu's
            kind = value["__type__"]
            note, value = _mark(f"a {kind[:MAX_KEY] if isinstance(kind, str) else ''}"), value["__value__"]
        if isinstance(value, (dict, list)) and value and depth < MAX_DEPTH:
            self._container(value, key, note, depth)
            return
        line = self._scalar(value)
        self.parts.append(f'<div class="node">{key}{line}{" " if line and note else ""}{note}</div>')

    def _scalar(self, value: object) -> str:
        match value:
            case Number():
                return f'<span class="num">{_text(value[:MAX_TEXT])}</span>{self._rest(value)}'
            case str():
                size = max(0, min(MAX_TEXT, self._characters))
                self._characters -= min(len(value), size)
                return f'<span class="str">{_text(json_line(value[:size]))}</span>{self._rest(value, size)}'
            case None | True | False:
                return f'<span class="lit">{_LITERALS[value]}</span>'
            case dict() | list():
                if value:
                    return _mark("too deep to show:") + _link(self.download, "download all")
                return f'<span class="lit">{"{}" if isinstance(value, dict) else "[]"}</span>'
            case _:
                return ""

    def _rest(self, value: str, size: int = MAX_TEXT) -> str:
        left = len(value) - size
        return _link(self.download, f"… {left:,} more characters") if left > 0 else ""

    def _container(self, value: Mapping[str, object] | list[object], key: str, note: str, depth: int) -> None:
        of_all = note_of(value)
        items: Sequence[tuple[str | int, object]]
        if isinstance(value, list):
            items, unit, ends = list(enumerate(value if of_all is None else value[:-1])), "item", "[]"
        else:
            items = [(_own(name), item) for name, item in value.items() if of_all is None or item is not of_all]
            unit, ends = "key", "{}"
        if of_all is not None and (mark := mark_of(of_all)) is not None:
            note = f"{note} {_mark(mark.said(of_all))}".strip()
        size = len(items)
        opened = " open" if depth == 0 or (depth < 3 and size <= _OPEN) else ""
        summary = f"{ends[0]} {size:,} {unit}{'s' if size != 1 else ''} {ends[1]} {note}".rstrip()
        self.parts.append(f"<details{opened}><summary>{key}{summary}</summary>")
        written = 0
        for name, item in islice(items, MAX_ITEMS):
            if self._nodes <= 0:
                break
            label = json_line(name[:MAX_KEY]) if isinstance(name, str) else str(name)
            self.node(item, f'<span class="key">{_text(label)}</span>: ', depth + 1)
            written += 1
        if written < size:
            self.parts.append(f'<div class="node">{_link(self.download, f"… {size - written:,} more")}</div>')
        self.parts.append("</details>")


_NOTHING: Final = object()
_LITERALS: Final = {None: "null", True: "true", False: "false"}


def _own(name: str) -> str:
    """A key as the user wrote it: one that looks like a mark is stored with an additional $."""
    return name[1:] if name.startswith("$$") and is_reserved(name) else name


def _member(text: str | None, key: str) -> object:
    """A member of a mapping, given as JSON text; None: there is none."""
    if text is None or f'"{key}"' not in text:
        return None
    try:
        content = parsed(text)
    except ValueError:
        return None
    return content.get(key) if isinstance(content, dict) else None


def progress(text: str | None) -> Mapping[str, object] | None:
    """The progress that `CurrentTask.progress` wrote into a content, given as JSON text: ``done`` and ``total`` (None:
    unknown) as written, ``message``, and ``part``, from 0 to 1. None: there is none."""
    found = _member(text, "progress")
    if not isinstance(found, dict) or not isinstance(done := found.get("done"), Number):
        return None
    total, message = found.get("total"), found.get("message")
    total = total if isinstance(total, Number) else None
    part = None
    if total is not None and 0 < float(total) < float("inf") and float("-inf") < float(done) < float("inf"):
        part = min(1.0, max(0.0, float(done) / float(total)))
    return {
        "done": done[:40],
        "total": None if total is None else total[:40],
        "message": message[:MAX_TEXT] if isinstance(message, str) else "",
        "part": part,
    }


def member(text: str | None, key: str) -> str | None:
    """A string in a mapping, given as JSON text; None: there is none."""
    value = _member(text, key)
    return value[:MAX_TEXT] if isinstance(value, str) else None
