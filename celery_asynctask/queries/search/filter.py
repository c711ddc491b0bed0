"""Parses the search grammar: ``status:FAILURE name:billing.* kwargs.account_id:17 retries:>2 since:2d`` to a `Filter`.

The grammar is the same on the command line, in the API and in the console. Pure; `condition` makes SQL of a filter.

A search consists of terms, separated by blanks, all of which must hold. A term is ``key:value``; after a ``-`` it must
not hold. Commas separate alternatives. Double quotes take a text literally: blanks, commas, colons, dots, wildcards,
``none``; a backslash there quotes a quote or another backslash. Texts may be globs (``*`` stands for any characters,
``?`` for one), and case matters. Numbers, times and durations take ``>``, ``>=``, ``<``, ``<=`` and ``low..high``, both
included. A time is as long as it is written: a date is the whole day, ``14:05`` the minute. ``none`` finds tasks
without a value, ``*`` tasks with any value. A word without a key is part of the task name, or the beginning of a task
id if it looks like one.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import pairwise
from typing import Any, Final, NamedTuple

from celery_asynctask.errors import FilterError
from celery_asynctask.queries.search.glob import MAX_LENGTH as MAX_GLOB
from celery_asynctask.queries.search.glob import contained, is_glob
from celery_asynctask.queries.search.keys import ALIASES, JSON_KEYS, KEYS, is_hex, span, time

MAX_LENGTH: Final = 2048
"""Characters of a search."""
MAX_TERMS: Final = 32
"""Terms of a search."""
MAX_VALUES: Final = 20
"""Alternatives of one term."""
MAX_PATH: Final = 20
"""Names in a path: nothing deeper is recorded."""
MAX_INDEXES: Final = 3
"""Numbers in a path: each can be an index or a key, and every combination is searched for."""

NONE: Final = "none"
ANY: Final = "*"


class Value(NamedTuple):
    """One alternative of a term."""

    operator: str
    """``=`` (for texts a glob as in `fnmatch`, in which ``[x]`` stands for x only), ``>``, ``>=``, ``<``, ``<=``,
    ``..`` (from ``value`` to ``high``, both included), ``none`` or ``any``."""
    value: Any = None
    """A str, an int, an aware UTC time or a timedelta; None for ``none`` and ``any``."""
    high: Any = None
    """The upper end of ``..``; otherwise None."""


class Term(NamedTuple):
    """One term of a search."""

    key: str
    """A key of `KEYS`."""
    path: tuple[str, ...]
    """The path in the JSON value; empty for other keys."""
    values: tuple[Value, ...]
    """The alternatives: at least one must hold."""
    negated: bool
    """Whether none of them may hold."""


class Filter(NamedTuple):
    """A parsed search."""

    terms: tuple[Term, ...] = ()
    """All of them must hold; without any, every task matches."""
    text: str = ""
    """The search as it was written."""


def parse(text: str, now: dt.datetime) -> Filter:
    """Parse a search. Durations count back from ``now``, an aware time, and times without a zone are in its zone
    (`present.zone.LOCAL` knows when the clocks change). Raises `FilterError`."""
    _check_text(text)
    words = list(_words(text))
    if len(words) > MAX_TERMS:
        raise FilterError(f"The search has {len(words)} terms; it may have {MAX_TERMS}. Leave some out.")
    return Filter(tuple(_term(word, now) for word in words), text.strip())


def parse_value(key: str, text: str, now: dt.datetime) -> Term:
    """Parse the term ``key:text``, for a key that needs no path. Blanks belong to the text. Raises `FilterError`."""
    _check_text(text)
    [word] = _words(f"{key}:{text}", blanks=True)
    return _term(word, now)


def quoted(text: str) -> str:
    """A text in quotes, as a word of a search that stands for this text only."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def term(key: str, text: str) -> str:
    """A term of a search that finds exactly this text."""
    return f"{key}:{quoted(text)}"


def _check_text(text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise FilterError(f"The search has {len(text):,} characters; it may have {MAX_LENGTH:,}. Shorten it.")
    if match := re.search(r"[\x00\ud800-\udfff]", text):
        raise FilterError(f"The search has a character that no text in a database has: {match[0]!r}. Leave it out.")


class _Char(NamedTuple):
    """A character of the search, and whether it was quoted and so stands for itself only."""

    char: str
    quoted: bool


_Word = list[_Char]
_MARK: Final = _Char("", True)
"""Stands for a quote, so that ``""`` is a word."""


def _words(text: str, *, blanks: bool = False) -> Iterator[_Word]:
    """The words of a search. With ``blanks``, blanks do not end a word."""
    word: _Word = []
    quoted = False
    characters = iter(text)
    for char in characters:
        if char == '"':
            quoted = not quoted
            word.append(_MARK)
        elif char == "\\" and quoted:
            word.append(_Char(next(characters, "\\"), True))
        elif char.isspace() and not quoted and not blanks:
            if word:
                yield word
            word = []
        else:
            word.append(_Char(char, quoted))
    if quoted:
        raise FilterError('The search has a double quote that is not closed. Close it; inside quotes, \\" is a quote.')
    if word:
        yield word


def _split(word: _Word, separator: str) -> list[_Word]:
    parts: list[_Word] = [[]]
    for char in word:
        if char == (separator, False):
            parts.append([])
        else:
            parts[-1].append(char)
    return parts


def _plain(word: _Word) -> str:
    return "".join(char for char, _ in word)


def _bare_text(word: _Word) -> str:
    """The text of a word without quotes; empty if any of it is quoted."""
    return "" if any(quoted for _, quoted in word) else _plain(word)


def _term(word: _Word, now: dt.datetime) -> Term:
    negated = len(word) > 1 and word[0] == ("-", False)
    if negated:
        word = word[1:]
    head, *rest = _split(word, ":")
    if not rest:
        return _without_key(word, negated)
    name = _plain(head)
    key, *path = (_plain(part) for part in _split(head, "."))
    written = key.lower()
    key = ALIASES.get(written, written)
    if key not in KEYS or (path and key not in JSON_KEYS):
        raise FilterError(
            f"The search has no key {name!r}.{_nearest(written)} The keys are {', '.join(KEYS)}; those of JSON take a "
            "path, such as kwargs.order.id. Put a text with a colon in double quotes."
        )
    if written == "creator" and re.fullmatch(r"[0-9]+(,[0-9]+)*", text := _bare_text(word[len(head) + 1 :])):
        raise FilterError(f"'creator' takes a name. Search a number with its own key: created_by:{text}.")
    _check_path(name, key, path)
    parts = _split(word[len(head) + 1 :], ",")
    if len(parts) > MAX_VALUES:
        raise FilterError(f"{name!r} has {len(parts)} alternatives; it may have {MAX_VALUES}. Leave some out.")
    return Term(key, tuple(path), tuple(value for part in parts for value in _values(key, name, part, now)), negated)


def _nearest(key: str) -> str:
    """A question that suggests the key with the most similar spelling; empty if there is none, or if the key exists."""
    near = get_close_matches(key, [*KEYS, *ALIASES], n=1)
    return f" Did you mean {near[0]!r}?" if near and near[0] != key else ""


def _check_path(name: str, key: str, path: list[str]) -> None:
    if not path and key in JSON_KEYS and key != "result":
        raise FilterError(f"{key!r} needs a path: {key}.{'0' if key == 'args' else 'order'}:value")
    if not all(path):
        raise FilterError(f"{name!r} has an empty name in its path. Give a name between the dots.")
    if len(path) > MAX_PATH or sum(map(is_index, path)) > MAX_INDEXES:
        raise FilterError(
            f"{name!r} is too long: shorten the path to at most {MAX_PATH} names, of them {MAX_INDEXES} numbers."
        )


def is_index(name: str) -> bool:
    """Whether a name in a path can be an index into a list: ``0`` or ``17``, but not ``-1`` or ``007``."""
    return re.fullmatch(r"0|[1-9][0-9]{0,8}", name) is not None


def _without_key(word: _Word, negated: bool) -> Term:
    parts = _split(word, ",")
    if not all(map(_plain, parts)):
        raise FilterError(f"The search has an empty word: {_plain(word)!r}. Leave it out, or write a text.")
    if len(parts) > MAX_VALUES:
        raise FilterError(
            f"{_plain(word)[:40]!r}… has {len(parts)} alternatives; it may have {MAX_VALUES}. Leave some out."
        )
    if all(re.fullmatch(r"[0-9a-fA-F]{8}[0-9a-fA-F-]{0,28}", _bare_text(part)) for part in parts):
        return Term("id", (), tuple(value for part in parts for value in _cases("id", _plain(part))), negated)
    return Term("name", (), tuple(Value("=", f"*{_glob(part, 'The search')}*") for part in parts), negated)


def _glob(word: _Word, name: str) -> str:
    """The text as a glob: quoted wildcards stand in brackets, as in `fnmatch`. ``name`` is what an error calls it."""
    glob = "".join(f"[{char}]" if char == "[" or (quoted and char in ("*", "?")) else char for char, quoted in word)
    if len(glob) > MAX_GLOB and is_glob(glob) and contained(glob) is None:
        raise FilterError(
            f"{name} has a pattern of {len(glob):,} characters; with * or ? it may have {MAX_GLOB}. Shorten it, or put "
            "it in double quotes, in which * and ? stand for themselves."
        )
    return glob


def _values(key: str, name: str, word: _Word, now: dt.datetime) -> list[Value]:
    """The values of one alternative; ``name`` is the key as it was written."""
    known, text, bare = KEYS[key], _plain(word), _bare_text(word)
    if not word:
        raise FilterError(f"{name!r} has no value. Write one after the colon.")
    if known.can_be_none and bare.lower() == NONE:
        return [Value("none")]
    if known.can_be_none and bare == ANY:
        return [Value("any")]
    operator, operand = _operator(word)
    ends = _ends(word) if known.is_compared else None
    if operator and not known.is_compared:
        raise FilterError(f"{name!r} takes no {operator}; put a text that begins with it in double quotes.")
    if known.read is None or (known.is_owner and not operator and not ends):
        return _cases(key, _glob(word, repr(name)))
    try:
        if operator:
            low, high = known.read(_plain(operand), now)
            return [Value(operator, high if operator in (">", "<=") else low)]
        if ends:
            first, second = (known.read(_plain(end), now) for end in ends)
            return [Value("..", min(first[0], second[0]), max(first[1], second[1]))]
        low, high = known.read(text, now)
    except ValueError as exc:
        raise FilterError(f"{name!r} cannot be {text!r}; it must be {exc}.") from None
    if known.operator != "=":
        return [Value(known.operator, low)]
    if known.read is span or (known.read is time and _is_instant(text)):  # nobody means an exact microsecond
        raise FilterError(f"{name!r} cannot be exactly {text!r}: put > or < before it, or give low..high.")
    return [Value("=", low) if low == high else Value("..", low, high)]


def _is_instant(text: str) -> bool:
    """Whether a time is a moment rather than a date: ``2d`` or ``now``."""
    return "-" not in text and text.lower() not in ("today", "yesterday")


def _cases(key: str, glob: str) -> list[Value]:
    """A text or glob in the cases that it can have: trace ids are in lower case, and so are task ids that are UUIDs."""
    if KEYS[key].is_hex:
        return [Value("=", glob.lower())]
    if KEYS[key].is_id and is_hex(glob.rstrip(ANY)) and glob != glob.lower():
        return [Value("=", glob), Value("=", glob.lower())]
    return [Value("=", glob)]


def _operator(word: _Word) -> tuple[str, _Word]:
    """The comparison that a word begins with, and its operand."""
    bare = "".join(char for char, quoted in word[:2] if not quoted)
    operator = next((sign for sign in (">=", "<=", ">", "<") if bare.startswith(sign)), "")
    return operator, word[len(operator) :]


def _ends(word: _Word) -> tuple[_Word, _Word] | None:
    """The two sides of ``low..high``."""
    for at, pair in enumerate(pairwise(word)):
        if pair == ((".", False), (".", False)):
            return word[:at], word[at + 2 :]
    return None
