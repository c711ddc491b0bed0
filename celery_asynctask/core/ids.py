"""The ids of customers and creators as keys: texts, by which rows are found, whatever type an id has. Pure."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from typing import Final

from celery_asynctask.core.limits import MAX_ID_TEXT, MAX_INTEGER

Id = int | str | uuid.UUID
"""A whole number of at most 64 bits, a UUID, or a text of at most 64 characters."""
ALLOWED: Final = (
    f"a whole number of at most 64 bits, a UUID, or a text of 1 to {MAX_ID_TEXT} characters without spaces at its ends "
    "and line breaks"
)
_NUMBER: Final = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)


def is_id(value: object) -> bool:
    """Whether a value is an id."""
    try:
        key_of(value)
    except ValueError:
        return False
    return True


def key_of(value: object) -> str:
    """The key of an id; that of a number is its text. Raises `ValueError` for a value that is no id, the empty text
    included, which is the key of tasks without a customer."""
    # By the methods of the types themselves: a subclass, such as an enumeration of texts, may write its values as it
    # likes.
    if isinstance(value, int) and not isinstance(value, bool):
        number = int.__int__(value)
        if -MAX_INTEGER <= number <= MAX_INTEGER:
            return str(number)
    elif isinstance(value, uuid.UUID):
        return uuid.UUID.__str__(value)
    elif isinstance(value, str) and _is_key(text := str.__str__(value)):
        return text
    raise ValueError(ALLOWED)


def _is_key(text: str) -> bool:
    return 0 < len(text) <= MAX_ID_TEXT and text.strip() == text and text.isprintable()


def keys_of(values: Iterable[object]) -> frozenset[str]:
    """The keys of some ids. Raises `ValueError`."""
    return frozenset(map(key_of, values))


def shown(key: str) -> int | str:
    """A key as JSON shows it: the number whose text it is, else the text."""
    is_number = _NUMBER.fullmatch(key) is not None and abs(int(key)) <= MAX_INTEGER
    return int(key) if is_number else key
