"""The task class for Django projects: Celery's own `DjangoTask`, recorded.

Celery gives the tasks of a Django project ``delay_on_commit`` and ``apply_async_on_commit``, but only if no task class
is set. ``Celery("proj", task_cls="celery_asynctask.django:RecordedDjangoTask")`` provides both.
"""

from __future__ import annotations

from celery.contrib.django.task import DjangoTask

from celery_asynctask.capture.task import RecordedTask


class RecordedDjangoTask(RecordedTask, DjangoTask):
    """`RecordedTask` with ``delay_on_commit`` and ``apply_async_on_commit``."""

    abstract = True
