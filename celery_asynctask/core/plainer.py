"""Plainer forms of an event, for a database that does not take it as it is. Pure.

What tells where a task stands is in all of them: its ids, its kind, its times. `storable` knows without asking what the
columns have no room for; `plainer` lists what to try where only the database knows why it refuses an event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from celery_asynctask.core.columns import ATTEMPT, TASK, Column, Type
from celery_asynctask.core.event import decode, encode
from celery_asynctask.core.fold import project
from celery_asynctask.core.limits import MAX_COUNT, MAX_INTEGER, MAX_NAME
from celery_asynctask.core.marks import MARK

_NAMES: Final = ("name", "error_type", "worker", "queue", "created_by_name")
_TEXTS: Final = ("error_message", "traceback")
_VALUES: Final = ("args", "kwargs", "content", "noted", "result")
_NOT_ASCII: Final = re.compile(r"[^\x01-\x7f]")
MAX_ASIDE: Final = 4096
"""Bytes kept of an event in quarantine."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_NUL_OR_SURROGATE: Final = re.compile("[\0\ud800-\udfff]")
REFUSED: Final = "[not stored: the database refused it]"
"""Takes the place of a text."""

# What a column of each type takes, and the width of those that have one.
_INTEGERS: Final[Mapping[Type, tuple[int, int]]] = {
    Type.INTEGER: (-MAX_COUNT - 1, MAX_COUNT),
    Type.LONG: (-MAX_INTEGER - 1, MAX_INTEGER),
    Type.TIME: (-62_135_596_800_000_000, 253_402_300_799_999_999),  # the years 1 to 9999
}
_TEXT_TYPES: Final = frozenset(Type).difference(_INTEGERS, (Type.NUMBER, Type.BOOLEAN, Type.JSON))
_WIDTHS: Final = {Type.TASK_ID: 255, Type.SHORT_ID: 64, Type.KEY: 64}
_VALUE_ERRORS: Final = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError)
"""What Python raises for a value that is none of its kind."""


class Form(NamedTuple):
    """An event that says less."""

    task_id: str
    event: bytes
    changed: str
    """What it has, for people."""


def plainer(event: bytes) -> Iterator[Form]:
    """Forms of an encoded event, in the order in which they should be tried: names and texts in ASCII, with escapes
    such as ``\\xe9`` for other characters; values in ASCII, too, with marks; a mark instead of one value, or of a text
    of the error; marks instead of all of them. There are none of what is no event, or has nothing to change."""
    try:
        known: dict[str, Any] = {**decode(event)}
    except (ValueError, RecursionError):
        return
    texts, values = _texts(known, _NOT_ASCII), _values(known, _NOT_ASCII)
    refused = {key: {MARK: "refused"} for key in values} | {key: REFUSED for key in _TEXTS if key in texts}
    last = event
    for changed, members in (
        ("changed texts", texts),
        ("changed texts and values", texts | values),
        *((f"a mark for its {key}", {key: mark}) for key, mark in refused.items()),
        ("neither values nor the text of an error", texts | refused),
    ):
        form: Any = {**known, **members}
        if (encoded := encode(form)) != last:
            yield Form(known["id"], encoded, changed)
        last = encoded


def shortened(event: bytes) -> bytes:
    """An event, or a damaged line, in at most `MAX_ASIDE` bytes: its plainest form if that is short enough, else its
    beginning."""
    if len(event) <= MAX_ASIDE:
        return event
    forms = [form.event for form in plainer(event)]
    return forms[-1] if forms and len(forms[-1]) <= MAX_ASIDE else event[:MAX_ASIDE]


def fitted(event: bytes, lacking: re.Pattern[str], *, values: bool) -> bytes:
    """An encoded event in which escapes, and in values marks, replace the characters that ``lacking`` matches. Without
    ``values``, these stay."""
    if rb"\u" not in event:
        return event
    try:
        known: dict[str, Any] = {**decode(event)}
    except (ValueError, RecursionError):
        return event
    changed: Any = known | _texts(known, lacking) | (_values(known, lacking) if values else {})
    return event if changed == known else encode(changed)


class Kind(NamedTuple):
    """What `storable` has to know of a database."""

    has_widths: bool
    """Whether its columns have a width."""
    has_nul: bool
    """Whether it stores the character NUL, and JSON as a text that may have every escape."""


def storable(event: bytes, kind: Kind) -> Form | None:
    """The encoded event as far as a database of this kind may have room for it: with escapes, and in values marks, for
    characters that it lacks, and without the ends of names that are too long. None: it has room for none of its forms,
    because this is no event, or one of its ids, counts and times is none.

    Other reasons for which a database may refuse it are not known here.
    """
    lacking = _SURROGATE if kind.has_nul else _NUL_OR_SURROGATE
    try:
        known: dict[str, Any] = {**decode(event)}
        texts = {key: text for key, text in _texts(known, lacking).items() if kind.has_widths or text != known[key]}
        values = {} if kind.has_nul or rb"\u" not in event else _values(known, lacking)
        form: Any = known | texts | values
        partial = project(form)
        fits = all(_fits(column, partial.task, lacking, kind) for column in TASK) and all(
            _fits(column, attempt, lacking, kind) for attempt in partial.attempts.values() for column in ATTEMPT
        )
    except _VALUE_ERRORS:
        return None
    if not fits:
        return None
    changed = "changed texts and values" if any(values[key] != known[key] for key in values) else "changed texts"
    return Form(known["id"], event if form == known else encode(form), changed)


def _fits(column: Column, row: Mapping[str, Any], lacking: re.Pattern[str], kind: Kind) -> bool:
    """Whether the column takes its value in the row."""
    if column.type is Type.NUMBER:
        return True
    value = row[column.name]
    if value is None:
        return column.nullable
    if column.type in _TEXT_TYPES:
        width = column.limit or _WIDTHS.get(column.type)
        return (
            isinstance(value, str)
            and not (width is not None and kind.has_widths and len(value) > width)
            and not lacking.search(value)
        )
    if column.type in _INTEGERS:
        low, high = _INTEGERS[column.type]
        return type(value) is int and low <= value <= high
    return column.type is Type.JSON or isinstance(value, bool)


def _texts(event: dict[str, Any], lacking: re.Pattern[str]) -> dict[str, Any]:
    texts = {key: _escaped(event[key], lacking) for key in (*_TEXTS, *_NAMES) if isinstance(event.get(key), str)}
    return {key: text[:MAX_NAME] if key in _NAMES else text for key, text in texts.items()}


def _values(event: dict[str, Any], lacking: re.Pattern[str]) -> dict[str, Any]:
    return {key: _marked(event[key], lacking) for key in _VALUES if event.get(key) is not None}


def _escaped(text: str, lacking: re.Pattern[str]) -> str:
    return lacking.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return r"\x00" if found[0] == "\0" else found[0].encode("ascii", "backslashreplace").decode("ascii")


def _marked(value: Any, lacking: re.Pattern[str], *, in_mark: bool = False) -> Any:
    if isinstance(value, str):
        text = _escaped(value, lacking)
        return value if text == value else text if in_mark else {MARK: "replaced", "text": text}
    if isinstance(value, list):
        return [_marked(item, lacking) for item in value]
    if not isinstance(value, dict):
        return value
    in_mark = isinstance(value.get(MARK), str)
    items = {_escaped(key, lacking): _marked(item, lacking, in_mark=in_mark) for key, item in value.items()}
    return items if items.keys() == value.keys() else {MARK: {MARK: "keys"}, **items}
