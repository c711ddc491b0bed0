"""Runs one query on a store, in a session of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from celery_asynctask.queries import Reader
from celery_asynctask.queries.types import Session

P = ParamSpec("P")
T = TypeVar("T")


def ask(query: Callable[Concatenate[Reader, Session, P], T], reader: Reader, *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of a query."""
    with reader.session() as session:
        return query(reader, session, *args, **kwargs)
