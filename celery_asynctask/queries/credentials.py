"""What the record has about credentials: sessions that ended early, and when tokens were used last."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import select

from celery_asynctask.queries.reader import Reader
from celery_asynctask.store.tables import async_task_session, async_task_token


def has_ended(reader: Reader, session: str) -> bool:
    """Whether somebody signed out of a session. Raises `StoreError`."""
    found = select(async_task_session.c.session).where(async_task_session.c.session == session)
    with reader.connection(consistent=False) as connection:
        return connection.execute(found).first() is not None


def last_uses(reader: Reader) -> dict[str, dt.datetime]:
    """When each token was used last, by the beginning of its hash. Raises `StoreError`."""
    table = async_task_token.c
    with reader.connection() as connection:
        rows = connection.execute(select(table.token, table.last_used_at))
        return {row.token: row.last_used_at for row in rows}
