"""The audit: who did what, from where, and how it ended. Entries are inserted and never changed."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from sqlalchemy import insert

from celery_asynctask.core.text import clean
from celery_asynctask.core.time import now, time_of
from celery_asynctask.operations.session import Writer
from celery_asynctask.settings import Settings
from celery_asynctask.store.tables import async_task_audit

MAX_TEXT: Final = 2000
"""Characters of a target or a detail."""
_MAX_NAME: Final = 255


class Action(str, enum.Enum):
    """What was done."""

    SIGN_IN = "sign-in"
    SIGN_OUT = "sign-out"
    RERUN = "rerun"
    PURGE = "purge"
    ERASE = "erase"
    EXPORT = "export"


class Outcome(str, enum.Enum):
    """How it ended."""

    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


class Entry(NamedTuple):
    """One action."""

    action: Action
    actor: str
    """Who: the name of a token or of an `Access`, or the user of the operating system."""
    origin: str
    """From where: an address, or ``command line of HOST``."""
    target: str | None = None
    """To what: a task id, a search, a customer."""
    outcome: Outcome = Outcome.DONE
    detail: str | None = None
    """More in words, such as numbers and reasons."""


class Audit:
    """Writes entries into one store."""

    def __init__(self, settings: Settings) -> None:
        self._writer = Writer(settings)

    def write(self, entry: Entry) -> None:
        """Store an entry, with the present time. Raises `StoreError`."""
        values = {
            "at": time_of(now()),
            "actor": clean(entry.actor)[:_MAX_NAME],
            "origin": clean(entry.origin)[:_MAX_NAME],
            "action": entry.action.value,
            "target": _text(entry.target),
            "outcome": entry.outcome.value,
            "detail": _text(entry.detail),
        }
        with self._writer.connection() as connection, connection.begin():
            connection.execute(insert(async_task_audit).values(values))

    def close(self) -> None:
        """Give the connections back."""
        self._writer.close()


def _text(text: str | None) -> str | None:
    return None if text is None else clean(text)[:MAX_TEXT]
