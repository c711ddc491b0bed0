"""Records every Celery execution as one true `AsyncTask` row in your SQL database.

Switch it on with ``Celery("proj", task_cls="celery_asynctask:RecordedTask")``. The names in ``__all__`` are public and
loaded on first use, so a process that only publishes does not import SQLAlchemy's ORM.

The parts of the package, each of which imports only parts listed before it (`tests/unit/test_architecture.py` has the
arrows):

* `core`: events, their fold into rows, keys, columns, and the ledger. No Celery, no SQLAlchemy.
* `journal`: the files on disk between the processes that record and the recorder.
* `store`: the tables, and the code that writes them. `migrations`: Alembic's migrations of the tables.
* `recorder`: drains the journal into the store; one runs on each node.
* `capture`: observes Celery in the user's processes; `capture.install` lists every hook.
* `queries`: reads the tables. `operations`: everything that changes something (rerun, purge, erase, import, upgrade),
  and `doctor`.
* `present`: sentences, symbols and drawings. `web`: the code that the API and the console share.
* `cli`, `console` and `http` (the API): the interfaces for people and programs.

Three paths through the code, file by file:

* A task is sent: `capture.publish` runs, `capture.extract` makes an event, `capture.instrumentation` hands it to
  `journal.writer`. When the task starts, `capture.start` takes the place of `capture.publish`, and when it ends,
  `capture.run`.
* Events become rows: `recorder.recorder`, `recorder.drain`, `store.store`, `store.fold`; and `core.fold` for databases
  that cannot read events themselves. The group of a column in `core.columns` decides which of two events wins, by a
  key that `core.keys` makes.
* A list is requested: `http.application`, `http.tasks`, `web.service`, `web.parameters`, `queries.search.page`,
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
    from celery_asynctask.capture.own_tracer import record_run
    from celery_asynctask.capture.payload.names import SENSITIVE_NAMES
    from celery_asynctask.capture.task import RecordedTask
    from celery_asynctask.core.marks import is_whole
    from celery_asynctask.core.status import AsyncTaskStatus
    from celery_asynctask.errors import AsyncTaskError, ContextError, JournalError, SettingsError
    from celery_asynctask.store.autogenerate import include_object
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
    "include_object",
    "install",
    "is_whole",
    "record_run",
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
    "SENSITIVE_NAMES": "capture.payload.names",
    "context": "capture.context",
    "current": "capture.current",
    "include_object": "store.autogenerate",
    "install": "capture.install",
    "is_whole": "core.marks",
    "record_run": "capture.own_tracer",
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
