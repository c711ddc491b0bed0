"""`Scope`: which tasks somebody may see, as conditions of SQL."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import lru_cache
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.dialects import postgresql

from celery_asynctask.core.ids import Id, keys_of
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.store.models import AsyncTask

MAX_IDS: Final = 10_000
"""Customers or creators of a scope."""
_MAX_LISTED: Final = 100
"""Keys that are bound one by one. A statement has a scope up to 50 times, and takes 32,766 values on SQLite, 65,535 on
PostgreSQL."""
_CACHED: Final = 100

SHOWN: Final = AsyncTask.status != AsyncTaskStatus.UNRECORDED
"""Condition of the tasks that anybody may see."""
HAS_CUSTOMER: Final = AsyncTask.customer_key != sa.literal_column("''")
"""As the partial index on the customer has it: SQLite uses that for no other condition, and PostgreSQL proves it from
no list of over a hundred customers."""
_HAS_CREATOR: Final = AsyncTask.created_by_key.is_not(None)
"""As the partial index on the creator has it."""


class Scope(NamedTuple):
    """The tasks of these customers that these creators created, by their keys. None: all customers, all creators; only
    then those without one. The empty key stands for no customer."""

    customers: frozenset[str] | None = None
    creators: frozenset[str] | None = None

    @classmethod
    def of(cls, customers: Collection[Id] | None = None, creators: Collection[Id] | None = None) -> Scope:
        """The scope of customers and creators by their ids. Raises `ValueError` for what is no id."""
        return cls(*(None if ids is None else keys_of(ids) for ids in (customers, creators)))

    @property
    def is_all(self) -> bool:
        """Whether it has all tasks."""
        return self == ALL

    @property
    def has_several(self) -> bool:
        """Whether it has tasks of several customers, so that several tasks may have one id."""
        return self.customers is None or len(self.customers) > 1

    def narrowed(self, customer: str) -> Scope:
        """The part of it that is of one customer, by its key; empty: tasks without a customer."""
        is_in = self.customers is None or customer in self.customers
        return self._replace(customers=frozenset([customer] if is_in else []))

    def conditions(self, dialect: str) -> list[ColumnElement[bool]]:
        """Conditions of its tasks for a dialect of SQLAlchemy, each with an index; none: it has all tasks."""
        return _conditions(self, dialect)


ALL: Final = Scope()


@lru_cache(_CACHED)
def _conditions(scope: Scope, dialect: str) -> list[ColumnElement[bool]]:
    of_both = [] if scope.customers is None else [of_customers(scope.customers, dialect)]
    return of_both if scope.creators is None else [*of_both, of_creators(scope.creators, dialect)]


def of_customers(customers: Collection[str], dialect: str = "") -> ColumnElement[bool]:
    """Condition of the tasks of some customers, by their keys; the empty key stands for none. Without a ``dialect`` of
    SQLAlchemy, of a few."""
    one_of = _one_of(AsyncTask.customer_key, customers, dialect)
    return one_of if "" in customers else sa.and_(one_of, HAS_CUSTOMER)


def of_creators(creators: Collection[str], dialect: str = "") -> ColumnElement[bool]:
    """Condition of the tasks of some creators, as `of_customers`."""
    return sa.and_(_one_of(AsyncTask.created_by_key, creators, dialect), _HAS_CREATOR)


def _one_of(column: Any, keys: Collection[str], dialect: str) -> Any:
    """Whether a column has one of some keys; many are bound as one value."""
    ordered = sorted(keys)
    if len(ordered) > _MAX_LISTED and dialect == "postgresql":
        texts = sa.bindparam(None, ordered, postgresql.ARRAY(sa.Text()), unique=True)
        return column == sa.any_(texts)
    if len(ordered) > _MAX_LISTED and dialect == "sqlite":
        return column.in_(sa.select(sa.func.json_each(json.dumps(ordered)).table_valued("value").c.value))
    return column.in_(ordered)  # PyMySQL writes values into the statement: there is no limit
