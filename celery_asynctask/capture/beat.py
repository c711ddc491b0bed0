"""Which entry of the schedule beat is sending: Celery 5.7 puts no word of it into the message (celery/beat.py)."""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import Any

from celery_asynctask.errors import guard

_entry: ContextVar[str | None] = ContextVar("celery_asynctask_periodic_entry", default=None)


def entry_name() -> str | None:
    """Name of the schedule entry that this thread is sending, None outside beat."""
    return _entry.get()


@guard
def on_beat_init(sender: Any, **_: Any) -> None:
    """Wrap the scheduler of a beat service that starts, so that `entry_name` knows."""
    scheduler = sender.scheduler
    send = scheduler.apply_async

    @functools.wraps(send)
    def apply_async(entry: Any, *args: Any, **kwargs: Any) -> Any:
        token = _entry.set(str(entry.name))
        try:
            return send(entry, *args, **kwargs)
        finally:
            _entry.reset(token)

    scheduler.apply_async = apply_async
