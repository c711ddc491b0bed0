"""Marks: what stands in a stored value where the recorded value was changed.

Pure. `capture.payload` defines the marks and makes them; `core.plainer` makes some later. They are read here from the
store, where any mark may have members of any type: numbers may be text, and an imported mark may be wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

MARK: Final = "$asynctask"
"""The key that only a mark has: `capture` escapes a user's key that looks like it."""
_MAX_TEXT: Final = 200
"""Characters shown of one member of a mark."""
_UNITS: Final = {
    "str": "characters",
    **dict.fromkeys(("bytes", "bytearray", "memoryview"), "bytes"),
    "int": "bits",
}
"""The unit of a size, by the type of the value; of all other types it is items."""


class Mark(NamedTuple):
    """The description of one kind of mark."""

    word: str
    """Says what such values are, where they are counted."""
    said: Callable[[Mapping[str, Any]], str]
    """Describes a value by its mark."""
    kept: str = ""
    """The member that is a part of the value, or stands for it; empty: there is none."""


def _member(mark: Mapping[str, Any], key: str, default: str) -> str:
    value = mark.get(key)
    text = str(value)[:_MAX_TEXT] if isinstance(value, (str, int)) else ""
    return text or default


def _type(mark: Mapping[str, Any]) -> str:
    return _member(mark, "type", "unknown")


def _cut(mark: Mapping[str, Any]) -> str:
    if not (size := _member(mark, "size", "")):
        return "cut"
    kind = _member(mark, "type", "it")
    number = f"{int(size):,}" if size.isascii() and size.isdigit() and len(size) < 20 else size
    return f"cut: {kind} of {number} {_UNITS.get(kind, 'items')}"


MARKS: Final[Mapping[str, Mark]] = {
    "redacted": Mark("redacted", lambda mark: "redacted in part" if "text" in mark else "redacted", "text"),
    "cut": Mark("cut", _cut, "head"),
    "as": Mark("converted", lambda mark: f"of type {_type(mark)}, which JSON does not have", "value"),
    "object": Mark("described", lambda mark: f"of type {_type(mark)}, not looked into", "repr"),
    "cycle": Mark("cyclic", lambda mark: f"the {_type(mark)} {_member(mark, 'up', 'some')} levels above"),
    "erased": Mark("erased", lambda _: "erased"),
    "replaced": Mark("stored with characters replaced", lambda _: "stored with characters replaced", "text"),
    "refused": Mark("refused", lambda _: "refused by the database"),
    "keys": Mark("stored with other keys", lambda _: "stored with other keys"),
}
"""The kinds of marks, by the value under the key `MARK`."""


def is_whole(value: Any) -> bool:
    """Whether a stored value, as read from the JSON column, has no marks.

    Stored arguments without marks are what Celery's JSON serializer would have delivered: nothing is cut, redacted,
    replaced, described or converted (to JSON, tuples are lists and keys are texts). A result without marks lacks
    nothing, but a string in it may have been a datetime. A value in which the user has a key ``$asynctask…`` counts
    as not whole.
    """
    return not any(isinstance(part, dict) and any(map(is_reserved, part)) for part in _parts(value))


def _parts(value: Any) -> Iterator[Any]:
    """A value, and all that is in it."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        yield part
        if isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)


def is_reserved(key: str) -> bool:
    """Whether a key is `MARK`, or a user's that looks like it (each ``$`` more escapes one)."""
    return key.startswith("$") and key.lstrip("$").startswith(MARK[1:])


def mark_of(value: Any) -> Mark | None:
    """The kind of mark that a value is; None: it is no mark."""
    kind = value.get(MARK) if isinstance(value, dict) else None
    return MARKS.get(kind) if isinstance(kind, str) else None


def note_of(value: Any) -> dict[str, Any] | None:
    """The mark that a mapping has among its members, or a list at its end, and that describes the container itself;
    None: there is none."""
    if isinstance(value, dict):
        note = value.get(MARK)
        return note if mark_of(note) is not None else None
    last = value[-1] if isinstance(value, list) and value else None
    if not isinstance(last, dict) or last.get(MARK) != "cut" or "size" not in last or "head" in last:
        return None
    return last if last.get("type") not in (*_UNITS, "dict") else None  # else it is an element that was itself cut


def missing(value: Any, limit: int | None = None) -> dict[str, int]:
    """The numbers of marks in a stored value by `Mark.word`, sorted; ``limit`` bounds the parts that are visited."""
    marks = filter(None, map(mark_of, islice(_parts(value), limit)))
    return dict(sorted(Counter(mark.word for mark in marks).items()))
