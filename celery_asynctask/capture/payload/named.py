"""Finds the members of mappings and lists whose names are members, too: ``{"name": "password", "value": ...}``,
``["Authorization", ...]``, ``["--password", ...]``, and the fields of named tuples.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from celery_asynctask.capture.payload.commands import hidden_arguments, is_option, is_program
from celery_asynctask.capture.payload.inspection import inherits, tuple_fields
from celery_asynctask.capture.payload.names import Names, name_words, words_of

ITEM: Final = "\0item"
"""The name of an element of a list."""
_MAX_PAIR: Final = 64
"""Characters of a text that may be the name of what follows it."""
_MAX_ELEMENTS: Final = 10_000
"""Elements of a list that are looked at."""
_HEADER: Final = re.compile(r"[^\W\d][\w\-]{0,63}(?: [\w\-]{1,20})?\Z").match
"""A text that looks like a name."""
_LISTS: Final = frozenset(
    (word,)
    for word in words_of(
        "attributes columns exclude excluded fields include included keys missing names only parameters params "
        "permissions required scopes words"
    )
)
"""Last words of the names of lists that have names alone."""


def _spellings(*names: str) -> frozenset[str]:
    """Names of lower-case words in each usual style of writing."""
    spelled = set()
    for name in names:
        words = name.split()
        titles = [word.title() for word in words]
        for sign in ("_", "-", " ", ""):
            spelled |= {sign.join(words), sign.join(words).upper(), sign.join(titles)}
        spelled.add("".join([words[0], *titles[1:]]))
    return frozenset(spelled)


NAMES: Final = _spellings(
    *("name", "key", "field", "field name", "header", "header name", "key name", "option", "param", "parameter"),
    *("parameter key", "parameter name", "variable", "variable name", "var", "property", "property name", "attribute"),
    *("attribute name", "setting", "column", "label", "id", "kind", "type", "path", "loc", "k"),
)
"""Keys of a mapping whose value may be the name of another one's."""
VALUES: Final = _spellings(
    *(
        "value",
        "values",
        "val",
        "v",
        "content",
        "data",
        "input",
        "default",
        "parameter value",
        "string value",
        "string data",
    ),
    *("old", "new", "old value", "new value", "before", "after", "from", "to", "current", "previous", "actual"),
)
"""Keys of a mapping whose value has that name."""


def named_beside(items: Mapping[str, Any], names: Names) -> list[str]:
    """The keys of the values in a mapping that has their sensitive name as a value: ``{"Key": "password", "Value":
    ...}``, or as the last part of one: ``{"loc": ["body", "password"], "input": ...}``."""
    for key in NAMES.intersection(items):
        name = items[key]
        if type(name) is list and name:
            name = name[-1]
        if type(name) is str and names.sensitive(name):
            return [key for key in items if key in VALUES]
    return []


def hidden_items(value: Any, base: Any, names: Names, name: str, parameters: tuple[str, ...] = ()) -> Collection[int]:
    """The indexes of the elements of a filled list or tuple that have a sensitive name by what is beside them: after a
    name or an option, or in a field of a named tuple. ``base`` is the built-in type that reads it, ``name`` what is
    above it, `ITEM` in another list; ``parameters`` are the names of the first elements, if they are known."""
    first = base.__getitem__(value, 0)
    has_text = type(first) is str or type(first) is bytes
    if not has_text and base.__len__(value) > 1:
        has_text = type(base.__getitem__(value, 1)) is str
    hidden: set[int] = set()
    if type(value) is not base and (fields := tuple_fields(type(value))):
        parent = name if names.opens(name) else ""
        hidden = {at for at, field in enumerate(fields) if names.sensitive(field)}
        hidden |= {at for at, field in enumerate(fields) if parent and names.sensitive(f"{parent} {field}")}
        parameters = fields
    if parameters and not NAMES.isdisjoint(parameters) and not VALUES.isdisjoint(parameters):
        beside = named_beside(dict(zip(parameters, base.__iter__(value), strict=False)), names)
        hidden |= {parameters.index(key) for key in beside}
    if not has_text:
        return hidden
    elements = base.__getitem__(value, slice(0, _MAX_ELEMENTS))
    last_word = name_words(name)[-1:] if name != ITEM else ()
    if _is_pair(value, base, names, name, last_word):
        hidden.add(1)
    if last_word == ("headers",):
        hidden |= {at + 1 for at in range(0, len(elements) - 1, 2) if names.sensitive(short_text(elements[at]))}
    return hidden | _in_command(elements, names)


def _is_pair(value: Any, base: Any, names: Names, name: str, last_word: tuple[str, ...]) -> bool:
    """Whether a list is a name and its value: ``["Authorization", ...]``, also with a third element after them, as
    HTTP/2's have. A list of fields, ``{"only": ["password", "email"]}``, is none."""
    in_list, size = name == ITEM, base.__len__(value)
    if size != 2 and not (size == 3 and (in_list or base is tuple)):
        return False
    text = short_text(base.__getitem__(value, 0))
    if not in_list and (
        not _HEADER(text) or last_word in _LISTS or type(base.__getitem__(value, 1)) not in (str, bytes)
    ):
        return False
    return names.sensitive(text)


def _in_command(elements: Sequence[Any], names: Names) -> set[int]:
    options = {at for at, one in enumerate(elements) if type(one) is str and one[:1] == "-"}
    hidden = {
        at + 1
        for at in options
        if at + 1 < len(elements) and at + 1 not in options and is_option(elements[at], names.sensitive)
    }
    if options or is_program(short_text(elements[0])):
        hidden |= hidden_arguments(elements, names.sensitive)
    return hidden


def says_nothing(value: Any) -> bool:
    """Whether a value is no secret, whatever its name: None, a bool or the empty text."""
    return value is None or value is True or value is False or (type(value) is str and not value)


def member(pairs: list[tuple[Any, Any]], name: str) -> Any:
    """The value of the key that is this text."""
    return next((value for key, value in pairs if inherits(type(key), str) and str.__eq__(key, name)), None)


def short_text(value: Any) -> str:
    """A short string, or short bytes as one, which may be the name of a header; else empty."""
    if type(value) is bytes and len(value) <= _MAX_PAIR:
        return value.decode("latin-1")
    return value if type(value) is str and len(value) <= _MAX_PAIR else ""
