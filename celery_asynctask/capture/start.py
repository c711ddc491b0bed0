"""The start of a run, from the app's loader: Celery calls its ``on_task_init`` after all receivers of task_prerun, in
every pool, for tasks of any class (celery/app/trace.py), so what is current then is what the body sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_asynctask.capture.celery_private import ON_TASK_INIT, build_tracers_again, on_task_init_of
from celery_asynctask.capture.run import on_task_init

if TYPE_CHECKING:
    from celery import Celery


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
    original = on_task_init_of(app)
    if original is not None:
        app.loader.__dict__[ON_TASK_INIT] = _TaskInit(original)
        build_tracers_again(app)


def unwrap(app: Celery) -> None:
    """Undo `wrap`."""
    if isinstance(app.loader.__dict__.get(ON_TASK_INIT), _TaskInit):
        del app.loader.__dict__[ON_TASK_INIT]
        build_tracers_again(app)
