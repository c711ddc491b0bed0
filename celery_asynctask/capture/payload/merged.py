"""Stored values that are bounded each, laid over each other: what comes of it is bounded as each of them is.

Pure. What is read here is JSON that `payload.Encoder` made: its marks stay what they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from celery_asynctask.capture.payload.walk import MARKER, Walk
from celery_asynctask.core.marks import MARK, note_of

_CUT: Final = {MARK: "cut", "type": "dict"}
"""What is said of a mapping that was cut, of which nobody has counted what was to be in it."""


class Merged:
    """A mapping over which others are laid, within ``room`` bytes (and `payload.OVERRUN` for the markers).

    Where it gets too large, what is long is cut, so that small parts stay. What it was ``begun`` with has half of the
    room for itself, then what was just told again and the keys in ``always`` half of the rest; then come the others,
    older ones first. That is done to make room for more than is told at once: however often a mapping is laid over
    it, each costs in proportion to its own size.
    """

    __slots__ = ("_always", "_begun", "_room", "_sizes", "content")

    def __init__(self, begun: Mapping[str, Any], room: int, always: frozenset[str] = frozenset()) -> None:
        self._begun = begun.keys() - {MARK}
        self._room = room
        self._always = always
        self._sizes: dict[str, int] = {}
        """Bytes of each member, with its key."""
        self.content: dict[str, Any] = {}
        """JSON; not to be changed."""
        self.lay(begun)

    def lay(self, told: Mapping[str, Any]) -> None:
        """Lay ``told``, which an encoder made of a mapping, over it, key by key."""
        if isinstance(told.get(MARK), str):  # nothing of it is there but what is said of it
            told = {MARK: told}
        again = {key for key in told if key in self.content}
        kept = self.content.get(MARK)
        self._sizes.update((key, _written(key) + _written(value) + 4) for key, value in told.items())
        self.content.update(told)
        if (note := self.content.get(MARK)) is not None:
            self.content[MARK] = _CUT if "cut" in (_what(kept), _what(note)) else note
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
            self.content[MARK] = _CUT if _what(note) == "cut" else note
        self._sizes = {key: _written(key) + _written(value) + 4 for key, value in self.content.items()}


def fit(value: Any, room: int) -> Any:
    """A stored value within ``room`` bytes of JSON, and what markers take: as it is, or cut wherever it is long."""
    if _written(value) <= room:
        return value
    if isinstance(value, str):
        return _text(value, len(value), "str", room)
    if isinstance(value, list):
        return _elements(value, room)
    if isinstance(value, dict):
        return _marked(value, room) if isinstance(value.get(MARK), str) else _members(value, room)
    return value  # a number has its own bound


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
    whole = value if note is None else value[:-1]
    kept: list[Any] = []
    room -= MARKER
    for number, one in enumerate(whole, 1):
        if room < 0:
            break
        kept.append(fit(one, room if number == len(whole) else room // 2))
        room -= _written(kept[-1]) + 2
    if note is None and len(kept) < len(whole):
        note = {MARK: "cut", "type": "list", "size": len(whole)}
    return kept if note is None else [*kept, note]


def _members(value: dict[str, Any], room: int) -> dict[str, Any]:
    whole = {key: one for key, one in value.items() if key != MARK}
    note = value.get(MARK)
    kept: dict[str, Any] = {}
    room -= MARKER
    for number, (key, one) in enumerate(whole.items(), 1):
        room -= _written(key) + 4
        if room < 0:
            break
        kept[key] = fit(one, room if number == len(whole) else room // 2)
        room -= _written(kept[key])
    if len(kept) < len(whole) and _what(note) != "cut":
        note = {MARK: "cut", "type": "dict", "size": len(whole)}
    return kept if note is None else {**kept, MARK: note}


def _what(value: Any) -> Any:
    """What a mark says; None: it is none."""
    return value.get(MARK) if isinstance(value, dict) else None


def _written(value: Any) -> int:
    return len(json.dumps(value))
