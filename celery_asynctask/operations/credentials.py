"""What a server writes about credentials: sessions that ended early, and when tokens were used."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import delete, insert, update
from sqlalchemy.exc import IntegrityError

from celery_asynctask.core.time import now, time_of
from celery_asynctask.errors import StoreError
from celery_asynctask.operations.session import Writer, bounded
from celery_asynctask.queries.reader import look_for_file
from celery_asynctask.settings import Settings
from celery_asynctask.store.tables import async_task_session, async_task_token


class Use(NamedTuple):
    """The last use of a token."""

    name: str
    at: dt.datetime


class Credentials:
    """Writes into one store. Raises `StoreError`."""

    def __init__(self, settings: Settings) -> None:
        self._writer = Writer(bounded(settings))

    def end_session(self, session: str, expires_at: dt.datetime) -> None:
        """Store that a session ended, and forget those that have expired meanwhile."""
        look_for_file(self._writer.settings.url)
        table = async_task_session
        try:
            with self._writer.connection() as connection, connection.begin():
                connection.execute(delete(table).where(table.c.expires_at < time_of(now())))
                connection.execute(insert(table).values(session=session, expires_at=expires_at))
        except StoreError as exc:
            if not isinstance(exc.__cause__, IntegrityError):  # which says that it is there already
                raise

    def used(self, uses: Mapping[str, Use]) -> None:
        """Store when tokens were used last, by the beginnings of their hashes."""
        look_for_file(self._writer.settings.url)
        table = async_task_token
        for key, use in uses.items():
            values = {"name": use.name, "last_used_at": use.at}
            try:
                with self._writer.connection() as connection, connection.begin():
                    if not connection.execute(update(table).where(table.c.token == key).values(values)).rowcount:
                        connection.execute(insert(table).values(token=key, **values))
            except StoreError as exc:
                if not isinstance(exc.__cause__, IntegrityError):  # of another server process, at the same moment
                    raise

    def close(self) -> None:
        """Give the connections back."""
        self._writer.close()
