"""Hears that an app is closed: what it has recorded is stored, and nothing is kept for it any longer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from celery_asynctask.errors import guard

if TYPE_CHECKING:
    from celery import Celery

    from celery_asynctask.capture.instrumentation import Instrumentation

_CLOSE: Final = "close"


def wrap(app: Celery, instrumentation: Instrumentation) -> None:
    """Close the instrumentation whenever ``app`` is closed from now on; also by ``with``."""
    app.__dict__[_CLOSE] = _Close(app, instrumentation)


def unwrap(app: Celery) -> None:
    """Undo `wrap`."""
    close = app.__dict__.get(_CLOSE)
    if isinstance(close, _Close):
        del app.__dict__[_CLOSE]
        if close.given is not None:
            app.__dict__[_CLOSE] = close.given


class _Close:
    """Replaces ``app.close``, and calls it first."""

    def __init__(self, app: Celery, instrumentation: Instrumentation) -> None:
        self.given = app.__dict__.get(_CLOSE)
        """What was in its place before us; None: nothing."""
        self._close = app.close
        self._instrumentation = instrumentation

    def __call__(self) -> Any:
        try:
            return self._close()
        finally:
            on_close(self._instrumentation)


@guard
def on_close(instrumentation: Instrumentation) -> None:
    instrumentation.close()
