"""`RecordedTask`: the task class that switches recording on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.app.task import Task

from celery_asynctask.capture.current import CurrentTask, current
from celery_asynctask.capture.install import attach

if TYPE_CHECKING:
    from celery import Celery


class RecordedTask(Task):
    """Base class of recorded tasks.

    As an app's task class, ``Celery("proj", task_cls="celery_asynctask:RecordedTask")``, it records all tasks of that
    app: those that it publishes and those that its workers run, including Celery's built-in tasks and tasks with
    another base class. As the base of single tasks, ``@app.task(base=RecordedTask)``, it records only those.

    The attributes can be set on a class, or given as options, ``@app.task(asynctask_record_args=False)``, to tasks of
    any class. The class overrides none of Celery's hooks: a hook that raises fails the task.
    """

    abstract = True

    asynctask_record = True
    """Whether tasks of this class are recorded at all."""
    asynctask_record_args = True
    """Whether positional arguments are recorded; else ``task_args`` is null."""
    asynctask_record_kwargs = True
    """Whether keyword arguments are recorded; else ``task_kwargs`` is null."""
    asynctask_record_result = True
    """Whether the result is recorded; else ``result`` is null."""

    @property
    def asynctask(self) -> CurrentTask:
        """The running task's context and content, for a bound task: ``self.asynctask.progress(3, 10)``."""
        return current()

    @classmethod
    def bind(cls, app: Celery) -> Any:
        """Called by Celery when it binds a task of this class to an app. Installs on the app first: other threads may
        send the task as soon as it looks bound (Celery 5.7, ``app/task.py``: ``__bound__`` is set before
        ``on_bound``). A task may be bound when it is sent first, so a wrong setting is not raised here.
        """
        attach(app, whole_app=issubclass(app.Task, RecordedTask))
        return super().bind(app)
