"""Plainer forms of an event, for a database that does not take it as it is. Pure.

What tells where a task stands is in all of them: its ids, its kind, its times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from celery_asynctask.core.event import decode, encode
from celery_asynctask.core.limits import MAX_NAME
from celery_asynctask.core.marks import MARK

_NAMES: Final = ("name", "error_type", "worker", "queue", "created_by_name")
_TEXTS: Final = ("error_message", "traceback")
_VALUES: Final = ("args", "kwargs", "content", "noted", "result")
_NOT_ASCII: Final = re.compile(r"[^\x01-\x7f]")
REFUSED: Final = "[not stored: the database refused it]"
"""Takes the place of a text."""


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
