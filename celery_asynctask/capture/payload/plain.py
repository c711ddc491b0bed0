"""A fast way for arguments that JSON can represent as they are, as most: few, flat and short. The others need a walk.

Pure. `plain_text` may refuse arguments that a walk would not change, but never accepts any that it would change.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from celery_asynctask.capture.payload.commands import is_program
from celery_asynctask.capture.payload.hints import may_change_words, may_have_token
from celery_asynctask.capture.payload.named import NAMES, VALUES
from celery_asynctask.capture.payload.redaction import Redaction
from celery_asynctask.core.event import quote

MAX_ARGUMENTS: Final = 16
"""Most positional arguments, and most keyword arguments."""
_OVERHEAD: Final = 80
"""Bytes of JSON around a text: its key, quotes and signs."""
_ESCAPED: Final = 6
"""Most bytes of JSON for one character."""
_MAX_BITS: Final = 63
MAX_HARMLESS: Final = 7
"""Most characters of a string that is not searched for secrets."""
_MAX_NAME: Final = 64
PLAIN_KEY: Final = re.compile(r"[A-Za-z_][\w.\-]{0,63}\Z", re.ASCII).match
LEAST_TOKEN: Final = 12
"""Fewest characters of a token."""


def is_plain_key(key: str) -> bool:
    """Whether a key is written as it is, whatever is redacted."""
    return PLAIN_KEY(key) is not None and (len(key) < LEAST_TOKEN or not may_have_token(key))


def plain_text(  # noqa: PLR0912 - a function a case would cost every task
    args: Any, kwargs: Any, names: tuple[str, ...], redaction: Redaction | None, max_bytes: int
) -> str | None:
    """The arguments as the keys ``args`` and ``kwargs`` of a JSON object, without its braces, each within
    ``max_bytes``, if nothing in them is redacted or replaced; None: a walk must decide.

    Every task pays for this, so it checks and writes in one pass, and makes the remaining checks on the result.
    """
    if not ((type(args) is tuple or type(args) is list) and type(kwargs) is dict):
        return None
    if (
        len(args) > MAX_ARGUMENTS
        or len(kwargs) > MAX_ARGUMENTS
        or (redaction is not None and redaction.rule is not None)
    ):
        return None
    limit = (max_bytes // MAX_ARGUMENTS - _OVERHEAD) // _ESCAPED
    texts = []
    for value in (*args, *kwargs.values()):
        kind = type(value)
        if kind is str:
            if len(value) > limit:
                return None
            texts.append(quote(value))
        elif kind is int:
            if value.bit_length() > _MAX_BITS:
                return None
            texts.append(str(value))
        elif value is None:
            texts.append("null")
        elif kind is bool:
            texts.append("true" if value else "false")
        else:
            return None
    for name in kwargs:
        if type(name) is not str or len(name) > _MAX_NAME:
            return None
    form = _form(tuple(kwargs), len(args), names[: len(args)], redaction)
    if form is None or limit <= 0:
        return None
    text = form % tuple(texts)
    if redaction is None:
        return None if "\\u" in text else text  # not ASCII, or NUL
    if (
        text.count(":") > len(kwargs) + 2  # one after each key
        or "\\" in text  # quotes, or not ASCII, or NUL
        or "=" in text
        or "'" in text
        or "%" in text
        or may_change_words(text)
        or (len(args) in (2, 3) and type(args[0]) is str and redaction.sensitive(args[0]))
        or (args and type(args[0]) is str and is_program(args[0]))
    ):  # something that redaction might take
        return None
    return text


@lru_cache(maxsize=1024)
def _form(keys: tuple[str, ...], count: int, names: tuple[str, ...], redaction: Redaction | None) -> str | None:
    """The JSON of ``count`` positional arguments and of keyword arguments with these keys, with ``%s`` for each value;
    None if a key would be changed, or a value with one of the names be redacted."""
    if not all(map(is_plain_key, keys)):
        return None
    if redaction is not None and (
        _has_pair(keys) or _has_pair(names) or any(map(redaction.sensitive, (*keys, *names)))
    ):
        return None
    named = [f'"{key}":%s' for key in keys]
    return f'"args":[{",".join(["%s"] * count)}],"kwargs":{{{",".join(named)}}}'


def _has_pair(keys: tuple[str, ...]) -> bool:
    """Whether one of the values may be named by another."""
    return not VALUES.isdisjoint(keys) and not NAMES.isdisjoint(keys)
