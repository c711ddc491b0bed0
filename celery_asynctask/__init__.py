"""Writes down every Celery execution as one true `AsyncTask` row in your SQL database.

Switch it on with ``Celery("proj", task_cls="celery_asynctask:RecordedTask")``. The names here are the public ones;
they are loaded when first used, so a process that only publishes does not import SQLAlchemy's ORM.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_asynctask.errors import AsyncTaskError, ContextError, JournalError, SettingsError
    from celery_asynctask.hooks import install, uninstall
    from celery_asynctask.lifecycle import AsyncTaskStatus
    from celery_asynctask.model import AsyncTask, AsyncTaskAttempt, AsyncTaskSource, Base
    from celery_asynctask.note import current
    from celery_asynctask.payload import is_whole
    from celery_asynctask.payload.redaction import SENSITIVE_NAMES
    from celery_asynctask.provenance import context
    from celery_asynctask.task import RecordedTask

__version__ = "0.1.0"

__all__ = [
    "SENSITIVE_NAMES",
    "AsyncTask",
    "AsyncTaskAttempt",
    "AsyncTaskError",
    "AsyncTaskSource",
    "AsyncTaskStatus",
    "Base",
    "ContextError",
    "JournalError",
    "RecordedTask",
    "SettingsError",
    "__version__",
    "context",
    "current",
    "install",
    "is_whole",
    "uninstall",
]

_HOME = {
    "AsyncTask": "model",
    "AsyncTaskAttempt": "model",
    "AsyncTaskSource": "model",
    "Base": "model",
    "AsyncTaskError": "errors",
    "ContextError": "errors",
    "JournalError": "errors",
    "SettingsError": "errors",
    "AsyncTaskStatus": "lifecycle",
    "RecordedTask": "task",
    "SENSITIVE_NAMES": "payload.redaction",
    "context": "provenance",
    "current": "note",
    "install": "hooks",
    "is_whole": "payload",
    "uninstall": "hooks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
