"""Writes down every Celery execution as one true `AsyncTask` row in your SQL database.

Switch it on with ``Celery("proj", task_cls="celery_asynctask:RecordedTask")``. The names here are the public ones;
they are loaded when first used, so a process that only publishes does not import SQLAlchemy's ORM.

What lies where, each part importing only what stands above it (`tests/unit/test_architecture.py` has the arrows):

* `core`: events, their fold into rows, keys, the columns, what became of every event. No Celery, no SQLAlchemy.
* `journal`: the files on disk between the processes that record and the recorder.
* `store`: the tables, and the only code that writes them. `migrations` are Alembic's.
* `recorder`: drains the journal into the store, one on each node.
* `capture`: hears what Celery does, in the user's processes; `capture.install` lists every hook.
* `queries`: reads the tables. `operations`: changes something (send again, purge, erase, import, upgrade) and `doctor`.
* `present`: words, signs and drawings. `web`: what the API and the console share.
* `cli`, `console` and `http` (the API): what people and programs see.

What happens, file by file:

* A task is sent: `capture.publish`, `capture.extract` makes the event, `capture.instrumentation` hands it to
  `journal.writer`. When it starts and when it ends, `capture.run` takes the place of `capture.publish`.
* Its events become a row: `recorder.recorder`, `recorder.drain`, `store.store`, `store.fold`; `core.fold` where the
  database cannot read events itself. Which of two events decides a column: its group in `core.columns`, whose key
  `core.keys` makes.
* Somebody asks for the list: `http.application`, `http.tasks`, `web.service`, `web.parameters`, `queries.search.page`,
  `queries.reader`, `queries.search.condition`, `web.answer`.

To add a column: a line in `core.columns`, a migration, and the place in `capture` that writes its event key.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_asynctask.capture.context import context
    from celery_asynctask.capture.current import current
    from celery_asynctask.capture.install import install, uninstall
    from celery_asynctask.capture.payload.redaction import SENSITIVE_NAMES
    from celery_asynctask.capture.task import RecordedTask
    from celery_asynctask.core.marks import is_whole
    from celery_asynctask.core.status import AsyncTaskStatus
    from celery_asynctask.errors import AsyncTaskError, ContextError, JournalError, SettingsError
    from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt, AsyncTaskSource, Base

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
    "AsyncTask": "store.models",
    "AsyncTaskAttempt": "store.models",
    "AsyncTaskSource": "store.models",
    "Base": "store.models",
    "AsyncTaskError": "errors",
    "ContextError": "errors",
    "JournalError": "errors",
    "SettingsError": "errors",
    "AsyncTaskStatus": "core.status",
    "RecordedTask": "capture.task",
    "SENSITIVE_NAMES": "capture.payload.redaction",
    "context": "capture.context",
    "current": "capture.current",
    "install": "capture.install",
    "is_whole": "core.marks",
    "uninstall": "capture.install",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
