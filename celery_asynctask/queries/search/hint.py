"""What a person probably meant by a search that finds nothing. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from celery_asynctask.core.status import SHOWN
from celery_asynctask.queries.search.filter import ANY, Filter, Term, is_index, quoted
from celery_asynctask.queries.search.keys import ALIASES, KEYS

_WHOLE: Final = {
    "name": "name",
    "error": "class",
    "created_by_name": "name",
    "worker": "node name",
    "queue": "name",
    "periodic": "name",
}
"""Keys that a text must match from its beginning to its end, each with what that text is."""
_LITERAL: Final = re.compile(r"\[(.)\]", re.DOTALL)
"""A quoted wildcard, or a bracket."""
_COMPARED: Final = re.compile(r"(?P<key>\w+)(?P<path>(?:\.[^.=<>]+)*)(?P<sign>=|[<>]=?)(?P<value>.+)", re.DOTALL)
_PLAIN: Final = re.compile(r"[\w.@/+-]+")
"""A text that needs no quotes in a search."""


def hint(search: Filter) -> str | None:
    """A sentence that corrects a search without results; None where nothing looks wrong."""
    for term in search.terms:
        globs = [value.value for value in term.values if value.operator == "=" and isinstance(value.value, str)]
        if not term.negated and globs and (sentence := _hint(term, globs)):
            return sentence
    return None


def _hint(term: Term, globs: Sequence[str]) -> str | None:
    if term.key == "name" and (meant := _meant(globs)):
        return f"Did you mean {meant}?"
    if term.key == "args" and term.path and not is_index(term.path[0]):
        value = globs[0] if _PLAIN.fullmatch(globs[0]) else "value"
        return f"args needs a position: args.0.{'.'.join(term.path)}:{value}"
    if term.key not in _WHOLE:
        return None
    text = _LITERAL.sub(r"\1", globs[0])
    case = "" if term.key == "name" or text.upper() == text.lower() else " Upper and lower case differ."
    if any(sign in _LITERAL.sub("", globs[0]) for sign in "*?"):
        return case.strip() or None
    part = text if _PLAIN.fullmatch(text) else quoted(text)
    return f"{term.key}: takes the whole {_WHOLE[term.key]}; {term.key}:*{part}* finds a part.{case}"


def _meant(globs: Sequence[str]) -> str | None:
    """The term that words without a key were meant to be; such words are parts of the name."""
    words = [_LITERAL.sub(r"\1", glob[1:-1]) for glob in globs if len(glob) > 2 and glob[0] == glob[-1] == ANY]
    if not words or len(words) < len(globs):
        return None
    if all(word.upper() in SHOWN for word in words):
        return f"status:{','.join(word.upper() for word in words)}"
    match = _COMPARED.fullmatch(",".join(words))
    if match is None:
        return None
    key = match["key"].lower()
    if key not in KEYS and key not in ALIASES:
        return None
    sign = "" if match["sign"] == "=" else match["sign"]
    value = match["value"] if re.fullmatch(r"[\w.,@/*?+-]+", match["value"]) else quoted(match["value"])
    return f"{key}{match['path']}:{sign}{value}"
