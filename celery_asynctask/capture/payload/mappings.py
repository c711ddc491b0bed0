"""Reads mappings, also those of the standard library that are no dict, from where they keep their items.

Pure. As everywhere in `payload`, no code of the user's runs: a subclass is read as its base class, and a mapping class
of the user's own is not read.
"""

from __future__ import annotations

import gc
import types
from collections import ChainMap, UserDict
from itertools import islice
from typing import Any, Final

from celery_asynctask.capture.payload.inspection import inherits, instance_dict

Pairs = tuple[list[tuple[Any, Any]], int]
"""Keys with their values, and the number of all keys (of a `ChainMap` that is not read to its end, the largest
possible)."""
_MAX_DEPTH: Final = 20
"""Levels of mappings in mappings that are read."""
_MAX_MAPS: Final = 10_000
"""Most mappings in a `ChainMap` that is read."""
_PLAIN: Final = frozenset(map(id, (str, int, float, bool, type(None), bytes)))
"""Types, by identity, that compare without running code of the user's."""


def pairs(value: Any, limit: int | None = None, depth: int = 0) -> Pairs | None:
    """The items of a mapping, at most ``limit``; None: the value is no mapping that can be read."""
    kind = type(value)
    if inherits(kind, dict):  # all at once: another thread may add to it
        return list(islice(dict.items(value), limit)), dict.__len__(value)
    if depth == _MAX_DEPTH:
        return None
    if kind is types.MappingProxyType:  # its own methods call those of the mapping behind it
        [value] = gc.get_referents(value)
        return pairs(value, limit, depth + 1)
    if inherits(kind, UserDict):
        return pairs(dict.get(instance_dict(value), "data"), limit, depth + 1)
    if inherits(kind, ChainMap):
        return _chained(dict.get(instance_dict(value), "maps"), limit, depth + 1)
    return None


def _chained(maps: Any, limit: int | None, depth: int) -> Pairs | None:
    if not inherits(type(maps), list) or list.__len__(maps) > _MAX_MAPS:
        return None
    items: dict[Any, tuple[Any, Any]] = {}
    unread = 0
    for chained in reversed(list(list.__iter__(maps))):
        read = pairs(chained, limit, depth)
        if read is None:
            return None
        unread += read[1] - len(read[0])
        for key, value in read[0]:
            name = _name(key)
            items[name] = (items[name][0] if name in items else key, value)
    return list(items.values())[:limit], len(items) + unread


def _name(key: Any) -> Any:
    """A substitute for a key, because comparing the key may run code of the user's."""
    kind = type(key)
    if id(kind) in _PLAIN:
        return key
    return str.__str__(key) if inherits(kind, str) else ("by identity", id(key))


def mapping_of(value: Any) -> dict[Any, Any] | None:
    """A mapping as a dict (itself if it is one); None: it cannot be read, or has keys of a type of the user's."""
    if type(value) is dict:
        return value
    read = pairs(value)
    if read is None or any(not inherits(type(key), str) and id(type(key)) not in _PLAIN for key, _ in read[0]):
        return None
    return {_name(key): member for key, member in read[0]}
