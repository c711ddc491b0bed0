"""Converts one value to JSON; `payload` describes the result.

Pure. Values are read by the methods of built-in types, and only as far as there is room.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Collection, Iterable
from itertools import islice
from json.encoder import encode_basestring_ascii as _escape
from typing import Any, Final

from billiard.exceptions import SoftTimeLimitExceeded

from celery_asynctask.capture.payload.inspection import bare, inherits, mro, type_name
from celery_asynctask.capture.payload.mappings import Pairs
from celery_asynctask.capture.payload.named import ITEM, VALUES, hidden_items, member, named_beside, says_nothing
from celery_asynctask.capture.payload.plain import LEAST_TOKEN, MAX_HARMLESS, PLAIN_KEY, is_plain_key
from celery_asynctask.capture.payload.readers import MARGIN, MAX_BITS, MAX_ITEMS, READERS, read_object
from celery_asynctask.capture.payload.redaction import MIN_VALUE, Path, Redaction, removed
from celery_asynctask.capture.payload.tokens import STARS
from celery_asynctask.core.marks import MARK, is_reserved

MAX_DEPTH: Final = 20
"""Levels of nesting that are kept."""
_MAX_KEY: Final = 512
"""Characters kept of a key."""
MARKER: Final = 80
"""Bytes of a mark, approximately."""
MIN_DIGITS: Final = 8
"""Fewest digits of a number that is a secret: texts are full of shorter ones."""
_LEAST: Final = float(10 ** (MIN_DIGITS - 1))
"""Numbers nearer to zero than this and the next one are no secrets."""
_LEAST_NEGATIVE: Final = -_LEAST
_LEAST_BITS: Final = int(_LEAST).bit_length()


_UNBOUNDED: Final = 1 << 40
"""Room for any value, in bytes."""


class Full(Exception):
    """The value is larger than its limit."""


class Walk:
    """The conversion of one value: the bytes for which there is still room, and the path to the current part.

    The first walk gives up (`Full`) when the value turns out to be too large. The second walk, a tight one, gives each
    part at most half of the room that is left.
    """

    __slots__ = ("above", "harmless", "redaction", "room", "secrets", "slow", "taken", "tight", "trail", "wire")

    def __init__(
        self, room: int, redaction: Redaction | None, *, wire: bool, tight: bool, taken: list[Any] | None = None
    ) -> None:
        """``taken`` gets the values, and parts of texts, that are redacted."""
        self.room = room
        self.redaction = redaction
        self.wire = wire
        self.tight = tight
        self.taken = taken
        self.secrets = secrets = None if redaction is None else redaction.secrets
        self.harmless = MIN_VALUE - 1 if secrets is not None else MAX_HARMLESS
        self.slow = tight or secrets is not None or (redaction is not None and redaction.rule is not None)
        self.above: list[int] = []
        self.trail: Path = ()

    def element(self, value: Any, depth: int, key: str | int) -> Any:
        """`convert`, after the user's rule; in a tight walk with half of the room."""
        name = key if isinstance(key, str) else ITEM
        trail = self.trail
        if (redaction := self.redaction) is not None and redaction.rule is not None:
            self.trail = (*trail, key)
            if redaction.asks(self.trail, bare(value)):
                self.trail = trail
                return self.redacted(value)
        if self.tight and depth:
            kept = self.room - self.room // 2
            self.room //= 2
            converted = self.convert(value, depth, name)
            self.room += kept
        else:
            converted = self.convert(value, depth, name)
        self.trail = trail
        return converted

    def convert(self, value: Any, depth: int, name: str = "") -> Any:
        """The JSON of a value of any type, ``depth`` levels below the top. ``name`` is the key above it."""
        kind = type(value)
        if kind is str:
            return self.string(value)
        if kind is int:
            self.room -= (bits := value.bit_length()) // 3 + 2
            if bits < _LEAST_BITS:
                return value
            if bits > MAX_BITS:
                return self.marker("cut", type="int", size=bits)
            return value if self.secrets is None or value not in self.secrets else self.redacted(value)
        if value is None or kind is bool:
            self.room -= 5
            return value
        if kind is float:
            self.room -= 24
            if _LEAST_NEGATIVE < value < _LEAST:
                return value
            if self.secrets is not None and value.is_integer() and int(value) in self.secrets:
                return self.redacted(value)
            return value if math.isfinite(value) else self.marker("as", type="float", value=repr(value))
        if kind is dict or kind is list or kind is tuple:
            return self.container(value, kind, depth, name)
        return self.other(value, kind, depth, name)

    def string(self, value: str) -> Any:
        if (size := str.__len__(value)) > self.room or (written := len(_escape(value))) > self.room:
            return self.cut(value, size)
        self.room -= written
        kept = value if written == size + 2 else clean(value)
        if self.redaction is not None and size > self.harmless and (scrubbed := self.redaction.text(kept)) != kept:
            if self.taken is not None:
                self.taken += removed(kept, scrubbed)
            self.room -= len(_escape(scrubbed)) - written
            if self.room < 0:
                self.room += len(_escape(scrubbed))
                return self.cut(value, size)
            return self.marker("redacted", text=scrubbed)
        return value if kept is value else self.marker("replaced", text=kept)

    def cut(self, value: str, size: int, type: str = "str") -> dict[str, Any]:
        """A mark with the beginning of a string, or of the text of other values, as far as there is room. ``size`` is
        that of the value. Raises `Full` in the first walk."""
        self.check()
        if (room := self.room - MARKER) <= len(_escape("")):
            return self.marker("cut", type=type, size=size)
        head = str.__getitem__(value, slice(0, room + MARGIN))
        if self.redaction is not None:
            head = self.redaction.text(whole := head, cut=True)
            if self.taken is not None:
                self.taken += removed(whole, head)
        head = clean(head[:room])
        while (written := len(_escape(head))) > room:
            head = head[: len(head) * room // written]
        self.room -= written
        return self.marker("cut", type=type, size=size, head=head)

    def check(self) -> None:
        """Raise `Full` in the first walk: its room is used up."""
        if not self.tight:
            raise Full

    def marker(self, what: str, **members: Any) -> dict[str, Any]:
        """A mark of the kind ``what``."""
        self.room -= MARKER + len(members.get("type", ""))
        return {MARK: what, **members}

    def redacted(self, value: Any) -> dict[str, Any]:
        """The mark of a value that is redacted."""
        self.take(bare(value))
        return self.marker("redacted")

    def take(self, value: Any) -> None:
        """Note a value that is not kept because it is a secret; None: there is none."""
        if self.taken is not None and value is not None:
            self.taken.append(value)

    def typed(self, kind: type, converted: Any) -> Any:
        """The converted value; in arguments, marked as of a type that Celery's JSON serializer does not send."""
        return self.marker("as", type=type_name(kind), value=converted) if self.wire else converted

    def envelope(self, kind: str, value: Any, plain: str) -> Any:
        """The ``plain`` text; in arguments, the envelope in which Celery's JSON serializer sends the value."""
        if not self.wire:
            return self.string(plain)
        self.room -= MARKER + len(plain)
        return {"__type__": kind, "__value__": value}

    def container(self, value: Any, base: Any, depth: int, name: str = "", members: Pairs | None = None) -> Any:
        """A dict, list, tuple, set, frozenset or deque, read by the methods of ``base``; or any other container, by its
        ``members``."""
        here = id(value)
        size = base.__len__(value) if members is None else members[1]
        if here in self.above:
            return self.marker("cycle", type=type_name(type(value)), up=len(self.above) - self.above.index(here))
        if depth >= MAX_DEPTH:
            return self.marker("cut", type=type_name(type(value)), size=size)
        self.above.append(here)
        if base is dict:
            pairs = list(islice(dict.items(value), MAX_ITEMS))  # all at once: another thread may add to it
            converted: Any = self.mapping(pairs, size, value, depth, name)
        elif members is not None:
            converted = self.typed(type(value), self.mapping(members[0][:MAX_ITEMS], size, value, depth, name))
        elif base is list or base is tuple:
            hidden = self.hidden(value, base, size, name)
            converted = self.sequence(base.__iter__(value), size, value, depth, hidden=hidden)
        else:
            items = list(islice(base.__iter__(value), MAX_ITEMS))
            converted = self.typed(type(value), self.sequence(_in_order(items, base), size, value, depth))
        self.above.pop()
        return converted

    def hidden(self, value: Any, base: Any, size: int, name: str, parameters: tuple[str, ...] = ()) -> Collection[int]:
        """The `hidden_items` of a list or tuple."""
        return () if self.redaction is None or not size else hidden_items(value, base, self.redaction, name, parameters)

    def sequence(
        self,
        values: Iterable[Any],
        size: int,
        original: Any,
        depth: int,
        names: tuple[str, ...] = (),
        hidden: Collection[int] = (),
    ) -> Any:
        """The elements of a list. ``names`` are those of the first ones; ``hidden`` are the indexes of those that are
        redacted whatever their names."""
        items: list[Any] = []
        if 3 * min(size, MAX_ITEMS) > self.room:
            self.check()
        for value in values:
            index = len(items)
            if index == MAX_ITEMS or self.room < 0:
                break
            self.room -= 2
            if hidden and index in hidden and not says_nothing(value):
                items.append(self.redacted(value))
            elif index < len(names):
                items.append(self.named(value, depth + 1, names[index]))
            elif self.slow:
                items.append(self.element(value, depth + 1, index))
            else:
                items.append(self.convert(value, depth + 1, ITEM))
        if self.room < 0:
            self.check()
        if len(items) < size:
            items.append(self.marker("cut", type=type_name(type(original)), size=size))
        self.room -= 2
        return items

    def mapping(self, pairs: list[tuple[Any, Any]], size: int, original: Any, depth: int, parent: str = "") -> Any:
        items: dict[str, Any] = {}
        note: dict[str, Any] | None = None
        redaction = self.redaction
        if redaction is None or not redaction.opens(parent):
            parent = ""
        if 7 * len(pairs) > self.room:
            self.check()
        unsearched = redaction is None or redaction.secrets is None
        for key, value in pairs:
            if self.room < 0:
                break
            is_plain = unsearched and type(key) is str and PLAIN_KEY(key)
            name, same = (key, True) if is_plain and (len(key) < LEAST_TOKEN or is_plain_key(key)) else self.key(key)
            if not same or name in items:
                note, name = {MARK: "keys"}, _free(name, items)
            self.room -= len(name) + 6
            if self.room < 0:
                break
            items[name] = self.named(value, depth + 1, name, parent)
        if self.room < 0:
            self.check()
        if redaction is not None and not VALUES.isdisjoint(items):
            for name in named_beside(items, redaction):
                if not says_nothing(items[name]):
                    items[name] = self.redacted(member(pairs, name))
        if len(items) < size:
            note = self.marker("cut", type=type_name(type(original)), size=size)
        if note is not None:
            self.room -= MARKER
            items[MARK] = note
        self.room -= 2
        return items

    def named(self, value: Any, depth: int, name: str, parent: str = "") -> Any:
        """A value with a name, redacted if the name is sensitive. ``parent`` is the name above it if the two are judged
        together, else empty."""
        if (
            (redaction := self.redaction) is not None
            and (redaction.sensitive(name) or (parent and redaction.sensitive(f"{parent} {name}")))
            and not says_nothing(value)
        ):
            return self.redacted(value)
        return self.element(value, depth, name) if self.slow else self.convert(value, depth, name)

    def key(self, key: Any) -> tuple[str, bool]:
        """A key as the text that JSON writes for it, and whether that is unchanged."""
        kind = type(key)
        wire, self.wire = self.wire, False
        if kind is int and key.bit_length() <= MAX_BITS:
            name, same = int.__repr__(key), True
            if self.secrets is not None and key in self.secrets:
                name, same = STARS, False
        elif inherits(kind, str):
            head = str.__getitem__(key, slice(0, _MAX_KEY))
            name = clean(head)
            if self.redaction is not None:
                name = self.redaction.text(name, cut=str.__len__(key) > _MAX_KEY)
            same = name == head and str.__len__(key) <= _MAX_KEY
            if is_reserved(name):
                name = f"${name}"
        else:
            converted = self.convert(key, MAX_DEPTH - 1)
            if type(converted) is dict and converted == {MARK: "redacted"}:
                converted = STARS
            name = converted if type(converted) is str else json.dumps(converted)[:_MAX_KEY]
            as_json = key is None or inherits(kind, int) or inherits(kind, float)
            same = type(converted) not in (dict, str) if as_json else not wire and type(converted) is str
        self.wire = wire
        self.room -= len(_escape(name)) - len(name)
        return name, same

    def other(self, value: Any, kind: type, depth: int, name: str) -> Any:
        level = len(self.above)
        try:
            for base in mro(kind):
                if (reader := READERS.get(id(base))) is not None:
                    return reader(self, value, kind, depth, name)
            return read_object(self, value, kind, depth, name)
        except (SoftTimeLimitExceeded, Full):
            raise
        except Exception:  # noqa: BLE001 - a type may fail in any way
            del self.above[level:]
        return self.marker("object", type=type_name(kind))


class Again(Walk):
    """A walk of JSON that another encoder has made, and that knew less of what to redact: its marks stay."""

    __slots__ = ()

    def __init__(self, redaction: Redaction | None) -> None:
        super().__init__(_UNBOUNDED, redaction, wire=False, tight=False)

    def element(self, value: Any, depth: int, key: str | int) -> Any:
        return value if value == {MARK: "redacted"} else super().element(value, depth, key)

    def container(self, value: Any, base: Any, depth: int, name: str = "", members: Pairs | None = None) -> Any:
        if base is dict and type(value.get(MARK)) is str:
            return {key: self._member(member, depth, key) for key, member in value.items()}
        return super().container(value, base, 0, name, members)

    def _member(self, value: Any, depth: int, key: str) -> Any:
        """The member of a mark: texts are parts of the value, and the mark says already that they are no more."""
        redaction = self.redaction
        if redaction is None or type(value) is int or (type(value) is str and not redaction.sensitive(key)):
            return redaction.text(value) if redaction is not None and type(value) is str else value
        return self.named(value, depth + 1, key)

    def key(self, key: Any) -> tuple[str, bool]:
        name, same = super().key(key)
        return (name[1:] if is_reserved(name) else name), same  # the first walk has escaped a user's own


def clean(value: str) -> str:
    """A text with substitutes for characters that databases refuse (NUL, lone surrogates); the same object if there are
    none."""
    if "\0" in value:
        value = value.replace("\0", "\ufffd")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            value = value.encode("utf-8", "replace").decode()
    return value


def _free(name: str, items: dict[str, Any]) -> str:
    """The name, or a similar one that is no key yet."""
    free, number = name, len(items)
    while free in items:
        free, number = f"{name}…{number}", number + 1
    return free


def _in_order(values: list[Any], base: type) -> list[Any]:
    """Elements of a set, sorted if comparing them runs no foreign code, so that they are stored in the same order each
    time."""
    if base is not deque and {type(value) for value in values} in ({str}, {int}):
        values.sort()
    return values
