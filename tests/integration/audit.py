"""The entries of the audit in a store, and an audit that cannot be written."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from sqlalchemy import insert, make_url, select

from celery_asynctask.errors import StoreError
from celery_asynctask.operations.audit import Audit
from celery_asynctask.store import Store
from celery_asynctask.store.tables import async_task_audit


def entries(store: Store) -> list[Any]:
    """All rows, oldest first."""
    with store.engine.connect() as connection:
        return list(connection.execute(select(async_task_audit).order_by(async_task_audit.c.id)))


def columns(store: Store, *names: str) -> list[tuple[Any, ...]]:
    """These columns of all rows."""
    return [tuple(getattr(entry, name) for name in names) for entry in entries(store)]


def add_entries(store: Store, ages: list[int]) -> None:
    """Entries that are so many days old."""
    now = dt.datetime.now(dt.timezone.utc)
    shared = {"actor": "ada", "origin": "", "action": "rerun", "outcome": "done"}
    with store.engine.begin() as connection:
        connection.execute(insert(async_task_audit), [{**shared, "at": now - dt.timedelta(days=age)} for age in ages])


@contextmanager
def unwritable() -> Iterator[None]:
    """The audit cannot be written, as if its database were away."""
    with mock.patch.object(Audit, "_insert", side_effect=StoreError("The database is away.", "Start it.")):
        yield


@contextmanager
def user_with(store: Store, *grants: str) -> Iterator[str]:
    """URL of a user of the database who has these rights."""
    name, password = f"audit_{secrets.token_hex(4)}", secrets.token_hex(8)
    url = make_url(store.settings.url)
    is_postgresql = url.get_backend_name() == "postgresql"
    who = name if is_postgresql else f"'{name}'@'%%'"
    with store.engine.begin() as connection:
        made = f"CREATE ROLE {who} LOGIN PASSWORD" if is_postgresql else f"CREATE USER {who} IDENTIFIED BY"
        connection.exec_driver_sql(f"{made} '{password}'")
        for grant in grants:
            connection.exec_driver_sql(f"{grant} TO {who}")
    try:
        yield url.set(username=name, password=password).render_as_string(hide_password=False)
    finally:
        with store.engine.begin() as connection:
            if is_postgresql:
                connection.exec_driver_sql(f"DROP OWNED BY {who}")
            connection.exec_driver_sql(f"DROP {'ROLE' if is_postgresql else 'USER'} {who}")
