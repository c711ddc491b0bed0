"""Removes the values that redaction took from a task's arguments from texts, in every form in which texts quote them.

Pure. A shape such as ``password=...`` finds a secret by what is around it; here it is found by what it is, so it may
stand anywhere: ``invalid literal for int() with base 10: 'hunter2'``.
"""

from __future__ import annotations

import base64
import html
import json
import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote, quote_plus

from billiard.exceptions import SoftTimeLimitExceeded

from celery_asynctask.capture.payload.inspection import inherits
from celery_asynctask.capture.payload.names import words_of
from celery_asynctask.capture.payload.readers import MAX_BITS
from celery_asynctask.capture.payload.redaction import MIN_VALUE, Redaction, removed
from celery_asynctask.capture.payload.tokens import starred
from celery_asynctask.capture.payload.walk import MIN_DIGITS, Walk, clean

Secret = str | bytes
"""Bytes only if they are not UTF-8."""

MAX_SECRETS: Final = 32
"""Most values that are removed from the texts of one attempt."""
MAX_SIZE: Final = 32_768
"""Most characters of them together."""
_MAX_TAKEN: Final = 1_000
"""Most redacted values that are looked at: rows of a table may have one each."""
PART: Final = 16
"""Characters from which on the beginning or the end of a longer value is removed, too: messages cut what they quote."""
_MIN_CUT: Final = 4
"""Fewest characters of a value's beginning that are removed where the text itself was cut."""
_WORDS: Final = words_of(
    "active administrator anonymous callback celery changeme client customer default deleted development disabled "
    "django enabled example expired failed global hidden import invalid lambda localhost mariadb master message "
    "method missing module nothing object optional pending postgres postgresql production public python rabbitmq "
    "redacted removed request required response return sandbox server service staging status string success system "
    "testing traceback undefined unknown username worker"
)
"""Placeholders, and words that are in many texts: no secrets, whatever their name."""
_NUMBER = re.compile(r"[+-]?[\d.,]+\Z")
_SCHEME = re.compile(r"(?:bearer|basic|digest|token|negotiate|apikey)[ \t]+(?=\S)", re.I)
_WORD = re.compile(r"[\w+/=\-]*", re.A)
_CUT = re.compile(r"\.\.|…|[^\w/.\-]|\Z")
"""What follows a value that was cut, or, backwards, comes before it."""
_HEX = re.compile("%[0-9A-F]{2}")
_REQUOTED: Final = "!#$%&'()*+,/:;=?@[]~"
"""What HTTP clients leave as it is when they quote a whole URL."""


def secrets_in(taken: list[Any], redaction: Redaction, names: Collection[str]) -> list[Secret]:
    """The texts in values that redaction took away, as far as they can be told from any other text: not short, no small
    number and no common word, not one of ``names`` (of parameters) or a word that redaction goes by."""
    found: dict[Secret, None] = {}
    room = MAX_SIZE
    for value in _texts(taken):
        for part in _parts(value, redaction):
            if part not in found and _is_telling(part, redaction, names):
                if room < MIN_VALUE or len(found) == MAX_SECRETS:
                    return list(found)
                found[part[:room]] = None
                room -= len(part)
    return list(found)


def _texts(taken: list[Any]) -> Iterator[Secret]:
    for number, value in enumerate(taken):  # which may become longer meanwhile
        if number == _MAX_TAKEN:
            return
        kind = type(value)
        if kind is str:
            yield value[:MAX_SIZE]
            continue
        if inherits(kind, bytes):
            yield bytes.__getitem__(value, slice(0, MAX_SIZE))
            continue
        leaves = _Leaves(taken)
        try:
            leaves.convert(value, 0)
        except SoftTimeLimitExceeded:  # it is the task's: a signal handler raises it at any instruction
            raise
        except Exception:  # noqa: BLE001, S110 - another thread may change the value while it is read
            pass
        yield from leaves.found


class _Leaves(Walk):
    """A walk that collects the texts and whole numbers in a value."""

    __slots__ = ("found",)

    def __init__(self, taken: list[Any]) -> None:
        super().__init__(MAX_SIZE, None, wire=False, tight=True, taken=taken)
        self.found: list[str] = []

    def convert(self, value: Any, depth: int, name: str = "") -> Any:
        if (type(value) is int and value.bit_length() <= MAX_BITS) or (type(value) is float and value.is_integer()):
            self.found.append(str(abs(int(value))))
        return super().convert(value, depth, name)

    def string(self, value: str) -> str:
        self.room -= len(value)
        self.found.append(value)
        return ""

    def cut(self, value: str, *_: Any) -> dict[str, Any]:
        self.string(str.__getitem__(value, slice(0, max(0, self.room))))
        return {}

    def marker(self, what: str, **members: Any) -> dict[str, Any]:
        if type(members.get("value")) is str:
            self.string(members["value"])
        return super().marker(what, **members)


def _parts(value: Secret, redaction: Redaction) -> Iterator[Secret]:
    """A value, and what in it may stand alone elsewhere: the credentials behind a scheme, in a URL or in a cookie, and
    the lines of a key, which some tracebacks indent."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            yield value
            return
    value = value.strip()
    yield value
    if scheme := _SCHEME.match(value):
        yield value[scheme.end() :]
    if (shown := redaction.text(value)) is not value:
        yield from removed(value, shown)
    if "\n" in value:
        yield from (line for line in map(str.strip, value.splitlines()) if len(line) >= PART)


def _is_telling(value: Secret, redaction: Redaction, names: Collection[str]) -> bool:
    if len(value) < MIN_VALUE or len(set(value)) == 1:
        return False
    if isinstance(value, bytes):
        return True
    if _NUMBER.match(value) and sum(map(str.isdigit, value)) < MIN_DIGITS:
        return False
    return value not in names and (word := value.lower()) not in _WORDS and word not in redaction.words


class Secrets:
    """The values of `secrets_in`, ready to be searched for. Immutable; safe for threads."""

    __slots__ = ("_coded", "_forms", "_numbers")

    def __init__(self, values: Iterable[Secret]) -> None:
        values = list(values)
        self._forms = {form for value in values for form in _forms(value)}
        self._coded = {form for value in values for form in _in_base64(_data(value))}
        self._numbers = frozenset(
            digits
            for value in values
            if isinstance(value, str) and (digits := value.lstrip("+-")).isascii() and digits.isdecimal()
        )

    def __contains__(self, number: int) -> bool:
        return bool(self._numbers) and int.__repr__(abs(number)) in self._numbers

    def removed_from(self, text: str, *, cut: bool = False) -> str:
        """The text with stars in place of the values; the same object if it has none. ``cut``: the text is the
        beginning of a longer one, so that it may end in the beginning of a value."""
        spans: list[tuple[int, int]] = []
        for form in self._forms:
            spans += _places(text, form)
            if len(form) > PART:
                spans += _beginnings(text, form)
                spans += _ends(text, form)
            if cut:
                spans += _last(text, form)
        for form in self._coded:
            spans += _words(text, form)
        return starred(text, spans)


_Spans = Iterator[tuple[int, int]]


def _places(text: str, form: str) -> _Spans:
    end = 0
    while (at := text.find(form, end)) >= 0:
        end = at + len(form)
        yield at, end


def _beginnings(text: str, form: str) -> _Spans:
    """Where a text has only the beginning of a form, and not because another word goes on differently there: paths and
    addresses begin alike."""
    end = 0
    while (at := text.find(form[:PART], end)) >= 0:
        end = at + _in_common(text[at : at + len(form)], form)
        if _CUT.match(text, end):
            yield at, end


def _ends(text: str, form: str) -> _Spans:
    end = 0
    while (at := text.find(form[-PART:], end)) >= 0:
        end = at + PART
        start = end - _in_common(text[max(0, end - len(form)) : end][::-1], form[::-1])
        if _CUT.match(text[max(0, start - 3) : start][::-1]):
            yield start, end


def _in_common(one: str, other: str) -> int:
    """The number of characters, at least `PART`, with which both texts begin."""
    sizes = range(PART, min(len(one), len(other)) + 1)
    return PART - 1 + bisect_left(sizes, True, key=lambda size: one[:size] != other[:size])


def _last(text: str, form: str) -> _Spans:
    for size in range(min(len(form), PART) - 1, _MIN_CUT - 1, -1):
        if text.endswith(form[:size]):
            yield len(text) - size, len(text)
            return


def _words(text: str, form: str) -> _Spans:
    """The words of base64 with this form in them: the characters around it hold a part of the value, too."""
    end = 0
    while (at := text.find(form, end)) >= 0:
        before, after = _WORD.match(text[end:at][::-1]), _WORD.match(text, at)
        end = after.end() if after else at
        yield at - (before.end() if before else 0), end


def _data(value: Secret) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "replace")


def _forms(value: Secret) -> Iterator[str]:
    data = _data(value)
    yield from (data.hex(), data.hex().upper())
    of_bytes = set(_python(repr(b'"' + data)[3:-1]))
    texts = of_bytes if isinstance(value, bytes) else {value, clean(value), *of_bytes}
    for text in texts:
        for once in _escaped(text):
            yield once
            yield from _escaped(once)
    if isinstance(value, str):
        yield html.escape(value)
    for quoted in (quote(data, safe=""), quote(data), quote_plus(data), quote(data, safe=_REQUOTED)):
        yield quoted
        yield _HEX.sub(lambda match: match[0].lower(), quoted)


def _escaped(text: str) -> set[str]:
    """A text as it stands between quotes, in Python and in JSON."""
    if text.isascii() and text.isprintable() and not any(sign in text for sign in "\\'\""):
        return {text}
    ascii_json, any_json = (json.dumps(text, ensure_ascii=only)[1:-1] for only in (True, False))
    return {text, *_python(repr('"' + text)[2:-1]), *_python(ascii('"' + text)[2:-1]), ascii_json, any_json}


def _python(escaped: str) -> tuple[str, str]:
    """A literal between single quotes, and between double quotes."""
    return escaped, escaped.replace("\\'", "'")


def _in_base64(data: bytes) -> Iterator[str]:
    """The characters of base64 that only depend on the data, wherever it begins in what is encoded."""
    for before in range(3):
        whole = base64.b64encode(bytes(before) + data).decode()
        form = whole[(0, 2, 3)[before] : (before + len(data)) * 8 // 6]
        yield from (form, form.translate({43: "-", 47: "_"}))
