"""`RecordedTask`: the task class that switches recording on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.app.task import Task

from celery_asynctask.capture.current import Note, current
from celery_asynctask.capture.install import install

if TYPE_CHECKING:
    from celery import Celery


class RecordedTask(Task):
    """Base class of recorded tasks.

    As an app's task class, ``Celery("proj", task_cls="celery_asynctask:RecordedTask")``, it records everything of
    that app: what it publishes, what its workers run, tasks with another base class and Celery's built-in ones too.
    As the base of single tasks, ``@app.task(base=RecordedTask)``, it records those alone.

    The attributes can be set on a class or given as options, ``@app.task(asynctask_record_args=False)``, on tasks of
    any class. There is no hook here: one of a task class that raises fails the task.
    """

    abstract = True

    asynctask_record = True
    """Whether tasks of this class are recorded at all."""
    asynctask_record_args = True
    """Whether ``task_args`` is filled; else it is null."""
    asynctask_record_kwargs = True
    """Whether ``task_kwargs`` is filled; else it is null."""
    asynctask_record_result = True
    """Whether ``result`` is filled; else it is null."""

    @property
    def asynctask(self) -> Note:
        """The running task's context and content, for a bound task: ``self.asynctask.progress(3, 10)``."""
        return current()

    @classmethod
    def bind(cls, app: Celery) -> Any:
        """Called by Celery when it binds a task of this class to an app: install on it first, for as soon as the task
        looks bound, other threads send it (Celery 5.7, ``app/task.py``: ``__bound__`` is set before ``on_bound``).

        Raises `celery_asynctask.errors.SettingsError` for a wrong setting, before anything runs.
        """
        install(app, whole_app=issubclass(app.Task, RecordedTask))
        return super().bind(app)
