"""The search grammar: ``status:FAILURE name:billing.* kwargs.account_id:17 retries:>2 since:2d`` to a `Filter`.

The same on the command line and wherever else tasks are searched. Pure; `condition` makes SQL of it.

A search is some terms with blanks between them, which all must hold. A term is ``key:value``; with ``-`` before it, it
must not hold. Alternatives are separated by commas. What stands in double quotes means itself: blanks, commas, colons,
dots, wildcards, ``none``; a backslash there quotes a quote or another backslash. Texts may be globs (``*`` any
characters, ``?`` one), and upper and lower case differ. Numbers, times and durations take ``>``, ``>=``, ``<``, ``<=``
and ``low..high``, both included. A time is as long as it is written: a date is that whole day, ``14:05`` that minute.
``none`` is what is not there, ``*`` whatever is. A word without a key is looked for in the task's name, or is the
beginning of a task id if it looks like one.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import pairwise
from typing import Any, Final, NamedTuple

from celery_asynctask.errors import FilterError
from celery_asynctask.queries.search.keys import ALIASES, JSON_KEYS, KEYS, is_hex, span, time

MAX_LENGTH: Final = 2048
"""Characters of a search."""
MAX_TERMS: Final = 32
MAX_VALUES: Final = 20
"""Alternatives of one term."""
MAX_PATH: Final = 20
"""Names in a path: nothing deeper is recorded."""
MAX_INDEXES: Final = 3
"""Numbers in a path: each may be an index or a key, and every combination is looked for."""

NONE: Final = "none"
ANY: Final = "*"


class Value(NamedTuple):
    """One alternative of a term."""

    operator: str
    """``=`` (texts: a glob as in `fnmatch`, in which ``[x]`` is nothing but x), ``>``, ``>=``, ``<``, ``<=``, ``..``
    (from ``value`` to ``high``, both included), ``none`` or ``any``."""
    value: Any = None
    """str, int, an aware UTC time or a timedelta; None for ``none`` and ``any``."""
    high: Any = None


class Term(NamedTuple):
    """One term of a search."""

    key: str
    """Of `KEYS`."""
    path: tuple[str, ...]
    """Where in the JSON value; empty for other keys."""
    values: tuple[Value, ...]
    """At least one of them must hold."""
    negated: bool


class Filter(NamedTuple):
    """A search that was understood."""

    terms: tuple[Term, ...] = ()
    text: str = ""
    """As it was given."""


def parse(text: str, now: dt.datetime) -> Filter:
    """Read a search; ``now``, an aware time, is what durations are counted from, and in its zone are times that name
    none (`zone.LOCAL` knows the clock's changes). Raises `FilterError`."""
    _check_text(text)
    words = list(_words(text))
    if len(words) > MAX_TERMS:
        raise FilterError(f"The search has {len(words)} terms; it may have {MAX_TERMS}.")
    return Filter(tuple(_term(word, now) for word in words), text.strip())


def parse_value(key: str, text: str, now: dt.datetime) -> Term:
    """The term ``key:text`` of a search, for a key that needs no path; blanks are of the text. Raises `FilterError`."""
    _check_text(text)
    [word] = _words(f"{key}:{text}", blanks=True)
    return _term(word, now)


def quoted(text: str) -> str:
    """A text as a word of a search that means nothing but itself."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def term(key: str, text: str) -> str:
    """The term of a search for exactly this text."""
    return f"{key}:{quoted(text)}"


def _check_text(text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise FilterError(f"The search has {len(text):,} characters; it may have {MAX_LENGTH:,}.")
    if match := re.search(r"[\x00\ud800-\udfff]", text):
        raise FilterError(f"The search has a character that no text in a database has: {match[0]!r}.")


class _Char(NamedTuple):
    """A character of the search, and whether it was quoted, hence means nothing but itself."""

    char: str
    quoted: bool


_Word = list[_Char]
_MARK: Final = _Char("", True)
"""Stands for a pair of quotes, so that ``""`` is a word and not nothing."""


def _words(text: str, *, blanks: bool = False) -> Iterator[_Word]:
    """The words of a search; with ``blanks`` those are of a word, too."""
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
        raise FilterError("The search has a double quote that is not closed.")
    if word:
        yield word


def _split(word: _Word, separator: str) -> list[_Word]:
    parts: list[_Word] = [[]]
    for one in word:
        if one == (separator, False):
            parts.append([])
        else:
            parts[-1].append(one)
    return parts


def _plain(word: _Word) -> str:
    return "".join(one.char for one in word)


def _bare_text(word: _Word) -> str:
    """The text of a word in which nothing is quoted; empty where something is."""
    return "" if any(one.quoted for one in word) else _plain(word)


def _term(word: _Word, now: dt.datetime) -> Term:
    negated = len(word) > 1 and word[0] == ("-", False)
    if negated:
        word = word[1:]
    head, *rest = _split(word, ":")
    if not rest:
        return _without_key(word, negated)
    name = _plain(head)
    key, *path = (_plain(one) for one in _split(head, "."))
    written = key.lower()
    key = ALIASES.get(written, written)
    if key not in KEYS or (path and key not in JSON_KEYS):
        raise FilterError(
            f"The search has no key {name!r}.{_nearest(written)} The keys are {', '.join(KEYS)}; those of JSON take a "
            "path, such as kwargs.order.id. What has a colon in it and is no key stands in double quotes."
        )
    if written == "creator" and re.fullmatch(r"[0-9]+(,[0-9]+)*", text := _bare_text(word[len(head) + 1 :])):
        raise FilterError(f"'creator' is a name; the number has the key created_by: created_by:{text}.")
    _check_path(name, key, path)
    given = _split(word[len(head) + 1 :], ",")
    if len(given) > MAX_VALUES:
        raise FilterError(f"{name!r} has {len(given)} alternatives; it may have {MAX_VALUES}.")
    return Term(key, tuple(path), tuple(value for one in given for value in _values(key, name, one, now)), negated)


def _nearest(key: str) -> str:
    """A question for a key that is spelled like this one; empty where none is, or it takes no path."""
    near = get_close_matches(key, [*KEYS, *ALIASES], n=1)
    return f" Did you mean {near[0]!r}?" if near and near[0] != key else ""


def _check_path(name: str, key: str, path: list[str]) -> None:
    if not path and key in JSON_KEYS and key != "result":
        raise FilterError(f"{key!r} needs a path: {key}.{'0' if key == 'args' else 'order'}:value")
    if not all(path):
        raise FilterError(f"{name!r} has an empty name in its path.")
    if len(path) > MAX_PATH or sum(map(is_index, path)) > MAX_INDEXES:
        raise FilterError(f"{name!r} is too long; a path has up to {MAX_PATH} names, {MAX_INDEXES} of them numbers.")


def is_index(name: str) -> bool:
    """Whether a name in a path may be an index into a list: ``0``, ``17``, and neither ``-1`` nor ``007``."""
    return re.fullmatch(r"0|[1-9][0-9]{0,8}", name) is not None


def _without_key(word: _Word, negated: bool) -> Term:
    given = _split(word, ",")
    if not all(map(_plain, given)):
        raise FilterError(f"The search has an empty word: {_plain(word)!r}.")
    if len(given) > MAX_VALUES:
        raise FilterError(f"{_plain(word)[:40]!r}… has {len(given)} alternatives; it may have {MAX_VALUES}.")
    if all(re.fullmatch(r"[0-9a-fA-F]{8}[0-9a-fA-F-]{0,28}", _bare_text(one)) for one in given):
        return Term("id", (), tuple(value for one in given for value in _cases("id", _plain(one))), negated)
    return Term("name", (), tuple(Value("=", f"*{_glob(one)}*") for one in given), negated)


def _glob(word: _Word) -> str:
    """The text as a glob: quoted wildcards stand in brackets, as in `fnmatch`."""
    return "".join(
        f"[{one.char}]" if one.char == "[" or (one.quoted and one.char in ("*", "?")) else one.char for one in word
    )


def _values(key: str, name: str, word: _Word, now: dt.datetime) -> list[Value]:
    """What one alternative asks for; ``name`` is the key as it was written."""
    known, text, bare = KEYS[key], _plain(word), _bare_text(word)
    if not word:
        raise FilterError(f"{name!r} has no value.")
    if known.can_be_none and bare.lower() == NONE:
        return [Value("none")]
    if known.can_be_none and bare == ANY:
        return [Value("any")]
    operator, rest = _operator(word)
    if operator and not known.is_compared:
        raise FilterError(f"{name!r} takes no {operator}; a text that begins with it stands in double quotes.")
    if known.read is None:
        return _cases(key, _glob(word))
    try:
        if operator:
            low, high = known.read(_plain(rest), now)
            return [Value(operator, high if operator in (">", "<=") else low)]
        if known.is_compared and (ends := _ends(word)):
            first, second = (known.read(_plain(end), now) for end in ends)
            return [Value("..", min(first[0], second[0]), max(first[1], second[1]))]
        low, high = known.read(text, now)
    except ValueError as exc:
        raise FilterError(f"{name!r} cannot be {text!r}; it must be {exc}.") from None
    if known.operator != "=":
        return [Value(known.operator, low)]
    if known.read is span or (known.read is time and _is_instant(text)):  # nobody means it to the microsecond
        raise FilterError(f"{name!r} cannot be exactly {text!r}: put > or < before it, or give low..high.")
    return [Value("=", low) if low == high else Value("..", low, high)]


def _is_instant(text: str) -> bool:
    """Whether a time is no date, but a moment that nobody means to the microsecond: ``2d``, ``now``."""
    return "-" not in text and text.lower() not in ("today", "yesterday")


def _cases(key: str, glob: str) -> list[Value]:
    """Ids of traces are in lower case; those of tasks, too, if they are UUIDs."""
    if KEYS[key].is_hex:
        return [Value("=", glob.lower())]
    if KEYS[key].is_id and is_hex(glob.rstrip(ANY)) and glob != glob.lower():
        return [Value("=", glob), Value("=", glob.lower())]
    return [Value("=", glob)]


def _operator(word: _Word) -> tuple[str, _Word]:
    """The comparison that a word begins with, and what follows it."""
    bare = "".join(one.char for one in word[:2] if not one.quoted)
    operator = next((one for one in (">=", "<=", ">", "<") if bare.startswith(one)), "")
    return operator, word[len(operator) :]


def _ends(word: _Word) -> tuple[_Word, _Word] | None:
    """The two sides of ``low..high``."""
    for at, pair in enumerate(pairwise(word)):
        if pair == ((".", False), (".", False)):
            return word[:at], word[at + 2 :]
    return None
