"""Which entry of the schedule beat is sending: Celery 5.7 puts no word of it into the message (celery/beat.py)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from celery_asynctask.capture.celery_private import hear_of_entries, tell_missing
from celery_asynctask.errors import guard

_entry: ContextVar[str | None] = ContextVar("celery_asynctask_periodic_entry", default=None)


def entry_name() -> str | None:
    """Name of the schedule entry that this thread is sending, None outside beat."""
    return _entry.get()


@guard
def on_beat_init(sender: Any, **_: Any) -> None:
    """Wrap the scheduler of a beat service that starts, so that `entry_name` knows."""
    hear_of_entries(sender, _named)
    tell_missing(sender.app)


def _named(send: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(send)
    def apply_async(entry: Any, *args: Any, **kwargs: Any) -> Any:
        token = _entry.set(str(entry.name))
        try:
            return send(entry, *args, **kwargs)
        finally:
            _entry.reset(token)

    return apply_async
