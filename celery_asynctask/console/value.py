"""Stored values as folded JSON: every digit as it was stored, and what is not there as it was says so. Pure.

What is written is bounded, whatever the value: in nodes, in characters and in depth. The rest is behind a link to the
whole value.
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
"""Of one value that are written."""
MAX_ITEMS: Final = 500
"""Of one list or mapping that are written."""
MAX_TEXT: Final = 2_000
"""Characters of a string."""
MAX_KEY: Final = 200
"""Characters of a key."""
MAX_CHARACTERS: Final = 200_000
"""Of all strings of a value."""
MAX_DEPTH: Final = 60
"""Levels that are written."""
MAX_PARSED: Final = 4_000_000
"""Characters of a value that is looked into."""
MAX_COUNTED: Final = 50_000
"""Nodes that are looked at for what is missing."""
_OPEN: Final = 20
"""Items of a list or mapping that is unfolded."""


class Number(str):
    """A number as it was written: Python's would lose digits."""

    __slots__ = ()


class Shown(NamedTuple):
    """A value as a page has it."""

    html: Markup
    missing: Mapping[str, int]
    """What is not there as it was, and how often, such as ``redacted``."""


def parsed(text: str) -> object:
    """JSON, its numbers as `Number`. Raises `ValueError` for what is none, or too long or too deep to look into."""
    if len(text) > MAX_PARSED:
        raise ValueError(f"it has {len(text):,} characters")
    try:
        found: object = json.loads(text, parse_int=Number, parse_float=Number, parse_constant=Number)
    except RecursionError:
        raise ValueError("it is too deep") from None
    return found


def shown(text: str, whole: str) -> Shown:
    """A value, given as JSON text; ``whole`` is where all of it is."""
    try:
        value = parsed(text)
    except ValueError as exc:
        return Shown(Markup(_mark("Not shown:", str(exc)) + _more(whole, "download it")), {})  # noqa: S704
    writer = _Writer(whole)
    writer.node(value, "", 0)
    return Shown(Markup("".join(writer.parts)), missing(value, MAX_COUNTED) if f'"{MARK}"' in text else {})  # noqa: S704


def _text(text: str) -> str:
    """Anything as HTML."""
    return escape(clean(text), quote=True)


def _mark(*words: str) -> str:
    return f'<span class="mark">{_text(" ".join(words))}</span>'


def _more(whole: str, what: str) -> str:
    return f' <a href="{_text(whole)}">{_text(what)}</a>'


class _Writer:
    """Writes a value, as far as there is room. Its strings are HTML: whatever comes from the value goes by `_text`."""

    def __init__(self, whole: str) -> None:
        self.whole = whole
        self.parts: list[str] = []
        self._nodes = MAX_NODES
        self._characters = MAX_CHARACTERS

    def node(self, value: object, key: str, depth: int) -> None:
        """One line, or what folds; ``key`` is HTML."""
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
                    return _mark("too deep to show:") + _more(self.whole, "download all")
                return f'<span class="lit">{"{}" if isinstance(value, dict) else "[]"}</span>'
            case _:
                return ""

    def _rest(self, value: str, size: int = MAX_TEXT) -> str:
        more = len(value) - size
        return _more(self.whole, f"… {more:,} more characters") if more > 0 else ""

    def _container(self, value: Mapping[str, object] | list[object], key: str, note: str, depth: int) -> None:
        of_all = note_of(value)
        items: Sequence[tuple[str | int, object]]
        if isinstance(value, list):
            items, what, ends = list(enumerate(value if of_all is None else value[:-1])), "item", "[]"
        else:
            items = [(_own(name), one) for name, one in value.items() if of_all is None or one is not of_all]
            what, ends = "key", "{}"
        if of_all is not None and (mark := mark_of(of_all)) is not None:
            note = f"{note} {_mark(mark.said(of_all))}".strip()
        size = len(items)
        opened = " open" if depth == 0 or (depth < 3 and size <= _OPEN) else ""
        said = f"{ends[0]} {size:,} {what}{'s' if size != 1 else ''} {ends[1]} {note}".rstrip()
        self.parts.append(f"<details{opened}><summary>{key}{said}</summary>")
        written = 0
        for name, one in islice(items, MAX_ITEMS):
            if self._nodes <= 0:
                break
            label = json_line(name[:MAX_KEY]) if isinstance(name, str) else str(name)
            self.node(one, f'<span class="key">{_text(label)}</span>: ', depth + 1)
            written += 1
        if written < size:
            self.parts.append(f'<div class="node">{_more(self.whole, f"… {size - written:,} more")}</div>')
        self.parts.append("</details>")


_NOTHING: Final = object()
_LITERALS: Final = {None: "null", True: "true", False: "false"}


def _own(name: str) -> str:
    """A key as the user has it: one that looks like ours is stored with one more $."""
    return name[1:] if name.startswith("$$") and is_reserved(name) else name


def _told(text: str | None, key: str) -> object:
    """A member of a mapping, given as JSON text; None: there is none."""
    if text is None or f'"{key}"' not in text:
        return None
    try:
        content = parsed(text)
    except ValueError:
        return None
    return content.get(key) if isinstance(content, dict) else None


def progress(text: str | None) -> Mapping[str, object] | None:
    """What `Note.progress` wrote into a content, given as JSON text: ``done`` and ``total`` (None: not known) as they
    were written, ``message``, and ``part``, from 0 to 1; None: nothing, or something else."""
    told = _told(text, "progress")
    if not isinstance(told, dict) or not isinstance(done := told.get("done"), Number):
        return None
    total, message = told.get("total"), told.get("message")
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
    found = _told(text, key)
    return found[:MAX_TEXT] if isinstance(found, str) else None
