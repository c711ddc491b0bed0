"""Plainer forms of an event that the database refuses, because one of its values does not fit. Pure.

What tells where a task stands is in all of them: its ids, its name, its kind, its times.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from celery_asynctask.core.event import decode, encode
from celery_asynctask.core.limits import MAX_NAME
from celery_asynctask.core.marks import MARK

_NAMES: Final = ("name", "error_type", "worker", "queue", "created_by_name")
_TEXTS: Final = ("error_message", "traceback")
_VALUES: Final = ("args", "kwargs", "content", "noted", "result")
REFUSED: Final = "[not stored: the database refused it]"
"""Takes the place of a text."""


class Form(NamedTuple):
    """An event that says less."""

    task_id: str
    event: bytes
    changed: str
    """What it has, for people."""


def plainer(event: bytes) -> Iterator[Form]:
    """Forms of an encoded event, each plainer than the one before: names and texts in ASCII, with escapes such as
    ``\\xe9`` for other characters; values in ASCII, too, with marks; marks instead of values and texts. There are none
    of what is no event, or has nothing to change."""
    try:
        known: dict[str, Any] = {**decode(event)}
    except (ValueError, RecursionError):
        return
    texts = {key: _ascii(known[key]) for key in _TEXTS if isinstance(known.get(key), str)}
    texts |= {key: _ascii(known[key])[:MAX_NAME] for key in _NAMES if isinstance(known.get(key), str)}
    values = {key: known[key] for key in _VALUES if known.get(key) is not None}
    forms = (
        ("changed texts", texts),
        ("changed texts and values", texts | {key: _ascii_value(value) for key, value in values.items()}),
        (
            "neither values nor the text of an error",
            texts | {key: {MARK: "refused"} for key in values} | {key: REFUSED for key in _TEXTS if key in texts},
        ),
    )
    last = event
    for changed, members in forms:
        form: Any = {**known, **members}
        if (encoded := encode(form)) != last:
            yield Form(known["id"], encoded, changed)
        last = encoded


def _ascii(text: str) -> str:
    return text.replace("\0", r"\x00").encode("ascii", "backslashreplace").decode("ascii")


def _ascii_value(value: Any, *, in_mark: bool = False) -> Any:
    if isinstance(value, str):
        text = _ascii(value)
        return value if text == value else text if in_mark else {MARK: "replaced", "text": text}
    if isinstance(value, list):
        return [_ascii_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    in_mark = isinstance(value.get(MARK), str)
    items = {_ascii(key): _ascii_value(item, in_mark=in_mark) for key, item in value.items()}
    return items if items.keys() == value.keys() else {MARK: {MARK: "keys"}, **items}
