"""Arguments that are their own JSON, as most are: few, flat and short. Recognized without the walk that others need.

Pure. `plain_text` may say no to what a walk would leave as it is, never yes to what it would change.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from celery_asynctask.capture.payload.redaction import Redaction
from celery_asynctask.core.event import quote

MANY: Final = 16
"""Arguments that are looked at, positional and keyword each."""
_OVERHEAD: Final = 80
"""Bytes of JSON around a text: its key, quotes and signs."""
_ESCAPED: Final = 6
"""Bytes of JSON that one character may take."""
_BITS: Final = 63
SHORTEST: Final = 7
"""Characters of the shortest string in which a secret is looked for."""
_LONGEST_NAME: Final = 64
PLAIN_KEY: Final = re.compile(r"[A-Za-z_][\w.\-]{0,63}\Z", re.ASCII).match


def plain_text(  # noqa: PLR0912 - a function a case would cost every task
    args: Any, kwargs: Any, names: tuple[str, ...], redaction: Redaction | None, max_bytes: int
) -> str | None:
    """The arguments as the keys ``args`` and ``kwargs`` of a JSON object, without its braces, each within
    ``max_bytes``, if nothing of them is redacted or replaced; None: a walk must see.

    Every task pays for it: checks and writes in one go, and looks for the rest in what was written.
    """
    if not ((type(args) is tuple or type(args) is list) and type(kwargs) is dict):
        return None
    if len(args) > MANY or len(kwargs) > MANY or (redaction is not None and redaction.rule is not None):
        return None
    limit = (max_bytes // MANY - _OVERHEAD) // _ESCAPED
    texts = []
    for value in (*args, *kwargs.values()):
        kind = type(value)
        if kind is str:
            if len(value) > limit:
                return None
            texts.append(quote(value))
        elif kind is int:
            if value.bit_length() > _BITS:
                return None
            texts.append(str(value))
        elif value is None:
            texts.append("null")
        elif kind is bool:
            texts.append("true" if value else "false")
        else:
            return None
    for name in kwargs:
        if type(name) is not str or len(name) > _LONGEST_NAME:
            return None
    form = _form(tuple(kwargs), len(args), names[: len(args)], redaction)
    if form is None or limit <= 0:
        return None
    text = form % tuple(texts)
    if "\\u" in text:  # not ASCII, or NUL
        return None
    if redaction is not None and (
        text.count(":") > len(kwargs) + 2  # one behind each key
        or "=" in text
        or "earer " in text
        or "eyJ" in text
        or "PRIVATE KEY-----" in text
    ):  # something that `Redaction.text` would look at
        return None
    return text


@lru_cache(maxsize=1024)
def _form(keys: tuple[str, ...], count: int, names: tuple[str, ...], redaction: Redaction | None) -> str | None:
    """So many positional arguments and keyword arguments with these keys as JSON, ``%s`` in place of each value; None
    where a key does not stand in JSON as it is, or what has one of these names is redacted."""
    if not all(map(PLAIN_KEY, keys)):
        return None
    if redaction is not None and ("value" in keys or any(map(redaction.sensitive, (*keys, *names)))):
        return None
    named = [f'"{key}":%s' for key in keys]
    return f'"args":[{",".join(["%s"] * count)}],"kwargs":{{{",".join(named)}}}'
