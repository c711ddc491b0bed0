"""What the marks in stored values say, in words: for the command line, the API and the console alike.

Pure. Which marks there are, `payload` says. What is read here comes from the store: numbers may be text, as they were
written there, and everything may be anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

MARK: Final = "$asynctask"
"""The key that only what we put in has."""
_MOST_TEXT: Final = 200
"""Characters that are told of one member of a mark."""
_UNITS: Final = {
    "str": "characters",
    **dict.fromkeys(("bytes", "bytearray", "memoryview"), "bytes"),
    "int": "bits",
}
"""In which the size of something is counted, by its type; else in items."""


class Mark(NamedTuple):
    """How one kind of mark is described."""

    word: str
    """What values that have it are, where they are counted."""
    said: Callable[[Mapping[str, Any]], str]
    """What one of them is, from its mark."""
    kept: str = ""
    """The member that is a part of the value, or stands for it; empty: none does."""


def _told(mark: Mapping[str, Any], key: str, otherwise: str) -> str:
    value = mark.get(key)
    told = str(value)[:_MOST_TEXT] if isinstance(value, (str, int)) else ""
    return told or otherwise


def _type(mark: Mapping[str, Any]) -> str:
    return _told(mark, "type", "unknown")


def _cut(mark: Mapping[str, Any]) -> str:
    if not (size := _told(mark, "size", "")):
        return "cut"
    kind = _told(mark, "type", "it")
    number = f"{int(size):,}" if size.isascii() and size.isdigit() and len(size) < 20 else size
    return f"cut: {kind} of {number} {_UNITS.get(kind, 'items')}"


MARKS: Final[Mapping[str, Mark]] = {
    "redacted": Mark("redacted", lambda mark: "redacted in part" if "text" in mark else "redacted", "text"),
    "cut": Mark("cut", _cut, "head"),
    "as": Mark("converted", lambda mark: f"of type {_type(mark)}, which JSON does not have", "value"),
    "object": Mark("described", lambda mark: f"of type {_type(mark)}, not looked into", "repr"),
    "cycle": Mark("cyclic", lambda mark: f"the {_type(mark)} {_told(mark, 'up', 'some')} levels above"),
    "erased": Mark("erased", lambda _: "erased"),
    "replaced": Mark("stored with characters replaced", lambda _: "stored with characters replaced", "text"),
    "keys": Mark("stored with other keys", lambda _: "stored with other keys"),
}
"""By what stands under the key `MARK`."""


def is_whole(value: Any) -> bool:
    """Whether stored arguments are what Celery's JSON serializer would have delivered: nothing cut, redacted, replaced,
    described, or turned into something else (tuples are lists to JSON, and keys text). It is about arguments; of a
    result it tells whether something is missing, not whether a string was a datetime. A value in which the user has
    a key ``$asynctask…`` counts as not whole."""
    return not any(isinstance(one, dict) and any(map(is_reserved, one)) for one in _parts(value))


def _parts(value: Any) -> Iterator[Any]:
    """A value, and all that is in it."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        yield one
        if isinstance(one, dict):
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)


def is_reserved(key: str) -> bool:
    """Whether a key is one of ours, or a user's that looks like one."""
    return key.startswith("$") and key.lstrip("$").startswith(MARK[1:])


def mark_of(value: Any) -> Mark | None:
    """The mark that a value is; None: it is none."""
    what = value.get(MARK) if isinstance(value, dict) else None
    return MARKS.get(what) if isinstance(what, str) else None


def note_of(value: Any) -> dict[str, Any] | None:
    """The mark in a mapping, or at the end of a list, which is said of the whole of it; None: there is none."""
    if isinstance(value, dict):
        note = value.get(MARK)
        return note if mark_of(note) is not None else None
    last = value[-1] if isinstance(value, list) and value else None
    if not isinstance(last, dict) or last.get(MARK) != "cut" or "size" not in last or "head" in last:
        return None
    return last if last.get("type") not in (*_UNITS, "dict") else None  # else an element that was cut itself


def missing(value: Any, limit: int | None = None) -> dict[str, int]:
    """How often something in a stored value is not there as it was, by `Mark.word`; looks at so many parts of it."""
    marks = filter(None, map(mark_of, islice(_parts(value), limit)))
    return dict(sorted(Counter(mark.word for mark in marks).items()))
