"""The start of a run, from the app's loader: Celery calls its ``on_task_init`` after all receivers of task_prerun, in
every pool, for tasks of any class (celery/app/trace.py), so what is current then is what the body sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.app.trace import build_tracer

from celery_asynctask.capture.run import on_task_init

if TYPE_CHECKING:
    from celery import Celery

_NAME = "on_task_init"


class _TaskInit:
    """Stands in for a loader's ``on_task_init``."""

    def __init__(self, original: Any) -> None:
        self.original = original

    def __call__(self, task_id: str, task: Any) -> Any:
        result = self.original(task_id, task)
        on_task_init(task_id, task)
        return result


def wrap(app: Celery) -> None:
    """Hear of every run of the app's tasks that starts from now on."""
    app.loader.__dict__[_NAME] = _TaskInit(app.loader.on_task_init)
    _trace_again(app)


def unwrap(app: Celery) -> None:
    """Undo `wrap`."""
    if isinstance(app.loader.__dict__.get(_NAME), _TaskInit):
        del app.loader.__dict__[_NAME]
        _trace_again(app)


def _trace_again(app: Celery) -> None:
    """A tracer that a running worker has built keeps the loader's method of that time: build it again."""
    for name, task in list(app._tasks.items()):
        if getattr(task, "__trace__", None) is not None:
            task.__trace__ = build_tracer(name, task, app.loader, app=app)
