"""What a caller may see and do."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from celery_asynctask.core.ids import Id, keys_of
from celery_asynctask.core.rights import Right


@dataclass(frozen=True)
class Access:
    """What a caller may see and do. The function `asynctask_access` returns one, or None for an unknown caller."""

    customers: Set[Id] | None = field(default_factory=frozenset)
    """Ids of the customers whose tasks the caller sees (numbers, UUIDs or texts), kept as their texts; None: all tasks,
    also those without a customer. By default no tasks."""
    rights: Set[Right | str] = frozenset({Right.READ})
    """Members of `Right`, or their names."""
    name: str = ""
    """Name of the caller, recorded with reruns and logged with purges."""

    def __post_init__(self) -> None:
        """Raises `TypeError` and `ValueError` for wrong values: a slip must not grant anything."""
        customers = self.customers
        if customers is not None:
            if isinstance(customers, (str, bytes, Mapping)):
                raise TypeError(f"customers must be None or a set of ids, not a {type(customers).__name__}")
            try:
                customers = keys_of(customers)
            except ValueError as exc:
                raise TypeError(f"customers must be ids, each {exc}") from None
        if not isinstance(self.rights, (set, frozenset, list, tuple)):
            raise TypeError(f"rights must be a set of names, not a {type(self.rights).__name__}")
        object.__setattr__(self, "customers", customers)
        object.__setattr__(self, "rights", frozenset(Right(right) for right in self.rights))
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a str, not a {type(self.name).__name__}")

    def may(self, right: Right) -> bool:
        """Whether the caller has a right."""
        return right in self.rights
