"""Mappings, also those of the standard library that are no dict, read where they keep what they hold.

Pure. As everywhere in this package no code of the user's runs: a subclass is read as what it is a subclass of, and a
mapping of his own is not read.
"""

from __future__ import annotations

import gc
import types
from collections import ChainMap, UserDict
from itertools import islice
from typing import Any, Final

from celery_asynctask.capture.payload.inspection import inherits, instance_dict

Pairs = tuple[list[tuple[Any, Any]], int]
"""Keys with their values, and how many there are in all (of a `ChainMap` that is not read to its end: at most)."""
_DEEPEST: Final = 20
"""Mappings in mappings that are looked into."""
_MOST_MAPS: Final = 10_000
"""Of a `ChainMap`."""
_PLAIN: Final = frozenset(map(id, (str, int, float, bool, type(None), bytes)))
"""Types, by their identity, that compare without code of the user's."""


def pairs(value: Any, limit: int | None = None, depth: int = 0) -> Pairs | None:
    """What a mapping holds, at most so much of it; None: it is none that can be read."""
    kind = type(value)
    if inherits(kind, dict):  # at one go: another thread may add to it
        return list(islice(dict.items(value), limit)), dict.__len__(value)
    if depth == _DEEPEST:
        return None
    if kind is types.MappingProxyType:  # its own methods call those of what it stands for
        [value] = gc.get_referents(value)
        return pairs(value, limit, depth + 1)
    if inherits(kind, UserDict):
        return pairs(dict.get(instance_dict(value), "data"), limit, depth + 1)
    if inherits(kind, ChainMap):
        return _chained(dict.get(instance_dict(value), "maps"), limit, depth + 1)
    return None


def _chained(maps: Any, limit: int | None, depth: int) -> Pairs | None:
    if not inherits(type(maps), list) or list.__len__(maps) > _MOST_MAPS:
        return None
    found: dict[Any, tuple[Any, Any]] = {}
    unread = 0
    for one in reversed(list(list.__iter__(maps))):
        read = pairs(one, limit, depth)
        if read is None:
            return None
        unread += read[1] - len(read[0])
        for key, value in read[0]:
            name = _name(key)
            found[name] = (found[name][0] if name in found else key, value)
    return list(found.values())[:limit], len(found) + unread


def _name(key: Any) -> Any:
    """What stands for a key, for its own comparison may be the user's."""
    kind = type(key)
    if id(kind) in _PLAIN:
        return key
    return str.__str__(key) if inherits(kind, str) else ("by identity", id(key))


def mapping_of(value: Any) -> dict[Any, Any] | None:
    """A mapping as a dict, itself if it is one; None: it is none that can be read, or has keys of the user's making."""
    if type(value) is dict:
        return value
    found = pairs(value)
    if found is None or any(not inherits(type(key), str) and id(type(key)) not in _PLAIN for key, _ in found[0]):
        return None
    return {_name(key): one for key, one in found[0]}
