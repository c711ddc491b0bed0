"""Merges converted mappings, and keeps the result within the limit of one.

Pure. It reads JSON that `payload.Encoder` made, and keeps its marks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from celery_asynctask.capture.payload.walk import MARKER, Walk
from celery_asynctask.core.marks import MARK, note_of

_CUT: Final = {MARK: "cut", "type": "dict"}
"""The mark of a mapping that was cut, without its size, which is not known."""


class Merged:
    """A mapping that others update, within ``room`` bytes (and `payload.OVERRUN` more for the marks).

    If it gets too large, its long values are cut, so that small ones stay. The keys in ``begun`` have half of the room
    for themselves; the keys of the last update that were there before, and those in ``always``, have half of the rest;
    then come the others, older ones first. Cutting makes more room than one update needs, so that each of many updates
    costs in proportion to its own size.
    """

    __slots__ = ("_always", "_begun", "_room", "_sizes", "content")

    def __init__(self, begun: Mapping[str, Any], room: int, always: frozenset[str] = frozenset()) -> None:
        self._begun = begun.keys() - {MARK}
        self._room = room
        self._always = always
        self._sizes: dict[str, int] = {}
        """Bytes of each member, with its key."""
        self.content: dict[str, Any] = {}
        """The result, as JSON. Callers must not change it."""
        self.update(begun)

    def update(self, members: Mapping[str, Any]) -> None:
        """Update the mapping, key by key, with ``members``, which an encoder made from a mapping."""
        if isinstance(members.get(MARK), str):  # the encoder has made it a mark as a whole
            members = {MARK: members}
        again = {key for key in members if key in self.content}
        kept = self.content.get(MARK)
        self._sizes.update((key, _written(key) + _written(value) + 4) for key, value in members.items())
        self.content.update(members)
        if (note := self.content.get(MARK)) is not None:
            self.content[MARK] = _CUT if "cut" in (_kind(kept), _kind(note)) else note
        if sum(self._sizes.values()) > self._room:
            self._shorten(again)

    def _shorten(self, again: set[str]) -> None:
        room = self._room - self._room // 8
        content = dict(self.content)
        note = content.pop(MARK, None)
        parts: tuple[dict[str, Any], ...] = ({}, {}, {})
        for key, value in content.items():
            parts[0 if key in self._begun else 1 if key in again or key in self._always else 2][key] = value
        fitted: dict[str, Any] = {}
        waiting = [part for part in parts if part]
        for number, part in enumerate(waiting, 1):
            shortened = fit(part, room if number == len(waiting) else room // 2)
            room -= _written(shortened)
            fitted |= shortened
        note = fitted.pop(MARK, note)
        self.content = {key: fitted[key] for key in content if key in fitted}
        if note is not None:
            self.content[MARK] = _CUT if _kind(note) == "cut" else note
        self._sizes = {key: _written(key) + _written(value) + 4 for key, value in self.content.items()}


def fit(value: Any, room: int) -> Any:
    """A converted value, cut wherever it is long to ``room`` bytes of JSON (and more for its marks) if it is larger."""
    if _written(value) <= room:
        return value
    if isinstance(value, str):
        return _text(value, len(value), "str", room)
    if isinstance(value, list):
        return _elements(value, room)
    if isinstance(value, dict):
        return _marked(value, room) if isinstance(value.get(MARK), str) else _members(value, room)
    return value  # a number has its own limit


def _text(value: str, size: int, kind: str, room: int) -> dict[str, Any]:
    return Walk(room, None, wire=False, tight=True).cut(value, size, kind)


def _marked(value: dict[str, Any], room: int) -> dict[str, Any]:
    if isinstance(head := value.get("head"), str):
        return _text(head, value.get("size", len(head)), value.get("type", "str"), room)
    if isinstance(text := value.get("text"), str):
        return _text(text, len(text), "str", room)
    return {**value, "value": fit(value["value"], room - MARKER)} if "value" in value else value


def _elements(value: list[Any], room: int) -> list[Any]:
    note = note_of(value)
    elements = value if note is None else value[:-1]
    kept: list[Any] = []
    room -= MARKER
    for number, element in enumerate(elements, 1):
        if room < 0:
            break
        kept.append(fit(element, room if number == len(elements) else room // 2))
        room -= _written(kept[-1]) + 2
    if note is None and len(kept) < len(elements):
        note = {MARK: "cut", "type": "list", "size": len(elements)}
    return kept if note is None else [*kept, note]


def _members(value: dict[str, Any], room: int) -> dict[str, Any]:
    members = {key: member for key, member in value.items() if key != MARK}
    note = value.get(MARK)
    kept: dict[str, Any] = {}
    room -= MARKER
    for number, (key, member) in enumerate(members.items(), 1):
        room -= _written(key) + 4
        if room < 0:
            break
        kept[key] = fit(member, room if number == len(members) else room // 2)
        room -= _written(kept[key])
    if len(kept) < len(members) and _kind(note) != "cut":
        note = {MARK: "cut", "type": "dict", "size": len(members)}
    return kept if note is None else {**kept, MARK: note}


def _kind(value: Any) -> Any:
    """The kind of a mark; None: the value is no mark."""
    return value.get(MARK) if isinstance(value, dict) else None


def _written(value: Any) -> int:
    return len(json.dumps(value))
