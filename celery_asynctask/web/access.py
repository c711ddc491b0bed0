"""What a caller may see and do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from celery_asynctask.core.ids import Id, keys_of
from celery_asynctask.core.limits import MAX_NAME
from celery_asynctask.core.rights import Right
from celery_asynctask.core.text import one_line
from celery_asynctask.queries.scope import MAX_IDS, Scope


class AccessError(TypeError, ValueError):
    """Values that cannot be an `Access`."""


@dataclass(frozen=True)
class Access:
    """What a caller may see and do. The function `asynctask_access` returns one, or None for an unknown caller."""

    customers: Iterable[Id] | None = field(default_factory=frozenset)
    """Ids of the customers whose tasks the caller sees (numbers, UUIDs or texts), kept as a frozenset of their texts;
    None: all tasks, also those without a customer. By default no tasks."""
    rights: Set[Right | str] = frozenset({Right.READ})
    """Members of `Right`, or their names."""
    name: str = ""
    """Name of the caller, recorded with reruns and logged with purges: at most 255 characters are kept."""
    created_by: Iterable[Id] | None = None
    """Ids of the creators whose tasks the caller sees, in addition to ``customers``; None: tasks of all creators."""

    def __post_init__(self) -> None:
        """Raises `AccessError` for wrong values: a slip must not grant anything."""
        if not isinstance(self.rights, (set, frozenset, list, tuple)):
            raise AccessError(f"rights must be a set of names, not a {type(self.rights).__name__}")
        if not isinstance(self.name, str):
            raise AccessError(f"name must be a str, not a {type(self.name).__name__}")
        try:
            rights = frozenset(Right(right) for right in self.rights)
        except ValueError as exc:
            known = ", ".join(right.value for right in Right)
            raise AccessError(f"rights must be of {known}: {str(exc)[:80]}") from None
        object.__setattr__(self, "customers", _keys("customers", self.customers))
        object.__setattr__(self, "rights", rights)
        object.__setattr__(self, "name", one_line(str.__str__(self.name)[:MAX_NAME])[:MAX_NAME])
        object.__setattr__(self, "created_by", _keys("created_by", self.created_by))

    @property
    def scope(self) -> Scope:
        """The tasks that the caller sees."""
        keys: Any = (self.customers, self.created_by)
        return Scope(*keys)

    def may(self, right: Right) -> bool:
        """Whether the caller has a right."""
        return right in self.rights


def _keys(name: str, ids: Iterable[object] | None) -> frozenset[str] | None:
    """The keys of the ids in one field of an `Access`; None: all. Raises `AccessError`."""
    if ids is None:
        return None
    if isinstance(ids, (str, bytes, bytearray, memoryview, Mapping)) or not isinstance(ids, Iterable):
        raise AccessError(f"{name} must be None or a set of ids, not a {type(ids).__name__}")
    given = list(islice(ids, MAX_IDS + 1))
    if len(given) > MAX_IDS:
        raise AccessError(f"{name} has more than {MAX_IDS:,} ids. Use None for a caller who may see all of them")
    try:
        return keys_of(given)
    except ValueError as exc:
        raise AccessError(f"{name} must be ids, each {exc}") from None
